"""The Module's rules on clients, from its YAML to the RPCs of real clients, on both engines."""

from __future__ import annotations

import time

import pytest

from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab
from dataplane.raw_client import Answer
from dataplane.scripted_pod import Header

MAPPING = "{name: m, service: pods}"


def ruled(lab: Lab, config: str) -> Gateway:
    """A gateway with this Module, and one pod that tells what came to it."""
    text = f"{{kind: Module, name: ambassador, config: {config}}}\n---\n{MAPPING}"
    snapshot = compile_yaml(text, lab.engine).snapshot
    (cluster,) = snapshot.clusters
    gateway = lab.gateway(routes=[], clusters={})
    gateway.serving.apply(snapshot, time.monotonic())
    gateway.set_pods(lab.pod("a"), cluster=cluster)
    gateway.wait_for_ready_pods(1)
    return gateway


def call(lab: Lab, gateway: Gateway, *metadata: Header, path: str = "Unary") -> Answer:
    return lab.raw_client(gateway).call(path, *metadata)


@pytest.mark.parametrize(
    ("config", "served"),
    [
        ("{ip_allow: [{remote: 127.0.0.0/8}]}", True),
        ("{ip_allow: [{peer: 10.0.0.0/8}]}", False),
        ("{ip_deny: [{peer: 127.0.0.1}]}", False),
        ("{ip_deny: [{remote: 10.0.0.0/8}]}", True),
        ("{ip_deny: [{remote: 10.0.0.0/8}], xff_num_trusted_hops: 1}", False),
        ("{ip_allow: [{remote: 10.0.0.0/8}], use_remote_address: false}", True),
    ],
)
def test_clients_are_served_by_their_address(lab: Lab, config: str, served: bool) -> None:
    answer = call(lab, ruled(lab, config), ("x-forwarded-for", "10.1.2.3"))
    assert answer.status == (0 if served else 7)
    assert answer.header("x-grpcgw-reason") == (None if served else "client-address")


def test_the_gateways_own_services_are_not_for_them_either(lab: Lab) -> None:
    gateway = ruled(lab, "{ip_deny: [{remote: 127.0.0.0/8}]}")
    assert call(lab, gateway, path="/grpc.health.v1.Health/Check").status == 7


def test_rules_change_with_the_module_while_a_connection_stays(lab: Lab) -> None:
    gateway = ruled(lab, "{ip_deny: [{remote: 127.0.0.0/8}]}")
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == 7
    gateway.serving.apply(compile_yaml(MAPPING, lab.engine).snapshot, time.monotonic())
    assert client.call("Unary").status == 0


def test_underscores_are_rejected_or_dropped(lab: Lab) -> None:
    rejecting = ruled(lab, "{headers_with_underscores_action: REJECT_REQUEST}")
    answer = call(lab, rejecting, ("x_a", "1"))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (3, "underscore")
    assert call(lab, rejecting, ("x-a", "1")).status == 0
    assert call(lab, ruled(lab, "{headers_with_underscores_action: DROP_HEADER}"), ("x_a", "1")).status == 0


def test_metadata_is_bounded_by_the_module(lab: Lab) -> None:
    gateway = ruled(lab, "{max_request_headers_kb: 2}")
    assert call(lab, gateway, ("x-a", "b" * 1000)).status == 0
    answer = call(lab, gateway, ("x-a", "b" * 4000))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (8, "metadata-too-large")


@pytest.mark.parametrize(
    ("config", "kept"),
    [("{}", []), ("{xff_num_trusted_hops: 1}", ["ann"]), ("{use_remote_address: false}", ["ann"])],
)
def test_keys_of_the_gateways_own_are_believed_of_trusted_proxies_alone(lab: Lab, config: str, kept: list[str]) -> None:
    text = f"{{kind: Module, name: ambassador, config: {config}}}\n---\n{MAPPING}"
    snapshot = compile_yaml(text, lab.engine).snapshot
    (cluster,) = snapshot.clusters
    gateway = lab.gateway(routes=[], clusters={})
    gateway.serving.apply(snapshot, time.monotonic())
    pod = lab.pod()
    gateway.set_pods(pod, cluster=cluster)
    gateway.wait_for_ready_pods(1)
    client = lab.raw_client(gateway)
    for _ in range(2):  # the second time the engine knows the field
        sent = ("x-grpcgw-identity", "ann"), ("x-grpcgwen", "a"), ("x-envoy-internal", "true"), ("x-envoyen", "a")
        assert client.call("Unary", *sent).status == 0
    assert [call.values("x-grpcgw-identity") for call in pod.calls] == [kept, kept]
    assert [call.values("x-envoy-internal") for call in pod.calls] == [["true"] if kept else []] * 2
    assert [call.values("x-envoyen") for call in pod.calls] == [["a"], ["a"]]
    assert [call.values("x-grpcgwen") for call in pod.calls] == [["a"], ["a"]]
