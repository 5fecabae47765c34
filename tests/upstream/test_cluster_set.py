"""Endpoint sets swapped under running RPCs: which pod a new RPC gets, and when connections close."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from grpcgw.balancer.base import Outcome, turns_from
from grpcgw.model.balancing import OutlierDetection
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.session.serving import Serving
from grpcgw.upstream.cluster_set import MOST_GONE_COUNTED
from grpcgw.upstream.cluster_state import MOST_KEPT_CONNECTED, UNUSED_MS
from grpcgw.upstream.pod import LINGER_S, Pod
from tests.session.gateway import FakeConnection, cluster, destination, endpoints, route, snapshot
from tests.session.picking import (
    METHOD,
    OTHER_METHOD,
    Connections,
    host,
    make_serving,
    pick,
    picks,
    pod,
    serving_greet,
    target,
)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "Mapping grpcserver.default: the pods of greet.default:50051 are not known yet"),
        (EndpointSet(), "Mapping grpcserver.default: no ready pod of greet.default:50051"),
        (
            EndpointSet((), "Service greet.default does not exist"),
            "Mapping grpcserver.default: no ready pod of greet.default:50051 (Service greet.default does not exist)",
        ),
    ],
)
def test_no_pod_has_a_cause(found: EndpointSet | None, words: str) -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route()), 0.0)
    if found is not None:
        serving.set_endpoints("greet", found, 0.0)
    assert target(serving).pick(None) is None
    assert target(serving).why_no_endpoint() == words


def test_a_cluster_that_is_not_used_any_more_is_drained_then_closed() -> None:
    serving = serving_greet(1, 2, drain_time_s=30.0)
    busy, idle = serving.clusters.pods()
    busy.begin()
    serving.apply(snapshot(version="2"), 10.0)
    assert not serving.has_route(METHOD)
    assert {pod.state for pod in serving.clusters.pod_reports()} == {PodState.DRAINING}
    assert serving.refresh(10.0) == ()
    assert serving.refresh(10.0 + LINGER_S) == (idle,)
    assert serving.refresh(39.9) == ()
    assert serving.refresh(40.0) == (busy,)
    assert serving.clusters.pods() == ()


def test_an_rpc_on_its_way_when_its_mapping_goes_finds_its_pod_connected() -> None:
    serving = serving_greet(1)
    running = target(serving)
    serving.apply(snapshot(version="2"), 10.0)
    assert serving.refresh(10.0) == ()
    chosen = running.pick(None)
    assert chosen is not None
    assert serving.refresh(10.05) == ()
    chosen.begin()
    assert serving.refresh(10.0 + LINGER_S) == ()
    chosen.end(0.1, "")
    assert serving.refresh(10.05 + LINGER_S) == (chosen,)


def test_a_pod_that_was_leaving_keeps_its_limit_when_its_cluster_goes() -> None:
    serving = serving_greet(1, drain_time_s=30.0)
    (busy,) = serving.clusters.pods()
    busy.begin()
    serving.set_endpoints("greet", endpoints(), 0.0)
    serving.apply(snapshot(version="2"), 20.0)
    assert serving.refresh(30.0) == (busy,)


def test_a_cluster_that_comes_back_goes_on_with_the_pods_that_have_not_ended() -> None:
    serving = serving_greet(1, drain_time_s=30.0)
    (former,) = serving.clusters.pods()
    former.begin()
    serving.apply(snapshot(version="2"), 0.0)
    serving.apply(snapshot(route(), version="3"), 2.0)
    assert target(serving).pick(None) is None
    serving.set_endpoints("greet", endpoints(1), 2.0)
    assert pick(serving) is former
    assert serving.refresh(1e6) == ()


def replaced_cluster(serving: Serving, **connection: Any) -> None:
    """The Mapping asks for other connections, which makes another cluster of the same pods."""
    serving.set_endpoints("greet#2", endpoints(1), 0.0)
    other = snapshot(route(destination(cluster="greet#2")), version="2")
    changed = replace(other.clusters["greet#2"], connection=ConnectionSettings(**connection))
    serving.apply(replace(other, clusters={"greet#2": changed}), 0.0)


def test_other_settings_of_connections_leave_running_rpcs_alone_while_the_pod_is_there() -> None:
    serving = serving_greet(1, drain_time_s=30.0)
    (former,) = serving.clusters.pods()
    former.begin()
    replaced_cluster(serving, connect_timeout_ms=5000)
    assert pick(serving) is not former
    assert serving.refresh(1e6) == ()
    serving.set_endpoints("greet#2", endpoints(), 1e6)
    assert former not in serving.refresh(1e6 + 29.0)
    assert former in serving.refresh(1e6 + 30.0)


def test_a_connection_that_was_replaced_ends_with_its_last_rpc() -> None:
    serving = serving_greet(1)
    (former,) = serving.clusters.pods()
    former.begin()
    replaced_cluster(serving, keepalive_time_s=5)
    former.end(1.0, "")
    assert serving.refresh(1.0) == ()
    assert serving.refresh(1.0 + LINGER_S) == (former,)


# Large clusters

MANY = range(1, MOST_KEPT_CONNECTED + 2)


def test_the_pods_of_a_large_cluster_are_connected_to_on_demand_and_those_of_a_small_one_at_once() -> None:
    for hosts, on_demand, idle_ms in ((MANY, True, UNUSED_MS), (MANY[1:], False, None)):
        serving, connections = make_serving()
        serving.apply(snapshot(route()), 0.0)
        serving.set_endpoints("greet", endpoints(*hosts), 0.0)
        used = {(one.settings.on_demand, one.settings.idle_timeout_ms) for one in connections.opened}
        assert used == {(on_demand, idle_ms)}


def serving_many(state: PodState = PodState.IDLE) -> tuple[Serving, Connections]:
    serving, connections = make_serving()
    serving.apply(snapshot(route()), 0.0)
    serving.set_endpoints("greet", endpoints(*MANY), 0.0)
    for connection in connections.opened:
        connection.connectivity = state
    serving.refresh(0.0)
    return serving, connections


def test_pods_of_a_large_cluster_have_their_turns_before_they_are_connected_and_while_they_connect() -> None:
    serving, connections = serving_many()
    assert serving.clusters.settled()
    assert picks(serving, 2) == [1, 2]
    for connection in connections.opened[:2]:
        connection.connectivity = PodState.READY
    serving.refresh(0.1)
    assert picks(serving, len(MANY)) == [*MANY[2:], 1, 2]


def test_a_further_try_in_a_large_cluster_goes_to_a_connected_pod() -> None:
    serving, connections = serving_many()
    connections.opened[6].connectivity = PodState.READY
    serving.refresh(0.1)
    assert host(target(serving).pick(pick(serving))) == 7
    assert host(target(serving).pick(pod(serving, 7))) != 7


def test_new_settings_of_a_large_cluster_are_tried_where_a_connection_is_open() -> None:
    serving, connections = serving_many()
    connections.opened[6].connectivity = PodState.READY
    serving.refresh(0.1)
    before, connections.opened = len(connections.opened), []
    changed = replace(cluster(), connection=ConnectionSettings(connect_timeout_ms=5))
    serving.apply(replace(snapshot(route(), version="2"), clusters={"greet": changed}), 1.0)
    assert [host for host, one in zip(MANY, connections.opened, strict=True) if not one.settings.on_demand] == [7]
    for connection in connections.opened:
        connection.connectivity = PodState.IDLE
    serving.refresh(1.1)
    serving_now = [pod for _, pods in serving.clusters.in_use() for pod in pods]
    assert len(serving_now) == before
    assert [host(pod) for pod in serving_now if pod.settings != changed.connection] == [7]


def test_states_are_not_read_while_nothing_has_changed() -> None:
    serving, connections = make_serving()
    serving.apply(snapshot(route()), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0, looks=False)
    assert picks(serving, 2) == [1, 2], "those of new pods are"
    connections.opened[0].connectivity = PodState.FAILING
    serving.refresh(0.1, looks=False)
    assert picks(serving, 2) == [1, 2]
    serving.refresh(0.2, looks=True)
    assert picks(serving, 2) == [2, 2]


def test_a_pod_that_an_rpc_could_not_connect_to_is_looked_at_again() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route()), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0, looks=False)
    serving.clusters.note_failure(pod(serving, 1))
    assert picks(serving, 2) == [2, 2]
    serving.refresh(0.1, looks=False)
    assert sorted(picks(serving, 2)) == [1, 2]


def count_rpcs(pod: Pod, count: int) -> None:
    for _ in range(count):
        pod.begin()
        pod.end(0.001, "no")


def counted(serving: Serving) -> list[tuple[int, int]]:
    return [(report.total, report.failures) for report in serving.clusters.pod_reports() if report.total]


def test_what_was_counted_of_a_pod_counts_once_while_its_connection_is_replaced() -> None:
    serving, connections = make_serving()
    aged = replace(cluster(), connection=ConnectionSettings(max_lifetime_ms=10_000))
    serving.apply(replace(snapshot(route()), clusters={"greet": aged}), 0.0)
    serving.set_endpoints("greet", endpoints(1), 0.0)
    serving.refresh(0.0)
    (old,) = serving.clusters.pods()
    count_rpcs(old, 3)
    old.begin()
    serving.refresh(20.0)
    serving.refresh(20.1)
    assert (len(connections.opened), pick(serving) is old) == (2, False)
    assert counted(serving) == [(4, 3)]
    count_rpcs(pick(serving), 2)
    assert counted(serving) == [(6, 5)]
    old.end(1.0, "")
    assert serving.refresh(21.0) == (old,)
    assert counted(serving) == [(6, 5)]


def test_what_was_counted_of_a_pod_that_left_is_there_when_it_comes_back() -> None:
    serving = serving_greet(1)
    (old,) = serving.clusters.pods()
    count_rpcs(old, 3)
    serving.set_endpoints("greet", endpoints(), 1.0)
    assert serving.refresh(1.0) == ()
    assert serving.refresh(2.0) == (old,)
    serving.set_endpoints("greet", endpoints(1), 3.0)
    assert pick(serving) is not old
    assert counted(serving) == [(3, 3)]


def test_of_pods_that_are_gone_no_more_than_a_bounded_number_is_remembered() -> None:
    serving = serving_greet(1)
    count_rpcs(pod(serving, 1), 3)
    for number in range(MOST_GONE_COUNTED + 10):
        address = f"10.1.{number >> 8}.{number & 255}"
        serving.set_endpoints("greet", EndpointSet((Endpoint(address, 1),)), 10.0 * number)
        serving.refresh(10.0 * number)
        serving.refresh(10.0 * number + 1)
    serving.set_endpoints("greet", endpoints(1), 1e6)
    assert counted(serving) == []


def test_two_ways_to_balance_over_one_service_take_turns_apart() -> None:
    serving, connections = make_serving()
    careful = destination(name="b", outlier_detection=OutlierDetection())
    serving.apply(snapshot(route(destination(name="a")), route(careful, prefix="/other.Service/")), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0)
    assert len(connections.opened) == 2
    assert (picks(serving, 3), picks(serving, 3, OTHER_METHOD)) == ([1, 2, 1], [1, 2, 1])


def test_turns_begin_where_a_worker_is_told_to() -> None:
    assert [picks(serving_greet(1, 2, 3, first_turn=turn), 1) for turn in range(4)] == [[1], [2], [3], [1]]


def test_workers_that_share_turns_take_them_in_order() -> None:
    shared = {("greet", destination().balancing): turns_from(1)}
    one, other = serving_greet(1, 2, 3, turns=shared), serving_greet(1, 2, 3, turns=shared)
    assert [host(pick(serving)) for serving in (one, other, other, one, other)] == [2, 3, 1, 2, 3]


# --- pods come and go


def test_a_pod_that_left_gets_no_new_rpc_and_keeps_its_old_ones() -> None:
    serving = serving_greet(1, 2)
    leaving = pod(serving, 1)
    leaving.begin()
    serving.set_endpoints("greet", endpoints(2), 0.0)
    assert picks(serving, 4) == [2] * 4
    assert serving.refresh(0.0) == ()
    leaving.end(1.0, "")
    assert serving.refresh(LINGER_S) == (leaving,)


def test_a_running_rpc_sees_the_pods_of_now_when_it_picks_again() -> None:
    serving = serving_greet(1)
    running = target(serving)
    first = running.pick(None)
    assert first is not None
    assert not running.has_other(first)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0)
    assert running.has_other(first)
    assert host(running.pick(first)) == 2


def test_a_pod_that_has_left_is_no_reason_not_to_try_the_one_that_stayed() -> None:
    serving = serving_greet(1, 2)
    running, left = target(serving), pod(serving, 1)
    serving.set_endpoints("greet", endpoints(2), 0.0)
    assert running.has_other(left)
    assert host(running.pick(left)) == 2


def test_the_same_set_again_changes_nothing() -> None:
    serving, connections = make_serving()
    serving.apply(snapshot(route()), 0.0)
    for _ in range(3):
        serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    assert len(connections.opened) == 2


def test_an_error_without_a_change_of_pods_keeps_them_and_explains() -> None:
    serving = serving_greet(1)
    pods = serving.clusters.pods()
    serving.set_endpoints("greet", EndpointSet(endpoints(1).endpoints, "the resolver lost its connection"), 0.0)
    assert serving.clusters.pods() == pods


def test_pods_of_a_service_nobody_maps_are_not_connected_to() -> None:
    serving, connections = make_serving()
    serving.apply(snapshot(route()), 0.0)
    serving.set_endpoints("unused", endpoints(1), 0.0)
    assert connections.opened == []


# --- connections change


def test_a_refresh_takes_up_what_connections_say() -> None:
    serving = serving_greet(1, 2, 3)
    connection = pod(serving, 2).connection
    assert isinstance(connection, FakeConnection)
    connection.connectivity = PodState.CONNECTING
    serving.refresh(1.0)
    assert 2 not in picks(serving, 6)
    connection.connectivity = PodState.READY
    serving.refresh(2.0)
    assert 2 in picks(serving, 6)


def test_a_pod_that_could_not_be_connected_to_is_left_out_until_the_next_refresh() -> None:
    serving = serving_greet(1, 2)
    serving.clusters.note_failure(pod(serving, 1))
    assert picks(serving, 3) == [2, 2, 2]
    serving.refresh(1.0)
    assert set(picks(serving, 2)) == {1, 2}


def test_a_failure_on_a_pod_whose_cluster_is_gone_is_noted_quietly() -> None:
    serving = serving_greet(1)
    (left,) = serving.clusters.pods()
    serving.apply(snapshot(version="2"), 0.0)
    serving.clusters.note_failure(left)
    assert left.state is PodState.FAILING


class Stumbling(FakeConnection):
    """Cannot be looked at while `stumbles`."""

    stumbles = False

    def state(self) -> PodState:
        if self.stumbles:
            raise RuntimeError
        return super().state()


def test_a_defect_in_one_cluster_keeps_none_of_the_others_from_being_looked_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")
    serving = Serving(Stumbling)
    serving.apply(snapshot(route(), route(destination(cluster="other"), prefix="/other.Service/")), 0.0)
    for name in ("greet", "other"):
        serving.set_endpoints(name, endpoints(1), 0.0)
    (bad,), (good,) = (pods for _, pods in serving.clusters.in_use())
    bad.connection.stumbles = True  # type: ignore[attr-defined]
    serving.refresh(0.0)
    assert (bad.state, good.state) == (PodState.IDLE, PodState.READY)
    serving.set_endpoints("other", endpoints(), 1.0)
    serving.refresh(1.0)
    assert serving.refresh(2.0) == (good,)


def test_it_has_settled_when_every_pod_was_connected_or_failed_to() -> None:
    serving, connections = make_serving()
    serving.apply(snapshot(route()), 0.0)
    assert serving.clusters.settled()
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    assert not serving.clusters.settled()
    serving.clusters.note_failure(pod(serving, 1))
    assert not serving.clusters.settled()
    connections.opened[0].connectivity = PodState.FAILING
    serving.refresh(1.0)
    assert serving.clusters.settled()


def test_an_outcome_reaches_the_balancer_of_the_mapping() -> None:
    serving = serving_greet(1, 2)
    running = target(serving)
    first = running.pick(None)
    assert first is not None
    running.done(first, Outcome(14, True, 0.1), 0.0)
    assert {host(running.pick(None)) for _ in range(4)} == {1, 2}


def end_with_failures(serving: Serving, host_number: int, count: int) -> None:
    failed = Outcome(14, True, 0.1)
    found = target(serving)
    pod = next(pod for pod in serving.clusters.pods() if host(pod) == host_number)
    for _ in range(count):
        found.done(pod, failed, 0.0)


def test_a_pod_that_is_left_out_says_why_and_for_how_long() -> None:
    serving, _ = make_serving()
    serving.apply(snapshot(route(destination(outlier_detection=OutlierDetection()))), 0.0)
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.refresh(0.0)
    end_with_failures(serving, 1, 5)
    assert {host(pick(serving)) for _ in range(4)} == {2}
    serving.refresh(18.0)
    assert [report.note for report in serving.clusters.pod_reports()] == [
        "ejected for 12 s more: 5 failures in a row",
        "",
    ]
    serving.refresh(31.0)
    assert [report.note for report in serving.clusters.pod_reports()] == ["", ""]
    assert {host(pick(serving)) for _ in range(4)} == {1, 2}


def test_ways_to_balance_that_no_mapping_asks_for_any_more_are_forgotten() -> None:
    """Not while an RPC that began with one may still pick by it."""
    serving = serving_greet(1, 2)
    before = target(serving)
    for failures in range(1, 20):
        changed = destination(outlier_detection=OutlierDetection(consecutive_failures=failures))
        serving.apply(snapshot(route(changed), version=str(failures)), 0.0)
    cluster, _ = serving.clusters.balancing("greet", destination().balancing)
    assert len(cluster.balancing) == 2
    serving.set_endpoints("greet", endpoints(2), 0.0)
    assert host(before.pick(None)) == 2
