"""Tokens on both engines: what pods, clients and the access log get, and how many different tokens fare."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace

import pytest

from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from dataplane.trial_policies import guarded
from dataplane.waiting import eventually
from grpcgw.model.codes import Code
from grpcgw.model.filters import AppliedFilter, FilterRule, HeaderCondition, make_filter_policy
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.match import HeaderMatch
from grpcgw.model.route import PolicySettings
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import RpcRecord
from tests.jwts import ISSUER, keys_of, make_signer

SIGNER = make_signer("ec", "ES256")
SETTINGS = JwtSettings(
    name="Filter jwt.default",
    keys=keys_of(SIGNER),
    realm="jwt.default",
    inject=(HeaderTemplate("x-user", "{{ .token.Claims.sub }}"),),
)
FORGED = ("x-user", "root")


def token(**more: object) -> tuple[str, str]:
    claims = {"iss": ISSUER, "sub": "ann", "exp": time.time() + 600, **more}
    return "authorization", f"Bearer {SIGNER.sign(claims)}"


def gateway_with(lab: Lab, *policies: PolicySettings) -> tuple[Gateway, Pod]:
    pod = lab.pod()
    gateway = lab.gateway(routes=[guarded(*policies)], clusters={"pods": (pod,)})
    gateway.wait_for_ready_pods(1)
    return gateway, pod


def test_pods_get_the_claims_and_not_what_clients_forge(lab: Lab) -> None:
    gateway, pod = gateway_with(lab, SETTINGS)
    assert lab.raw_client(gateway).call("Unary", token(), FORGED).status == Code.OK
    (seen,) = pod.calls
    assert seen.values("x-user") == ["ann"]


def test_a_refused_call_has_the_challenge_in_its_trailers_and_reaches_no_pod(lab: Lab) -> None:
    gateway, pod = gateway_with(lab, replace(SETTINGS, audiences=("greet",)))
    client = lab.raw_client(gateway)
    missing = client.call("Unary")
    assert (missing.status, missing.header("x-grpcgw-reason")) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert missing.header("www-authenticate") == 'Bearer realm="jwt.default"'
    expired = client.call("Unary", token(exp=time.time() - 1))
    assert (expired.status, "expired" in expired.header("grpc-message")) == (Code.UNAUTHENTICATED, True)
    assert expired.header("www-authenticate") == 'Bearer realm="jwt.default", error="invalid_token"'
    other = client.call("Unary", token(aud="other"))
    assert (other.status, other.header("x-grpcgw-reason")) == (Code.PERMISSION_DENIED, "forbidden")
    assert not pod.calls


def test_the_access_log_has_who_called(lab: Lab) -> None:
    records: list[RpcRecord] = []
    gateway, _ = gateway_with(lab, SETTINGS)
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    gateway.route(guarded(SETTINGS))
    assert lab.raw_client(gateway).call("Unary", token()).status == Code.OK
    eventually(lambda: bool(records), "the record")
    assert records[0].facts == {"identity": "ann", "token-issuer": ISSUER}


@pytest.mark.parametrize(
    ("applied", "given"),
    [
        (AppliedFilter(0, HeaderCondition(HeaderMatch("authorization"))), ()),
        (AppliedFilter(0, breaks_on_deny=False), (("authorization", "Bearer wrong"),)),
        (AppliedFilter(0, breaks_on_deny=False), ()),
    ],
    ids=["not applied", "denied", "without a token"],
)
def test_where_the_filter_does_not_decide_a_forged_identity_is_removed_too(
    lab: Lab, applied: AppliedFilter, given: tuple[tuple[str, str], ...]
) -> None:
    rules = (FilterRule("FilterPolicy p.default", "*", "*", (applied,)),)
    gateway, pod = gateway_with(lab, make_filter_policy("FilterPolicy p.default", (SETTINGS,), rules))
    assert lab.raw_client(gateway).call("Unary", *given, FORGED).status == Code.OK
    (seen,) = pod.calls
    assert seen.values("x-user") == []


@pytest.mark.parametrize(
    ("applied", "given", "gets"),
    [
        (AppliedFilter(0), token(exp=4e9), ["Basic ann"]),
        (AppliedFilter(0, HeaderCondition(HeaderMatch("x-none"))), ("authorization", "Basic root"), []),
        (AppliedFilter(0, breaks_on_deny=False), ("authorization", "Basic root"), []),
    ],
    ids=["allowed", "not applied", "denied"],
)
def test_the_header_of_the_token_may_be_set_for_the_pod(
    lab: Lab, applied: AppliedFilter, given: tuple[str, str], gets: list[str]
) -> None:
    """Pods get it only from the Filter, which reads the client's own."""
    settings = replace(SETTINGS, inject=(HeaderTemplate("authorization", "Basic {{ .token.Claims.sub }}"),))
    rules = (FilterRule("FilterPolicy p.default", "*", "*", (applied,)),)
    gateway, pod = gateway_with(lab, make_filter_policy("FilterPolicy p.default", (settings,), rules))
    assert lab.raw_client(gateway).call("Unary", given).status == Code.OK
    (seen,) = pod.calls
    assert seen.values("authorization") == gets


def test_a_call_whose_key_is_new_waits_until_the_gateway_has_it(lab: Lab) -> None:
    new, settings = make_signer("new", "ES256"), replace(SETTINGS, key_set="0123")
    gateway, _ = gateway_with(lab, settings)
    fetched = threading.Event()

    def fetch() -> None:
        gateway.route(guarded(replace(settings, keys=keys_of(SIGNER, new))))
        fetched.set()

    async def sleep(_: float) -> None:
        await asyncio.to_thread(fetched.wait)

    fetching = threading.Thread(target=fetch)
    gateway.serving.policy_services.key_requests.connect(lambda _: fetching.start(), sleep)
    signed = new.sign({"iss": ISSUER, "sub": "ann", "exp": time.time() + 600})
    assert lab.raw_client(gateway).call("Unary", ("authorization", f"Bearer {signed}")).status == Code.OK
    fetching.join()


def test_a_call_whose_key_never_comes_is_refused_as_one_that_does_not_wait(lab: Lab) -> None:
    gateway, pod = gateway_with(lab, replace(SETTINGS, key_set="0123"))
    gateway.serving.policy_services.key_requests.connect(lambda _: None, lambda _: asyncio.sleep(0))
    signed = make_signer("new", "ES256").sign({"iss": ISSUER, "exp": time.time() + 600})
    answer = lab.raw_client(gateway).call("Unary", ("authorization", f"Bearer {signed}"))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert "its key (kid) is unknown" in answer.message
    assert not pod.calls


def test_many_different_tokens_are_served_and_refused(lab: Lab) -> None:
    gateway, _ = gateway_with(lab, SETTINGS)
    client = lab.raw_client(gateway)
    for index in range(50):
        name, good = token(jti=str(index))
        assert client.call("Unary", (name, good)).status == Code.OK
        assert client.call("Unary", (name, good[:-4])).status == Code.UNAUTHENTICATED
        assert client.call("Unary", (name, good)).status == Code.OK
