"""Objects of different kinds and one name share nothing of what is kept by object."""

from __future__ import annotations

from dataclasses import replace

from grpcgw.model.objects import ObjectKey
from grpcgw.model.resilience import CircuitBreaker, RetryPolicy
from grpcgw.model.route import Destination, Route
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from tests.session.gateway import FakeConnection, destination, route, snapshot

KINDS = ("Mapping", "GRPCRoute")


def make_destination(kind: str, **fields: object) -> Destination:
    limits = (CircuitBreaker(max_requests=1, max_retries=1),)
    return destination(
        key=ObjectKey(kind, "default", "greet"), circuit_breakers=limits, retry=RetryPolicy(frozenset({14})), **fields
    )


def make_route(kind: str) -> Route:
    made = route(make_destination(kind), prefix=f"/{kind}.Service/")
    return replace(made, shadow=make_destination(kind, cluster=kind))


def targets(gateway: Serving) -> list[Target]:
    found = [gateway.route(f"/{kind}.Service/Call") for kind in KINDS]
    return [one for one in found if isinstance(one, Target)]


def test_a_mapping_is_shown_by_its_name_and_any_other_kind_with_its_kind() -> None:
    labels = [make_destination(kind).label for kind in KINDS]
    assert labels == ["greet.default", "GRPCRoute greet.default"]


def test_counters_are_apart() -> None:
    gateway = Serving(FakeConnection)
    gateway.apply(snapshot(*map(make_route, KINDS)), 0.0)
    first, second = targets(gateway)
    gateway.counters.of(first.label, "/a.Service/Call").begin()
    assert [gateway.counters.count_in_flight(one.label) for one in (first, second)] == [1, 0]


def test_breakers_retry_budgets_and_shadows_are_apart_also_after_a_reload() -> None:
    gateway = Serving(FakeConnection)
    gateway.apply(snapshot(*map(make_route, KINDS)), 0.0)
    before = targets(gateway)
    gateway.apply(snapshot(*map(make_route, reversed(KINDS))), 1.0)
    for first, second in (before, targets(gateway)):
        assert first.breaker is not second.breaker
        assert first.budget is not second.budget
        assert first.shadow is not None
        assert second.shadow is not None
        assert first.shadow.counters is not second.shadow.counters
    assert [one.breaker for one in targets(gateway)] == [one.breaker for one in before]
    assert [one.budget for one in targets(gateway)] == [one.budget for one in before]


def test_messages_name_the_object_with_its_kind() -> None:
    gateway = Serving(FakeConnection)
    gateway.apply(snapshot(*map(make_route, KINDS)), 0.0)
    said = [one.why_no_endpoint() for one in targets(gateway)]
    assert [text.partition(":")[0] for text in said] == ["Mapping greet.default", "GRPCRoute greet.default"]
