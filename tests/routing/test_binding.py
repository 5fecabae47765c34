"""What routes are bound to survives reloads: breakers and budgets while used, counters of shadow Mappings for good."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.breakers import Breaker, Limit, Permit
from grpcgw.routing.binding import CannotServe
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from tests.session.gateway import LABEL, FakeConnection, destination, route, snapshot

METHOD = "/greet.GrpcService/Greet"


def make_serving(*snapshots: Snapshot) -> Serving:
    serving = Serving(FakeConnection)
    for one in snapshots:
        serving.apply(one, 0.0)
    return serving


def limited(max_requests: int, **fields: Any) -> Snapshot:
    limits = (CircuitBreaker(max_requests=max_requests), CircuitBreaker(Priority.HIGH, max_requests=9))
    return snapshot(route(destination(circuit_breakers=limits, **fields)))


def target(serving: Serving) -> Target:
    found = serving.route(METHOD)
    assert isinstance(found, Target)
    return found


def breaker(serving: Serving) -> Breaker:
    found = target(serving).breaker
    assert found is not None
    return found


def test_a_breaker_keeps_what_is_in_use_over_a_reload_and_takes_the_new_limits() -> None:
    serving = make_serving(limited(2))
    before = breaker(serving)
    permit = before.admit(False)
    serving.apply(limited(1, timeout_ms=5), 1.0)
    assert breaker(serving) is before
    assert (before.in_use(Limit.REQUESTS), str(before.admit(False))) == (1, "circuit breaker max_requests 1 reached")
    assert isinstance(permit, Permit)
    permit.release()
    assert isinstance(before.admit(False), Permit)


def test_a_snapshot_that_cannot_be_bound_leaves_the_limits_in_force() -> None:
    serving = make_serving(limited(1))
    broken = route(destination(load_balancer=LoadBalancer("fastest")), prefix="/bad.Service/")
    with pytest.raises(CannotServe):
        serving.apply(snapshot(*limited(2).routes, broken), 1.0)
    assert isinstance(breaker(serving).admit(False), Permit)
    assert not isinstance(breaker(serving).admit(False), Permit)


def test_a_breaker_of_a_mapping_that_comes_back_still_counts_the_rpcs_that_began_before() -> None:
    serving = make_serving(limited(1))
    permit = breaker(serving).admit(False)
    assert isinstance(permit, Permit)
    serving.apply(snapshot(), 1.0)
    serving.apply(limited(1), 2.0)
    assert not isinstance(breaker(serving).admit(False), Permit)
    permit.release()
    assert isinstance(breaker(serving).admit(False), Permit)


def test_priority_classes_have_breakers_of_their_own() -> None:
    serving = make_serving(limited(1))
    default = breaker(serving)
    serving.apply(limited(1, priority=Priority.HIGH), 1.0)
    assert breaker(serving) is not default


def test_mappings_without_limits_have_no_breaker() -> None:
    assert target(make_serving(snapshot(route()))).breaker is None


def test_routes_of_one_mapping_share_its_budget_and_a_reload_keeps_it() -> None:
    retried = destination(retry=RetryPolicy(frozenset({14})))
    serving = make_serving(snapshot(route(retried), route(retried, prefix="/other/")))
    budget = target(serving).budget
    other = serving.route("/other/Method")
    assert isinstance(other, Target)
    assert other.budget is budget
    serving.apply(snapshot(route(replace(retried, timeout_ms=5))), 1.0)
    assert target(serving).budget is budget


def test_counters_of_a_shadow_that_is_gone_are_there_when_it_comes_back() -> None:
    shadowed = snapshot(replace(route(), shadow=destination(name="copy", cluster="copies")))
    serving = make_serving(shadowed)
    shadow = target(serving).shadow
    assert shadow is not None
    assert shadow.counters.begin()
    shadow.counters.end(0)
    del shadow
    serving.apply(snapshot(), 1.0)
    assert [report.codes for report in serving.shadow_reports()] == [{0: 1}]
    serving.apply(shadowed, 2.0)
    assert [(report.mapping, report.codes) for report in serving.shadow_reports()] == [("copy.default", {0: 1})]
    assert target(serving).label == LABEL
