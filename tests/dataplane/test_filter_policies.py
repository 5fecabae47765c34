"""Filters and FilterPolicies as operators write them, on both engines: API keys, rules, broken Filters."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab, on_grpc_core, on_http2
from dataplane.pods import Behaviour, Context, Pod
from grpcgw.model.codes import Code
from grpcgw.model.objects import Severity
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckRequest, CheckResponse

CHECK = "/envoy.service.auth.v3.Authorization/Check"

KEYS = """
    name: greet
    service: pods
    ---
    apiVersion: v1
    kind: Secret
    metadata: {name: keys}
    stringData: {ann: key-of-ann, bob: key-of-bob}
    ---
    kind: Filter
    metadata: {name: keys}
    spec: {APIKey: {keys: [{secretName: keys}]}}
    ---
"""
GUARDED = (
    KEYS
    + """
    kind: FilterPolicy
    metadata: {name: policy}
    spec:
      rules:
        - {path: /test.Pod/Open}
        - {host: "*", path: "/test.Pod/*", filters: [{name: keys}]}
"""
)


def how_it_ends(lab: Lab, gateway: Gateway, *metadata: tuple[str, str], method: str = "Unary") -> tuple[int, str]:
    answer = lab.raw_client(gateway).call(method, *metadata)
    return answer.status, answer.header("x-grpcgw-reason") or ""


def test_who_has_a_key_passes_and_the_pod_does_not_get_it(lab: Lab) -> None:
    pod = lab.pod()
    gateway = configured(lab, GUARDED, pods=pod)
    assert how_it_ends(lab, gateway) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-eve")) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert not pod.calls
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann"), ("x-tenant", "a")) == (Code.OK, "")
    (seen,) = pod.calls
    assert (seen.values("x-api-key"), seen.values("x-tenant")) == ([], ["a"])


def test_a_rule_without_filters_lets_calls_pass(lab: Lab) -> None:
    gateway = configured(lab, GUARDED, pods=lab.pod("pods", {"Open": lambda requests, _: iter(list(requests))}))
    assert how_it_ends(lab, gateway, method="Open") == (Code.OK, "")


def test_filters_in_order_with_conditions_that_see_earlier_changes(lab: Lab) -> None:
    """Either of two headers may have the key; the second Filter is left out where the first one took its header."""
    text = (
        KEYS
        + """
    kind: Filter
    metadata: {name: others}
    spec: {APIKey: {httpHeader: x-other-key, keys: [{secretName: keys}]}}
    ---
    kind: FilterPolicy
    metadata: {name: policy}
    spec:
      rules:
        - filters:
            - {name: keys, onDeny: continue, onAllow: break}
            - {name: others, ifRequestHeader: {name: x-none, negate: true}}
"""
    )
    pod = lab.pod()
    gateway = configured(lab, text, pods=pod)
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann")) == (Code.OK, "")
    assert how_it_ends(lab, gateway, ("x-api-key", "wrong"), ("x-other-key", "key-of-bob")) == (Code.OK, "")
    assert how_it_ends(lab, gateway, ("x-api-key", "wrong"), ("x-none", "1")) == (Code.OK, "")
    assert how_it_ends(lab, gateway, ("x-api-key", "wrong")) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert len(pod.calls) == 3


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("{APIKey: {keys: [{secretName: absent}]}}", "none of its Secrets has a key"),
        ("{OAuth2: {authorizationURL: 'https://a.example', clientID: me}}", "by a Filter of type JWT"),
    ],
    ids=["API keys", "OAuth2"],
)
def test_a_broken_filter_refuses_the_calls_that_need_it_and_the_others_are_served(
    lab: Lab, spec: str, problem: str
) -> None:
    compiled = compile_yaml(GUARDED.replace("{APIKey: {keys: [{secretName: keys}]}}", spec), lab.engine)
    assert any(problem in str(one) for one in compiled.problems)
    (cluster,) = compiled.snapshot.clusters
    pod = lab.pod("pods", {"Open": lambda requests, _: iter(list(requests))})
    gateway = lab.gateway(configuration=compiled.snapshot, clusters={cluster: (pod,)})
    gateway.wait_for_ready_pods(1)
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann")) == (Code.UNAVAILABLE, "not-enforced")
    assert how_it_ends(lab, gateway, method="Open") == (Code.OK, "")


def test_keys_that_change_are_in_force_with_the_next_configuration(lab: Lab) -> None:
    gateway = configured(lab, GUARDED, pods=lab.pod())
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann")) == (Code.OK, "")
    gateway.apply(compile_yaml(GUARDED.replace("key-of-ann", "key-2-of-ann"), lab.engine).snapshot)
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann")) == (Code.UNAUTHENTICATED, "unauthenticated")
    assert how_it_ends(lab, gateway, ("x-api-key", "key-2-of-ann")) == (Code.OK, "")
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-bob")) == (Code.OK, "")


BY_HOST = (
    KEYS
    + """
    kind: FilterPolicy
    metadata: {name: policy}
    spec: {rules: [{host: shut.test, filters: [{name: keys}]}]}
"""
)


@on_http2
@pytest.mark.parametrize("authority", ["shut.test", "SHUT.test:8443"])
def test_a_rule_is_for_a_host_whatever_its_case_and_port(lab: Lab, authority: str) -> None:
    gateway = configured(lab, BY_HOST, pods=lab.pod())
    assert lab.raw_client(gateway).call("Unary", authority=authority).status == Code.UNAUTHENTICATED
    assert lab.raw_client(gateway).call("Unary", authority="open.test").status == Code.OK


@on_grpc_core
def test_an_engine_that_hides_the_host_refuses_the_calls_of_a_rule_for_one(lab: Lab) -> None:
    errors = [one for one in compile_yaml(BY_HOST, lab.engine).problems if one.severity is Severity.ERROR]
    assert ["FilterPolicy policy.default" in str(one) for one in errors] == [True]
    pod: Pod = lab.pod()
    gateway = configured(lab, BY_HOST, pods=pod)
    assert how_it_ends(lab, gateway, ("x-api-key", "key-of-ann")) == (Code.UNAVAILABLE, "not-enforced")
    assert not pod.calls


# --- External


def decide(name: str) -> Behaviour:
    """A service that denies a call with the header `x-<name>: no`, reports an error of its own for `broken`, and tells
    the pod that it allowed."""

    def check(requests: Iterator[bytes], _: Context) -> Iterator[bytes]:
        asked = CheckRequest.FromString(next(requests))
        headers = asked.attributes.request.http.headers
        answer = CheckResponse()
        if headers.get(f"x-{name}") == "no":
            answer.status.code = Code.PERMISSION_DENIED
            answer.denied_response.status.code = 403
        elif headers.get(f"x-{name}") == "broken":
            answer.error_response.status.code = 503
        else:
            added = answer.ok_response.headers.add()
            added.header.key, added.header.value = "x-by", ",".join(filter(None, [headers.get("x-by"), name]))
        yield answer.SerializeToString()

    return check


def test_filters_ask_services_of_their_own_one_after_the_other(lab: Lab) -> None:
    text = """
        name: greet
        service: pods
        ---
        kind: Filter
        metadata: {name: first}
        spec: {External: {auth_service: first, proto: grpc, protocol_version: v3}}
        ---
        kind: Filter
        metadata: {name: second}
        spec: {External: {auth_service: second, proto: grpc, protocol_version: v3}}
        ---
        kind: FilterPolicy
        metadata: {name: policy}
        spec: {rules: [{filters: [{name: first}, {name: second, ifRequestHeader: {name: x-by, value: first}}]}]}
    """
    services = {name: lab.pod(name, {CHECK: decide(name)}) for name in ("first", "second")}
    pod = lab.pod()
    gateway = configured(lab, text, pods=pod, **services)
    assert how_it_ends(lab, gateway) == (Code.OK, "")
    (seen,) = pod.calls
    assert seen.values("x-by") == ["first,second"]
    assert how_it_ends(lab, gateway, ("x-first", "no"))[0] == Code.PERMISSION_DENIED
    assert [len(one.calls) for one in services.values()] == [2, 1]
    assert how_it_ends(lab, gateway, ("x-second", "no"))[0] == Code.PERMISSION_DENIED
    assert [len(one.calls) for one in services.values()] == [3, 2]
    assert len(pod.calls) == 1


def test_a_service_that_fails_or_is_away_ends_the_call_whatever_on_deny_says(lab: Lab) -> None:
    text = """
        name: greet
        service: pods
        ---
        kind: Filter
        metadata: {name: first}
        spec: {External: {auth_service: first, proto: grpc, protocol_version: v3, timeout_ms: 300}}
        ---
        kind: FilterPolicy
        metadata: {name: policy}
        spec: {rules: [{filters: [{name: first, onDeny: continue}]}]}
    """
    pod, service = lab.pod(), lab.pod("first", {CHECK: decide("first")})
    gateway = configured(lab, text, pods=pod, first=service)
    assert how_it_ends(lab, gateway, ("x-first", "no")) == (Code.OK, "")
    assert how_it_ends(lab, gateway, ("x-first", "broken")) == (Code.UNAVAILABLE, "policy-unavailable")
    service.stop()
    assert how_it_ends(lab, gateway) == (Code.UNAVAILABLE, "policy-unavailable")
    assert len(pod.calls) == 1
