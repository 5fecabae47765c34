"""Zone preference over real pods: those meant for the gateway's zone get its RPCs, all others wait on, connected."""

from __future__ import annotations

import time

from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from dataplane.waiting import eventually
from grpcgw.model.endpoints import EndpointSet

PREFERRING = "{name: m, service: pods, load_balancer: {policy: round_robin, prefer_same_zone: true}}"
INDIFFERENT = "{name: m, service: pods, load_balancer: {policy: round_robin}}"


def set_hints(gateway: Gateway, pods: dict[Pod, str]) -> None:
    """`pods` with the zones each is meant for, separated by spaces."""
    endpoints = EndpointSet(
        tuple(pod.endpoint for pod in pods), zone_hints=tuple(frozenset(zones.split()) for zones in pods.values())
    )
    (cluster,) = gateway.serving.snapshot.clusters
    gateway.serving.set_endpoints(cluster, endpoints, time.monotonic())


def zoned(lab: Lab, zone: str, pods: dict[Pod, str], text: str = PREFERRING) -> Gateway:
    """A gateway that runs in `zone`."""
    gateway = lab.gateway(routes=[], clusters={})
    gateway.serving.clusters.zone = zone
    gateway.serving.apply(compile_yaml(text, lab.engine).snapshot, time.monotonic())
    set_hints(gateway, pods)
    gateway.wait_for_ready_pods(len(pods))
    return gateway


def answering(lab: Lab, gateway: Gateway) -> set[str]:
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    return {call(b"").decode().rstrip(":") for _ in range(20)}


def test_pods_meant_for_the_gateways_zone_get_all_its_rpcs(lab: Lab) -> None:
    pods = {lab.pod("a"): "east", lab.pod("b"): "east west", lab.pod("c"): "west"}
    assert answering(lab, zoned(lab, "east", pods)) == {"a", "b"}
    assert answering(lab, zoned(lab, "west", pods)) == {"b", "c"}


def test_without_the_field_or_a_known_zone_or_whole_hints_all_pods_get_theirs(lab: Lab) -> None:
    pods = {lab.pod("a"): "east", lab.pod("b"): "west"}
    assert answering(lab, zoned(lab, "east", pods, INDIFFERENT)) == {"a", "b"}
    assert answering(lab, zoned(lab, "", pods)) == {"a", "b"}
    assert answering(lab, zoned(lab, "east", dict.fromkeys(pods, ""))) == {"a", "b"}


def test_new_hints_move_the_rpcs_and_keep_every_connection(lab: Lab) -> None:
    a, b = lab.pod("a"), lab.pod("b")
    gateway = zoned(lab, "east", {a: "east", b: "west"})
    assert answering(lab, gateway) == {"a"}
    before = gateway.serving.clusters.pods()
    set_hints(gateway, {a: "west", b: "east"})
    assert answering(lab, gateway) == {"b"}
    assert gateway.serving.clusters.pods() == before


def test_a_zone_that_loses_its_last_pod_is_served_by_the_others(lab: Lab) -> None:
    a, b = lab.pod("a"), lab.pod("b")
    gateway = zoned(lab, "east", {a: "east", b: "west"})
    assert answering(lab, gateway) == {"a"}
    a.stop()
    eventually(lambda: [report.state for report in gateway.serving.clusters.pod_reports()].count("ready") == 1)
    assert answering(lab, gateway) == {"b"}
