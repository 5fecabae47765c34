"""Balancing policies over real pods: who gets RPCs, who keeps a caller, and how pods come and go. Round robin is in
test_balancing; what each policy computes is in tests/policies.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from balancer.load_reports import make_trailers

from dataplane.configured import configured
from dataplane.lab import Gateway, Lab
from dataplane.pods import Context, Gate, Pod
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Header
from dataplane.waiting import eventually
from grpcgw.model.metadata import Metadata


def balanced(lab: Lab, policy: str, *pods: Pod) -> Gateway:
    return configured(lab, f"{{name: m, service: pods, load_balancer: {{{policy}}}}}", pods=pods)


def ask(client: RawClient, *metadata: Header) -> str:
    answer = client.call("Unary", *metadata)
    assert answer.status == 0, answer
    return answer.data[5:].decode().rstrip(":")


def set_pods(gateway: Gateway, *pods: Pod) -> None:
    (cluster,) = gateway.serving.snapshot.clusters
    gateway.set_pods(*pods, cluster=cluster)


EVERY_POLICY = pytest.mark.parametrize(
    "policy",
    [
        "policy: least_request",
        "policy: ring_hash, header: x-user",
        "policy: maglev, header: x-user",
        "policy: weighted_round_robin",
        "policy: least_request, slow_start_ms: 1000",
        "policy: round_robin, slow_start_ms: 1000",
    ],
)
BY_HEADER = pytest.mark.parametrize("policy", ["policy: ring_hash, header: x-user", "policy: maglev, header: x-user"])


@EVERY_POLICY
def test_every_pod_gets_rpcs_and_one_that_left_gets_none(lab: Lab, policy: str) -> None:
    a, b, c = pods = [lab.pod(name) for name in "abc"]
    gateway = balanced(lab, policy, *pods)
    client = lab.raw_client(gateway)
    users = [("x-user", f"user{number}") for number in range(30)]
    assert {ask(client, user) for user in users} == {"a", "b", "c"}
    set_pods(gateway, a, b)
    assert {ask(client, user) for user in users} == {"a", "b"}
    set_pods(gateway, a, b, c)
    eventually(lambda: "c" in {ask(client, user) for user in users}, "the pod that is back gets RPCs")


# --- by hash


@BY_HEADER
def test_a_caller_keeps_its_pod_by_header_while_others_have_others(lab: Lab, policy: str) -> None:
    pods = [lab.pod(name) for name in "abcd"]
    gateway = balanced(lab, policy, *pods)
    client, other = lab.raw_client(gateway), lab.raw_client(gateway)
    users = [("x-user", f"user{number}") for number in range(40)]
    first = [ask(client, user) for user in users]
    assert [ask(other, user) for user in users] == first, "whatever connection it comes on"
    assert len(set(first)) == 4
    assert len({ask(client) for _ in range(40)}) > 1, "without the header any pod will do"


@BY_HEADER
def test_when_a_pod_leaves_its_callers_move_and_hardly_any_other(lab: Lab, policy: str) -> None:
    *stay, leaves = [lab.pod(name) for name in "abcd"]
    gateway = balanced(lab, policy, *stay, leaves)
    client = lab.raw_client(gateway)
    users = [("x-user", f"user{number}") for number in range(48)]
    before = {user: ask(client, user) for user in users}
    set_pods(gateway, *stay)
    after = {user: ask(client, user) for user in users}
    moved = [user for user in users if before[user] != "d" and after[user] != before[user]]
    assert len(moved) <= 5
    set_pods(gateway, *stay, leaves)
    eventually(lambda: {user: ask(client, user) for user in users} == before, "all are back where they were")


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_a_caller_keeps_its_pod_by_address(lab: Lab, policy: str) -> None:
    gateway = balanced(lab, f"policy: {policy}, source_ip: true", *(lab.pod(name) for name in "abcd"))
    found = Counter(ask(lab.raw_client(gateway)) for _ in range(10))
    assert list(found.values()) == [10], "ten connections from one address"


# --- by load


def test_least_request_leaves_out_pods_that_are_busy(lab: Lab) -> None:
    gate = Gate()

    def hold(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        yield b""

    busy, idle = lab.pod("busy", {"Hold": hold}), lab.pod("idle", {"Hold": hold})
    gateway = balanced(lab, "policy: least_request", busy)
    client = lab.raw_client(gateway)
    held = [client.request("Hold") for _ in range(20)]
    eventually(lambda: gateway.pod_in_flight() == 20)
    set_pods(gateway, busy, idle)
    gateway.wait_for_ready_pods(2)
    eventually(lambda: ask(client) == "idle")
    shares = Counter(ask(client) for _ in range(100))
    assert shares["idle"] > 60, "of two pods drawn at random the idle one wins"
    gate.open()
    assert {client.finish(stream).status for stream in held} == {0}


def text_report(utilization: float) -> Metadata:
    return (("endpoint-load-metrics", f"TEXT rps_fractional=100,cpu_utilization={utilization}"),)


def binary_report(utilization: float) -> Metadata:
    return make_trailers(rps_fractional=100.0, cpu_utilization=utilization)


def assert_load_is_followed(lab: Lab, report: Callable[[float], Metadata]) -> None:
    def reporting(name: str, utilization: float) -> Pod:
        def answer(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
            context.set_trailing_metadata(report(utilization))
            yield from requests
            yield f"{name}:".encode()

        return lab.pod(name, {"Work": answer})

    busy, idle = reporting("busy", 0.9), reporting("idle", 0.3)
    gateway = balanced(lab, "policy: weighted_round_robin", busy, idle)
    client = lab.raw_client(gateway)
    key = report(0.9)[-1][0]

    def idle_share() -> float:
        before = len(idle.calls)
        for _ in range(40):
            answer = client.call("Work", messages=())
            assert answer.status == 0
            assert answer.header(key), "the report crosses to the client like other trailers"
        return (len(idle.calls) - before) / 40

    assert idle_share() == 0.5
    gateway.advance_balancers(5)  # they count from the first refresh, which a slow machine may have seen before
    assert idle_share() == 0.5, "reports count once they have come for 10 s"
    gateway.advance_balancers(40)
    assert idle_share() == 0.75, "a third of the load is three times the RPCs"


def test_weighted_round_robin_follows_the_load_that_pods_report(lab: Lab) -> None:
    assert_load_is_followed(lab, text_report)


def test_weighted_round_robin_follows_binary_load_reports(lab: Lab) -> None:
    """When this passes on grpc core, docs/data-plane.md can say that both keys count everywhere."""
    assert_load_is_followed(lab, binary_report)


def test_slow_start_gives_a_new_pod_less_until_it_is_warm(lab: Lab) -> None:
    old, new = lab.pod("old"), lab.pod("new")
    gateway = balanced(lab, "policy: round_robin, slow_start_ms: 600000", old)
    client = lab.raw_client(gateway)
    assert ask(client) == "old"
    set_pods(gateway, old, new)
    gateway.wait_for_ready_pods(2)
    eventually(lambda: ask(client) == "new", "it gets some")
    shares = Counter(ask(client) for _ in range(200))
    assert 0 < shares["new"] <= 40


def test_module_sets_the_policy_of_mappings_that_name_none(lab: Lab) -> None:
    text = """
        kind: Module
        name: ambassador
        config: {load_balancer: {policy: ring_hash, header: x-user}}
        ---
        {name: hashed, service: pods, prefix: /test.Pod/Unary}
        ---
        {name: turns, service: pods, prefix: /test.Pod/, load_balancer: {policy: round_robin},
         regex_rewrite: {pattern: "Turns", substitution: "Unary"}}
    """
    client = lab.raw_client(configured(lab, text, pods=[lab.pod("a"), lab.pod("b")]))
    user = ("x-user", "ann")
    assert len({ask(client, user) for _ in range(10)}) == 1
    turns = [client.call("Turns", user).data[5:] for _ in range(10)]
    assert turns == turns[:2] * 5
    assert turns[0] != turns[1]
