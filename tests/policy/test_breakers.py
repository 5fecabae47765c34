"""Breakers: never more in use than allowed, nothing lost or given back twice, whatever happens in whatever order."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from grpcgw.model.objects import ObjectKey
from grpcgw.model.resilience import CircuitBreaker, Priority
from grpcgw.model.route import Destination
from grpcgw.policy.breakers import Breaker, Limit, Overflow, Permit, choose_limits

DESTINATION = Destination(ObjectKey("Mapping", "default", "greet"), ())


def admit(breaker: Breaker, waits: bool = False) -> Permit:
    permit = breaker.admit(waits)
    assert isinstance(permit, Permit)
    return permit


def test_the_rpc_beyond_max_requests_is_turned_away_until_another_is_over() -> None:
    breaker = Breaker(CircuitBreaker(max_requests=2))
    first, _ = admit(breaker), admit(breaker)
    overflow = breaker.admit(False)
    assert overflow == Overflow(Limit.REQUESTS, 2)
    assert str(overflow) == "circuit breaker max_requests 2 reached"
    first.release()
    admit(breaker)


def test_only_rpcs_that_wait_count_as_pending() -> None:
    breaker = Breaker(CircuitBreaker(max_pending_requests=1))
    waiting = admit(breaker, waits=True)
    admit(breaker)
    assert breaker.admit(True) == Overflow(Limit.PENDING_REQUESTS, 1)
    assert breaker.in_use(Limit.REQUESTS) == 2  # the one turned away took nothing
    waiting.connected()
    waiting.connected()
    admit(breaker, waits=True)


def test_a_retry_counts_until_its_rpc_is_over() -> None:
    breaker = Breaker(CircuitBreaker(max_retries=1))
    one, two = admit(breaker), admit(breaker)
    assert one.retry(False) is None
    assert one.retry(True) is None  # the same RPC again: still one
    assert two.retry(False) == Overflow(Limit.RETRIES, 1)
    one.release()
    assert two.retry(False) is None


def test_a_limit_of_zero_lets_nothing_pass() -> None:
    assert Breaker(CircuitBreaker(max_requests=0)).admit(False) == Overflow(Limit.REQUESTS, 0)


@pytest.mark.parametrize(
    "limits", [(), (CircuitBreaker(max_connections=1),), (CircuitBreaker(Priority.HIGH, max_requests=1),)]
)
def test_a_mapping_without_limits_of_its_class_has_no_breaker(limits: tuple[CircuitBreaker, ...]) -> None:
    assert choose_limits(replace(DESTINATION, circuit_breakers=limits)) is None


def test_the_priority_chooses_the_limits_and_of_several_the_first() -> None:
    default, high, again = (
        CircuitBreaker(max_requests=1),
        CircuitBreaker(Priority.HIGH, max_requests=2),
        CircuitBreaker(Priority.HIGH, max_requests=3),
    )
    both = replace(DESTINATION, circuit_breakers=(default, high, again))
    assert choose_limits(both) is default
    assert choose_limits(replace(both, priority=Priority.HIGH)) is high


def test_new_limits_hold_for_what_is_in_use() -> None:
    breaker = Breaker(CircuitBreaker(max_requests=3))
    permits = [admit(breaker), admit(breaker)]
    breaker.change_limits(CircuitBreaker(max_requests=1))
    assert breaker.admit(False) == Overflow(Limit.REQUESTS, 1)
    for permit in permits:
        permit.release()
    admit(breaker)


def test_threads_never_get_more_than_the_limit() -> None:
    breaker = Breaker(CircuitBreaker(max_requests=3, max_retries=1))
    most: list[int] = []

    def run() -> None:
        for turn in range(2_000):
            permit = breaker.admit(turn % 2 == 0)
            if isinstance(permit, Permit):
                permit.retry(False)
                most.append(breaker.in_use(Limit.REQUESTS))
                permit.release()

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert max(most) <= 3
    assert all(breaker.in_use(limit) == 0 for limit in Limit)


maybe = st.none() | st.integers(0, 4)


class BreakerModel(RuleBasedStateMachine):
    """Against the plainest model: a dict of what each RPC holds."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = CircuitBreaker(max_pending_requests=2, max_requests=3, max_retries=1)
        self.breaker = Breaker(self.limits)
        self.held: dict[Permit, set[Limit]] = {}

    permits = Bundle("permits")

    def count(self, limit: Limit) -> int:
        return sum(limit in held for held in self.held.values())

    def fits(self, limit: Limit) -> bool:
        value = getattr(self.limits, limit)
        return value is None or self.count(limit) < value

    @rule(requests=maybe, pending=maybe, retries=maybe)
    def change(self, requests: int | None, pending: int | None, retries: int | None) -> None:
        self.limits = CircuitBreaker(Priority.DEFAULT, None, pending, requests, retries)
        self.breaker.change_limits(self.limits)

    @rule(target=permits, waits=st.booleans())
    def admit(self, waits: bool) -> Permit | None:
        wanted = {Limit.REQUESTS} | ({Limit.PENDING_REQUESTS} if waits else set())
        expected = all(self.fits(limit) for limit in wanted)
        permit = self.breaker.admit(waits)
        assert isinstance(permit, Permit) is expected
        if not isinstance(permit, Permit):
            assert not self.fits(permit.limit)
            return None
        self.held[permit] = wanted
        return permit

    @rule(permit=permits)
    def connected(self, permit: Permit | None) -> None:
        if permit is not None:
            permit.connected()
            self.held[permit].discard(Limit.PENDING_REQUESTS)

    @rule(permit=permits, waits=st.booleans())
    def retry(self, permit: Permit | None, waits: bool) -> None:
        if permit is None:
            return
        held = self.held[permit]
        held.discard(Limit.PENDING_REQUESTS)
        wanted = ({Limit.RETRIES} | ({Limit.PENDING_REQUESTS} if waits else set())) - held
        expected = all(self.fits(limit) for limit in wanted)
        assert (permit.retry(waits) is None) is expected
        if expected:
            held |= wanted

    @rule(permit=consumes(permits), twice=st.booleans())
    def release(self, permit: Permit | None, twice: bool) -> None:
        if permit is not None:
            permit.release()
            if twice:
                permit.release()
            del self.held[permit]

    @invariant()
    def counts_are_right(self) -> None:
        for limit in Limit:
            assert self.breaker.in_use(limit) == self.count(limit)


TestBreakerModel = BreakerModel.TestCase
