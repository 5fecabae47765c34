"""Round robin over real pods: strict turns, whatever connections the clients come on."""

from __future__ import annotations

from itertools import pairwise

from dataplane.lab import Lab, mapping
from dataplane.waiting import eventually


def names(answers: list[bytes]) -> list[str]:
    return [answer.decode().rstrip(":") for answer in answers]


def assert_strict_turns(order: list[str], pods: int) -> None:
    assert len(set(order)) == pods
    assert all(order[index] == order[index % pods] for index in range(len(order))), order


def test_rpcs_of_one_connection_take_strict_turns(lab: Lab) -> None:
    gateway = lab.gateway(*(lab.pod(name) for name in "abc"))
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert_strict_turns(names([call(b"") for _ in range(30)]), 3)


def test_connections_take_strict_turns_too(lab: Lab) -> None:
    gateway = lab.gateway(lab.pod("a"), lab.pod("b"))
    order = []
    for _ in range(12):
        with lab.raw_client(gateway) as client:
            order.append(client.call("Unary").data[5:].decode().rstrip(":"))
    assert_strict_turns(order, 2)


def test_mappings_of_one_service_share_its_turns_and_connections(lab: Lab) -> None:
    def settings(name: str, timeout_ms: int) -> dict[str, object]:
        return {"name": name, "timeout_ms": timeout_ms, "rewrite": "/test.Pod/"}

    routes = [mapping("/one.Pod/", **settings("one", 20_000)), mapping("/two.Pod/", **settings("two", 60_000))]
    pods = [lab.pod("a"), lab.pod("b")]
    gateway = lab.gateway(*pods, routes=routes)
    channel = lab.channel(gateway)
    one, two = channel.unary_unary("/one.Pod/Unary"), channel.unary_unary("/two.Pod/Unary")
    order = names([call(b"") for call in (one, two, two, one, one, one, two, two)])
    assert_strict_turns(order, 2)
    assert len(gateway.serving.clusters.pods()) == 2
    left_s = sorted(seen.time_left_s or 0 for pod in pods for seen in pod.calls)
    assert left_s[0] <= 20 < left_s[-1], "each Mapping keeps its own timeout"


def test_streams_take_turns_by_rpc_not_by_message(lab: Lab) -> None:
    pods = [lab.pod("a"), lab.pod("b")]
    channel = lab.channel(lab.gateway(*pods))
    for _ in range(4):
        assert len(list(channel.stream_stream("/test.Pod/Chat")(iter([b"x"] * 5)))) == 5
    assert [len(pod.calls) for pod in pods] == [2, 2]


def test_pod_that_never_finishes_connecting_delays_nobody(lab: Lab) -> None:
    """Its connection opens, and then it says nothing: no SETTINGS, as behind a broken proxy."""
    deaf, pod = lab.scripted_pod(deaf=True), lab.pod("a")
    gateway = lab.gateway(pod)
    gateway.wait_for_ready_pods(1)
    gateway.set_pods(deaf, pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    eventually(lambda: deaf.connects)
    assert {call(b"") for _ in range(50)} == {b"a:"}
    assert {report.address: report.total for report in gateway.serving.clusters.pod_reports()}[str(deaf.endpoint)] == 0


def test_pod_that_joins_gets_its_turns(lab: Lab) -> None:
    first, second = lab.pod("a"), lab.pod("b")
    gateway = lab.gateway(first)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert {call(b"") for _ in range(3)} == {b"a:"}
    gateway.set_pods(first, second)
    eventually(lambda: call(b"") == b"b:")
    order = names([call(b"") for _ in range(10)])
    assert all(one != other for one, other in pairwise(order))
