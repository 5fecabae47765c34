"""A destination with several clusters splits its RPCs over them in exact turns; the settings stay its own."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.route import Route, WeightedCluster
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from tests.session.gateway import FakeConnection, destination, endpoints, route, snapshot

METHOD = "/greet.GrpcService/GetServerResponse"


def split_over(*weights: int, **fields: object) -> Route:
    clusters = tuple(WeightedCluster(f"c{index}", weight) for index, weight in enumerate(weights))
    return route(destination(clusters=clusters, **fields))


def serve(served: Route) -> Serving:
    serving = Serving(FakeConnection)
    serving.apply(snapshot(served), 0.0)
    return serving


def chosen(serving: Serving, calls: int) -> Counter[str]:
    found = [serving.route(METHOD) for _ in range(calls)]
    return Counter(one.cluster if isinstance(one, Target) else one.reason for one in found)


@pytest.mark.parametrize(
    ("weights", "shares"),
    [((3, 1), {"c0": 3, "c1": 1}), ((0, 2), {"c1": 4}), ((5,), {"c0": 4}), ((0, 0), {Reason.UNROUTED_SHARE: 4})],
)
def test_rpcs_are_split_by_weight(weights: tuple[int, ...], shares: dict[str, int]) -> None:
    assert chosen(serve(split_over(*weights)), 4) == shares


def test_turns_are_spread() -> None:
    serving = serve(split_over(3, 1))
    found = [serving.route(METHOD) for _ in range(8)]
    assert [one.cluster for one in found if isinstance(one, Target)] == ["c0", "c0", "c1", "c0"] * 2


@given(st.lists(st.integers(0, 9), min_size=1, max_size=3), st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_shares_of_destinations_and_of_their_clusters_multiply(first: list[int], second: list[int]) -> None:
    one, two = split_over(*first).destinations[0], split_over(*second).destinations[0]
    both = route(replace(one, weight=30), replace(two, weight=50))
    calls = 100 * (sum(first) or 1) * (sum(second) or 1)
    expected: Counter[str] = Counter()
    for weight, clusters in ((30, first), (50, second)):
        for index, part in enumerate(clusters):
            expected[f"c{index}"] += calls * weight // 100 * part // (sum(clusters) or 1)
        expected[Reason.UNROUTED_SHARE] += 0 if sum(clusters) else calls * weight // 100
    expected[Reason.UNROUTED_SHARE] += calls * 20 // 100
    assert chosen(serve(both), calls) == +expected


def test_clusters_of_a_destination_share_its_breaker_and_label() -> None:
    serving = serve(split_over(1, 1, circuit_breakers=(CircuitBreaker(max_requests=1),)))
    one, two = serving.route(METHOD), serving.route(METHOD)
    assert not isinstance(one, Deny)
    assert not isinstance(two, Deny)
    assert {one.cluster, two.cluster} == {"c0", "c1"}
    assert one.breaker is two.breaker is not None
    assert one.budget is two.budget
    assert one.label == two.label


def test_each_cluster_has_its_own_pods() -> None:
    serving = serve(split_over(1, 1))
    serving.set_endpoints("c0", endpoints(1), 0.0)
    serving.set_endpoints("c1", endpoints(2), 0.0)
    serving.refresh(0.0)
    picked = set()
    for _ in range(4):
        target = serving.route(METHOD)
        assert isinstance(target, Target)
        pod = target.pick(None)
        assert pod is not None
        picked.add((target.cluster, pod.endpoint.address))
    assert picked == {("c0", "10.0.0.1"), ("c1", "10.0.0.2")}
