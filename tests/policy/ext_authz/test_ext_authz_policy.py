"""External authorization as a policy: what it asks, when it waits for a message, what it keeps, and how it fails."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grpcgw.listeners.open_ports import PortView
from grpcgw.model.codes import Code
from grpcgw.model.ext_authz import AnswerCaching, AuthProtocol, ExtAuthzSettings, IncludedMessage
from grpcgw.model.hidden_text import HiddenText
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, WeightedCluster
from grpcgw.policy.chain import FAILED_OPEN
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.contract import (
    Answer,
    FailMode,
    FirstMessage,
    HttpCall,
    MessageStart,
    PolicyRequest,
    UnaryRpc,
    Verdict,
    Wait,
)
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckRequest, CheckResponse, Status
from grpcgw.policy.ext_authz.ext_authz_policy import ExtAuthz
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from grpcgw.session.forwarding import forward_request

KEY = ObjectKey("Mapping", "default", "greet")
SERVICES = tuple(Destination(ObjectKey("AuthService", "default", n), (WeightedCluster(n),)) for n in ("one", "two"))
SETTINGS = ExtAuthzSettings(name="AuthService one.default", upstreams=SERVICES[:1])
YES = CheckResponse(status=Status(code=0)).SerializeToString()
NO = CheckResponse(status=Status(code=7)).SerializeToString()
CACHED = replace(SETTINGS, caching=AnswerCaching(("authorization",), 1000, 2))


def request(*metadata: tuple[str, str | bytes], path: str = "/a.S/M", now_s: float = 0.0) -> PolicyRequest:
    made = Request(path, "greet.test", metadata, None, Peer("10.0.0.9", 5123), 1_700_000_000.25)
    return PolicyRequest(made, KEY, metadata, now_s=now_s)


def policy(settings: ExtAuthzSettings = SETTINGS, services: PolicyServices | None = None) -> ExtAuthz:
    return ExtAuthz(KEY, settings, services or PolicyServices())


def rpc_of(verdict: Verdict) -> UnaryRpc:
    assert isinstance(verdict, Wait)
    assert isinstance(verdict.work, UnaryRpc)
    return verdict.work


def question(verdict: Verdict) -> CheckRequest:
    return CheckRequest.FromString(rpc_of(verdict).message)


def answered(verdict: Verdict, message: bytes) -> Allow | Deny:
    return rpc_of(verdict).judge(Answer(message, (), ()))


# --- the question


def test_the_question_has_what_envoy_asks() -> None:
    asked = policy(replace(SETTINGS, context_extensions=(("tier", "gold"),))).check(
        request(("x-a", "1"), ("x-a", "2"), ("b-bin", b"\0\1"), ("x-request-id", "r1"), ("te", "trailers"))
    )
    assert rpc_of(asked).path == "/envoy.service.auth.v3.Authorization/Check"
    attributes = question(asked).attributes
    http = attributes.request.http
    assert attributes.source.address.socket_address.address == "10.0.0.9"
    assert attributes.source.address.socket_address.port_value == 5123
    assert (attributes.request.time.seconds, attributes.request.time.nanos) == (1_700_000_000, 250_000_000)
    assert dict(attributes.context_extensions) == {"tier": "gold"}
    assert (http.method, http.path, http.host, http.scheme) == ("POST", "/a.S/M", "greet.test", "http")
    assert (http.protocol, http.id) == ("HTTP/2", "r1")
    assert dict(http.headers) == {
        ":method": "POST",
        ":path": "/a.S/M",
        ":authority": "greet.test",
        ":scheme": "http",
        "x-a": "1,2",
        "b-bin": "AAE",
        "x-request-id": "r1",
        "te": "trailers",
        "x-forwarded-for": "10.0.0.9",
        "x-forwarded-proto": "http",
    }


def test_what_the_gateway_vouches_for_is_not_the_clients() -> None:
    asked = request(
        ("x-forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https"), ("x-forwarded-client-cert", "Hash=1")
    )
    headers = question(policy().check(asked)).attributes.request.http.headers
    assert headers["x-forwarded-for"] == "1.2.3.4,10.0.0.9"
    assert headers["x-forwarded-proto"] == "http"
    assert "x-forwarded-client-cert" not in headers


def test_the_certificate_of_the_client_is_its_principal() -> None:
    asked = request()
    asked.request.port = PortView(tls=True)
    asked.request.certificate = ClientCertificate(b"", b"", "CN=ann", ("spiffe://a/b",), ("ann.test",))
    attributes = question(policy().check(asked)).attributes
    assert (attributes.source.principal, attributes.request.http.scheme) == ("spiffe://a/b", "https")


def test_the_address_that_the_client_connected_to_is_the_destination() -> None:
    asked = request()
    assert not question(policy().check(asked)).attributes.HasField("destination"), "the engine does not know it"
    asked.request.peer.dialled = ("10.0.0.1", 8443)
    where = question(policy().check(asked)).attributes.destination.address.socket_address
    assert (where.address, where.port_value) == ("10.0.0.1", 8443)


@pytest.mark.parametrize(("address", "given"), [("10.0.0.9", ()), ("8.8.8.8", (("x-request-id", "mine"),))])
def test_the_service_gets_the_id_that_the_pod_will_get(address: str, given: Metadata) -> None:
    """Also where what RPCs have in common is known already."""
    ids = []
    for _ in range(2):
        asked = request(*given)
        asked.request.peer = Peer(address, 5123)
        http = question(policy().check(asked)).attributes.request.http
        assert http.id == http.headers["x-request-id"] == asked.request.own_id
        assert dict(forward_request(given, asked.request.peer, False, asked.request.own_id))["x-request-id"] == http.id
        ids.append(http.id)
    assert len({*ids, "", "mine"}) == 4


def test_of_several_ids_of_an_internal_client_the_first_counts() -> None:
    http = question(policy().check(request(("x-request-id", "r1"), ("x-request-id", "r2")))).attributes.request.http
    assert (http.id, http.headers["x-request-id"]) == ("r1", "r1")


def test_over_http_a_service_gets_the_id_where_it_asks_for_it() -> None:
    over_http = replace(SETTINGS, protocol=AuthProtocol.HTTP)
    for settings, given in ((over_http, False), (replace(over_http, allowed_request_headers=("x-request-id",)), True)):
        asked = request()
        waiting = policy(settings).check(asked)
        assert isinstance(waiting, Wait)
        assert isinstance(waiting.work, HttpCall)
        assert dict(waiting.work.headers).get("x-request-id", "") == asked.request.own_id
        assert bool(asked.request.own_id) is given


def test_any_bytes_of_a_client_can_be_asked_about() -> None:
    asked = request(("x-a", "caf\xe9"), ("x-b", "\udc80"))
    headers = question(policy().check(asked)).attributes.request.http.headers
    assert (headers["x-a"], headers["x-b"]) == ("caf?", "?")


def test_questions_with_equal_metadata_differ_where_their_rpcs_do() -> None:
    """What such RPCs have in common is written once."""
    chosen, metadata = policy(), (("x-a", "1"), ("x-request-id", "r1"))
    first = question(chosen.check(request(*metadata)))
    assert question(chosen.check(request(*metadata))) == first
    other = request(*metadata)
    other.request.received_at_s = 1_700_000_001.5
    other.request.peer = Peer("10.0.0.9", 5124)
    attributes = question(chosen.check(other)).attributes
    assert (attributes.request.time.seconds, attributes.request.time.nanos) == (1_700_000_001, 500_000_000)
    assert attributes.source.address.socket_address.port_value == 5124
    assert attributes.request.http == first.attributes.request.http
    changed = [request(*metadata) for _ in range(7)]
    changed[0].request.path = "/a.S/N"
    changed[1].request.authority = "other.test"
    changed[2].request.port = PortView(tls=True)
    changed[3].metadata = (("x-a", "2"),)
    changed[4].first_message = MessageStart(b"\0\0\0\0\0", True)
    changed[5].request.peer.hop = ""
    changed[6].request.peer.certificate = "Hash=1"
    for one in changed:
        assert question(chosen.check(one)).attributes.request.http != first.attributes.request.http
    trusted, sent = request(("x-forwarded-proto", "https")), request(("x-forwarded-proto", "https"))
    trusted.request.peer.keeps_proto = True
    kept = [question(chosen.check(one)).attributes.request.http.headers["x-forwarded-proto"] for one in (sent, trusted)]
    assert kept == ["http", "https"]


def test_several_services_take_turns() -> None:
    chosen = policy(replace(SETTINGS, upstreams=SERVICES))
    assert [rpc_of(chosen.check(request())).upstream for _ in range(4)] == [0, 1, 0, 1]


# --- the first message


def test_a_service_that_looks_at_the_message_waits_for_it() -> None:
    chosen = policy(replace(SETTINGS, message=IncludedMessage(8)))
    asked = request()
    waits = chosen.check(asked)
    assert isinstance(waits, Wait)
    assert waits.work == FirstMessage(8)
    assert waits.then is not None
    asked.first_message = MessageStart(b"\0\0\0\0\3abc", True)
    http = question(waits.then(ALLOW)).attributes.request.http
    assert (http.raw_body, http.size) == (b"\0\0\0\0\3abc", 8)
    assert http.headers["x-envoy-auth-partial-body"] == "false"


@pytest.mark.parametrize("allow_partial", [True, False])
def test_a_longer_message_is_cut_or_refused(allow_partial: bool) -> None:
    asked = request()
    waits = policy(replace(SETTINGS, message=IncludedMessage(6, allow_partial))).check(asked)
    assert isinstance(waits, Wait)
    assert waits.then is not None
    asked.first_message = MessageStart(b"\0\0\0\0\3a", False)
    verdict = waits.then(ALLOW)
    if allow_partial:
        assert question(verdict).attributes.request.http.headers["x-envoy-auth-partial-body"] == "true"
    else:
        assert isinstance(verdict, Deny)
        assert verdict.status().code == Code.RESOURCE_EXHAUSTED


def test_a_client_that_sends_no_message_is_refused() -> None:
    waits = policy(replace(SETTINGS, message=IncludedMessage(6), failure_mode_allow=True)).check(request())
    assert isinstance(waits, Wait)
    assert waits.then is not None
    assert waits.fail_mode is FailMode.CLOSED
    refused = waits.then(Deny("policy-unavailable", "no message"))
    assert isinstance(refused, Deny)
    assert refused.status().code == Code.DEADLINE_EXCEEDED


# --- failures


def test_how_it_fails_is_the_operators_to_say() -> None:
    waits = policy(replace(SETTINGS, timeout_ms=250, failure_mode_allow=True, code_on_error=7)).check(request())
    assert isinstance(waits, Wait)
    assert (waits.timeout_s, waits.fail_mode, waits.closed_code) == (0.25, FailMode.OPEN, Code.PERMISSION_DENIED)
    waits = policy().check(request())
    assert isinstance(waits, Wait)
    assert (waits.timeout_s, waits.fail_mode, waits.closed_code) == (5.0, FailMode.CLOSED, Code.UNAVAILABLE)


@pytest.mark.parametrize("fails_open", [True, False])
def test_an_answer_without_sense_refuses_in_either_mode(fails_open: bool) -> None:
    verdict = answered(policy(replace(SETTINGS, failure_mode_allow=fails_open)).check(request()), b"")
    assert isinstance(verdict, Deny)
    assert (verdict.reason, verdict.status().code) == ("policy-unavailable", Code.UNAVAILABLE)
    assert "its answer is empty" in verdict.message


def test_an_error_that_the_service_reports_is_a_failure() -> None:
    message = b"\x2a\x05\x0a\x03\x08\xf7\x03"  # error_response { status { code: 503 } }
    verdict = answered(policy().check(request()), message)
    assert isinstance(verdict, Deny)
    assert (verdict.reason, verdict.status().code) == ("policy-unavailable", Code.UNAVAILABLE)
    verdict = answered(policy(replace(SETTINGS, failure_mode_allow=True)).check(request()), message)
    assert verdict == Allow(facts=((FAILED_OPEN, SETTINGS.name),))


# --- answers that are kept


def test_an_answer_is_kept_for_a_time_by_the_chosen_headers() -> None:
    chosen, ann = policy(CACHED), ("authorization", "ann")
    assert answered(chosen.check(request(ann)), YES) == Allow()
    assert chosen.check(request(ann, ("x-other", "1"), now_s=0.9)) == Allow()
    for other in (request(), request(("authorization", "bob")), request(ann, path="/a.S/N"), request(ann, ann)):
        assert isinstance(chosen.check(other), Wait)
    assert isinstance(chosen.check(request(ann, now_s=1.1)), Wait)


def test_denials_are_kept_and_failures_are_not() -> None:
    chosen = policy(CACHED)
    answered(chosen.check(request(path="/a.S/A")), b"")
    answered(chosen.check(request(path="/a.S/B")), NO)
    assert isinstance(chosen.check(request(path="/a.S/A")), Wait)
    assert isinstance(chosen.check(request(path="/a.S/B")), Deny)


def test_only_so_many_answers_are_kept() -> None:
    chosen = policy(CACHED)
    for number in range(1000):
        answered(chosen.check(request(("authorization", str(number)))), YES)
    kept = [one for one in range(1000) if isinstance(chosen.check(request(("authorization", str(one)))), Allow)]
    assert kept == [998, 999]


def test_a_reload_keeps_the_answers_and_other_settings_do_not() -> None:
    services = PolicyServices()
    before = policy(CACHED, services)
    answered(before.check(request()), YES)
    assert policy(CACHED, services).check(request()) == Allow()
    assert isinstance(policy(replace(CACHED, name="AuthService new.default"), services).check(request()), Wait)


def test_values_that_run_together_are_different_questions() -> None:
    chosen = policy(replace(CACHED, caching=AnswerCaching(("a", "b"), 1000)))
    answered(chosen.check(request(("a", "1:x"), ("b", ""))), YES)
    assert isinstance(chosen.check(request(("a", "1"), ("b", "x"))), Wait)
    assert isinstance(chosen.check(request(("a", "1:x"))), Wait)


def test_clients_with_different_certificates_or_addresses_do_not_share_an_answer() -> None:
    """Also where the header that is listed is one that the gateway sets."""
    chosen = policy(replace(CACHED, caching=AnswerCaching(("x-forwarded-for", "x-forwarded-client-cert"), 1000)))
    answered(chosen.check(shown_by("ann")), YES)
    assert chosen.check(shown_by("ann")) == Allow()
    assert isinstance(chosen.check(shown_by("bob")), Wait)
    assert isinstance(chosen.check(shown_by("")), Wait)
    answered(chosen.check(request()), YES)
    elsewhere = request()
    elsewhere.request.peer = Peer("10.0.0.10", 5123)
    assert isinstance(chosen.check(elsewhere), Wait)


def test_the_certificate_counts_where_no_header_of_it_is_listed() -> None:
    chosen = policy(CACHED)
    answered(chosen.check(shown_by("ann")), YES)
    assert isinstance(chosen.check(shown_by("bob")), Wait)


def shown_by(name: str) -> PolicyRequest:
    made = request()
    made.request.certificate = ClientCertificate(b"", b"", f"CN={name}", (), ()) if name else None
    return made


def test_other_context_extensions_are_another_question() -> None:
    services = PolicyServices()
    gold, open_to_all = [replace(CACHED, context_extensions=(("tier", tier),)) for tier in ("gold", "open")]
    kept = policy(open_to_all, services)
    answered(kept.check(request()), YES)
    assert kept.check(request()) == Allow()
    assert isinstance(policy(gold, services).check(request()), Wait)


@pytest.mark.parametrize("changed", [{"path_prefix": "/strict"}, {"added_metadata": (("x-realm", "b"),)}])
def test_answers_are_not_kept_when_the_service_is_asked_in_another_way(changed: dict[str, Any]) -> None:
    services = PolicyServices()
    before = policy(CACHED, services)
    answered(before.check(request()), YES)
    assert before.check(request()) == Allow()
    assert isinstance(policy(replace(CACHED, **changed), services).check(request()), Wait)


# --- the question over HTTP


def http_headers(settings: ExtAuthzSettings, *metadata: tuple[str, str]) -> list[tuple[str, str]]:
    verdict = policy(replace(settings, protocol=AuthProtocol.HTTP)).check(request(*metadata))
    assert isinstance(verdict, Wait)
    assert isinstance(verdict.work, HttpCall)
    return list(verdict.work.headers)


def test_what_the_operator_adds_replaces_what_the_client_sends() -> None:
    settings = replace(SETTINGS, added_metadata=(("authorization", HiddenText("gateway")),))
    assert [value for key, value in http_headers(settings, ("authorization", "mallory")) if key == "authorization"] == [
        "gateway"
    ]


def test_headers_of_the_clients_connection_are_not_passed_on() -> None:
    names = ("content-length", "transfer-encoding", "expect", "host", "x-a")
    settings = replace(SETTINGS, allowed_request_headers=names)
    sent = http_headers(settings, *[(name, "7") for name in names])
    assert sent == [("host", "greet.test"), ("x-a", "7"), *sent[2:]]
    assert {key for key, _ in sent[2:]} == {"x-forwarded-for", "x-forwarded-proto"}


def test_cookies_are_joined_as_cookies() -> None:
    assert ("cookie", "a=1; b=2") in http_headers(SETTINGS, ("cookie", "a=1"), ("cookie", "b=2"))


def test_no_client_says_that_a_message_was_cut() -> None:
    headers = question(policy().check(request(("x-envoy-auth-partial-body", "true")))).attributes.request.http.headers
    assert "x-envoy-auth-partial-body" not in headers
