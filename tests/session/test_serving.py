"""What is served now: the refusals of RPCs that go nowhere, and snapshots swapped under running RPCs."""

from __future__ import annotations

from grpcgw.model.status import Reason
from tests.session.gateway import destination, endpoints, route, snapshot
from tests.session.picking import (
    METHOD,
    OTHER_METHOD,
    make_serving,
    picks,
    refusal,
    serving_greet,
)


def test_before_the_first_snapshot_nothing_matches() -> None:
    serving, _ = make_serving()
    assert serving.snapshot.version == "none"
    assert refusal(serving).reason is Reason.NO_MAPPING
    assert not serving.has_route(METHOD)


def test_what_no_mapping_matches_is_refused_by_name() -> None:
    serving = serving_greet(1)
    assert refusal(serving, OTHER_METHOD).reason is Reason.NO_MAPPING
    assert OTHER_METHOD in refusal(serving, OTHER_METHOD).message
    assert serving.has_route(METHOD)


def test_a_gateway_that_drains_refuses_all() -> None:
    serving = serving_greet(1)
    serving.draining = True
    assert refusal(serving).reason is Reason.DRAINING


def test_pods_may_be_known_before_the_snapshot_that_names_them() -> None:
    serving, connections = make_serving()
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    assert connections.opened == []
    serving.apply(snapshot(route()), 0.0)
    assert [connection.address for connection in connections.opened] == ["10.0.0.1:50051", "10.0.0.2:50051"]


def test_a_new_snapshot_keeps_pods_connections_turns_and_counters() -> None:
    serving, connections = make_serving()
    serving.set_endpoints("greet", endpoints(1, 2), 0.0)
    serving.apply(snapshot(route()), 0.0)
    serving.refresh(0.0)
    assert picks(serving, 3) == [1, 2, 1]
    pods = serving.clusters.pods()
    counters = serving.counters.of("grpcserver.default", METHOD)
    serving.apply(snapshot(route(destination(timeout_ms=5)), version="2"), 1.0)
    assert serving.snapshot.version == "2"
    assert (serving.clusters.pods(), len(connections.opened)) == (pods, 2)
    assert serving.counters.of("grpcserver.default", METHOD) is counters
    assert picks(serving, 2) == [2, 1]
