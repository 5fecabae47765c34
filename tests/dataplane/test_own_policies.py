"""Own policies on both engines, from YAML: for all calls, and by a Filter of type Plugin for some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.authorities import Authority
from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab, mapping, snapshot, tls_port
from dataplane.own_policies import Ends, LateWords
from dataplane.raw_client import Answer
from dataplane.trial_policies import guarded
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.codes import Code
from grpcgw.model.filters import AppliedFilter, FilterRule, make_filter_policy
from grpcgw.model.plugins import PluginSettings, make_plugin

MAPPINGS = """
    name: greet
    service: pods
    ---
    name: other
    prefix: /other.Service/
    service: pods
"""
PLUGIN = """
    ---
    kind: Filter
    metadata: {name: own}
    spec: {Plugin: %s}
    ---
    kind: FilterPolicy
    metadata: {name: policy}
    spec:
      rules:
        - {path: "/test.Pod/*", filters: [{name: own}]}
"""
OTHER = "/other.Service/Any"


def own(name: str, **config: object) -> PluginSettings:
    return make_plugin(f"--policy {name}", f"dataplane.own_policies:{name}", config)


def call(lab: Lab, gateway: Gateway, do: str = "", method: str = "Unary") -> Answer:
    return lab.raw_client(gateway).call(method, *([("x-do", do)] if do else []))


# --- for all calls


def test_a_policy_for_all_calls_decides_on_every_mapping(lab: Lab) -> None:
    pod = lab.pod("pods", {"Any": lambda requests, _: iter(list(requests)), OTHER: lambda requests, _: iter([b"ok"])})
    gateway = configured(lab, MAPPINGS, own("Signs", value="a"), own("Words"), pods=pod)
    answer = call(lab, gateway)
    assert (answer.status, answer.header("x-signed")) == (Code.OK, "yes")
    call(lab, gateway, method=OTHER)
    assert [seen.values("x-signed") for seen in pod.calls] == [["a 1"], ["a 2"]], "one instance serves all Mappings"
    for method in ("Unary", OTHER):
        denied = call(lab, gateway, "deny", method)
        assert (denied.status, denied.message, denied.trailers_only) == (Code.ABORTED, "as you say", True)
        shown = [denied.header(name) for name in ("x-grpcgw-reason", "x-help", "grpc-retry-pushback-ms")]
        assert shown == ["said-so", "ask", "5"]
    assert len(pod.calls) == 2


def test_a_reload_keeps_what_a_policy_has_counted(lab: Lab) -> None:
    pod, signs = lab.pod(), own("Signs", value="a")
    gateway = configured(lab, MAPPINGS, signs, pods=pod)
    call(lab, gateway)
    gateway.apply(compile_yaml(MAPPINGS + "    timeout_ms: 9000\n", lab.engine, (signs,)).snapshot)
    call(lab, gateway)
    gateway.apply(compile_yaml(MAPPINGS, lab.engine, (own("Signs", value="b"),)).snapshot)
    call(lab, gateway)
    assert [seen.values("x-signed") for seen in pod.calls] == [["a 1"], ["a 2"], ["b 1"]]


@pytest.mark.parametrize("policy", ["Words", "LateWords"])
@pytest.mark.parametrize("defect", ["raise", "exit", "nothing"])
def test_a_defect_ends_the_call_with_internal_and_no_other(lab: Lab, policy: str, defect: str) -> None:
    pod = lab.pod()
    gateway = configured(lab, MAPPINGS, own(policy), pods=pod)
    answer = call(lab, gateway, defect)
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.INTERNAL, "policy-defect")
    assert "password" not in answer.message
    assert not pod.calls
    assert gateway.codes("/test.Pod/Unary") == {Code.INTERNAL: 1}
    assert call(lab, gateway).status == Code.OK


def test_a_check_that_hangs_meets_its_time_and_is_cancelled(lab: Lab) -> None:
    pod = lab.pod()
    LateWords.cancelled.clear()
    gateway = configured(lab, MAPPINGS, own("LateWords"), pods=pod)
    answer = call(lab, gateway, "hang")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.UNAVAILABLE, "policy-unavailable")
    assert "no answer within 200 ms" in answer.message
    assert LateWords.cancelled.wait(PATIENCE_S)
    assert not pod.calls
    assert call(lab, gateway).status == Code.OK


def test_a_client_that_cancels_cancels_the_check(lab: Lab) -> None:
    LateWords.reached.clear()
    LateWords.cancelled.clear()
    patient = make_plugin("--policy", "dataplane.own_policies:LateWords", {}, timeout_ms=60_000)
    gateway = configured(lab, MAPPINGS, patient, pods=lab.pod())
    waiting = lab.channel(gateway).unary_unary("/test.Pod/Unary").future(b"hi", metadata=(("x-do", "hang"),))
    assert LateWords.reached.wait(PATIENCE_S)
    waiting.cancel()
    assert LateWords.cancelled.wait(PATIENCE_S)
    eventually(lambda: not gateway.in_flight())


def test_a_policy_is_told_of_the_end_of_what_it_allowed(lab: Lab) -> None:
    Ends.ended.clear()
    gateway = configured(lab, MAPPINGS, own("Ends"), own("Words"), pods=lab.pod())
    call(lab, gateway)
    call(lab, gateway, "deny")
    eventually(lambda: Ends.ended == [("Unary", Code.OK), ("Unary", Code.ABORTED)], lambda: str(Ends.ended))


def test_a_policy_for_all_calls_that_cannot_be_used_refuses_all(lab: Lab) -> None:
    pod = lab.pod()
    gateway = configured(lab, MAPPINGS, own("Signs"), pods=pod)
    for method in ("Unary", OTHER):
        answer = call(lab, gateway, method=method)
        assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.UNAVAILABLE, "policy-not-built")
        assert "--policy Signs cannot be built: its configuration is not valid: value: Field required" in answer.message
    assert not pod.calls


# --- for some calls


def with_plugin(spec: str) -> str:
    return MAPPINGS + PLUGIN % spec


def test_a_filter_of_type_plugin_decides_on_the_calls_of_its_rule(lab: Lab) -> None:
    pod = lab.pod("pods", {OTHER: lambda requests, _: iter([b"ok"])})
    spec = '{name: "dataplane.own_policies:Signs", config: {key: x-own, value: b}}'
    gateway = configured(lab, with_plugin(spec), own("Ends"), pods=pod)
    assert call(lab, gateway).status == call(lab, gateway, method=OTHER).status == Code.OK
    assert [seen.values("x-own") for seen in pod.calls] == [["b 1"], []]


@pytest.mark.parametrize(("do", "code"), [("", Code.OK), ("deny", Code.ABORTED), ("raise", Code.INTERNAL)])
def test_a_filter_may_be_asynchronous(lab: Lab, do: str, code: Code) -> None:
    spec = '{name: "dataplane.own_policies:LateWords", timeout_ms: 30000}'
    assert call(lab, configured(lab, with_plugin(spec), pods=lab.pod()), do).status == code


def test_a_filter_that_hangs_meets_the_time_that_it_sets(lab: Lab) -> None:
    spec = '{name: "dataplane.own_policies:LateWords", timeout_ms: 50}'
    answer = call(lab, configured(lab, with_plugin(spec), pods=lab.pod()), "hang")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.UNAVAILABLE, "policy-unavailable")
    assert "within 50 ms" in answer.message


@pytest.mark.parametrize("spec", ['{name: "absent.module:X"}', "{name: an-entry-point-that-is-absent}"])
def test_a_filter_that_cannot_be_loaded_refuses_the_calls_that_need_it(lab: Lab, spec: str) -> None:
    pod = lab.pod("pods", {"Any": lambda requests, _: iter([b"ok"]), OTHER: lambda requests, _: iter([b"ok"])})
    gateway = configured(lab, with_plugin(spec).replace("/test.Pod/*", "/test.Pod/Un*"), pods=pod)
    answer = call(lab, gateway)
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.UNAVAILABLE, "policy-not-built")
    assert call(lab, gateway, method="Any").status == Code.OK
    assert call(lab, gateway, method=OTHER).status == Code.OK


# --- client certificates


@pytest.mark.parametrize("by_filter", [False, True])
def test_a_policy_sees_the_clients_certificate(lab: Lab, by_filter: bool) -> None:
    servers, clients, pod = Authority("servers"), Authority("clients"), lab.pod()
    policy = own("Certified")
    if by_filter:
        rule = FilterRule("policy", "*", "*", (AppliedFilter(0),))
        route = guarded(make_filter_policy("policy", (policy,), (rule,)))
        configuration = snapshot(route)
    else:
        configuration = replace(snapshot(mapping()), policies=(policy,))
    listener = tls_port(servers.certificate("localhost", client_ca=clients.pem))
    gateway = lab.gateway(pod, configuration=configuration, ports=(listener,))
    port = replace(listener, port=gateway.engine.ports.numbers()[0])
    me = servers.client(clients.sign("me", "spiffe://a.test/me"))
    lab.channel_to(port, me).unary_unary("/test.Pod/Unary")(b"x", timeout=PATIENCE_S)
    assert pod.calls[0].values("x-who") == ["spiffe://a.test/me"]
