"""Token buckets against a model that counts one by one, and what they promise."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.rate_limits import Rate, Unit
from grpcgw.policy.limits.token_bucket import EARLY_S, FULL, NEVER_S, give_back, look, shape_of, take


def allowed(rate: Rate, arrivals_s: list[float]) -> list[float]:
    """The arrivals that a bucket of `rate` allows."""
    shape, state, found = shape_of(rate), FULL, []
    for now_s in arrivals_s:
        taken = take(shape, state, 1, 1, now_s)
        state = taken.state
        if taken.tokens:
            found.append(now_s)
    return found


class Model:
    """A bucket in exact numbers: it holds tokens, its refill may be held back, and a part of a token may lack."""

    def __init__(self, rate: Rate) -> None:
        self.capacity = Fraction(rate.amount if rate.burst is None else rate.burst)
        self.per_s = Fraction(rate.amount, rate.unit.seconds)
        self.hold_s = (
            Fraction(rate.unit.seconds * (rate.amount - 1), rate.amount) if rate.burst is None else Fraction(0)
        )
        self.credit = min(self.per_s / 20, Fraction(1, 2))
        self.tokens, self.since_s = self.capacity, Fraction(0)

    def take(self, now_s: Fraction) -> bool:
        self.tokens = min(self.capacity, self.tokens + max(Fraction(0), now_s - self.since_s) * self.per_s)
        was_full = self.tokens == self.capacity
        self.since_s = max(self.since_s, now_s)
        if self.tokens + self.credit < 1:
            return False
        if was_full:
            self.since_s = now_s + self.hold_s
        self.tokens -= 1
        return True


RATES = st.builds(
    Rate,
    st.integers(1, 50),
    st.sampled_from([Unit.SECOND, Unit.MINUTE]),
    st.none() | st.integers(1, 60),
)
# Sixteenths of a second, in which no arrival but one that meets a token comes as close to it as the rounding of floats.
STEPS = st.lists(st.integers(0, 80), max_size=200)


@given(RATES, STEPS)
def test_a_bucket_allows_what_the_model_allows(rate: Rate, steps: list[int]) -> None:
    model, shape, state = Model(rate), shape_of(rate), FULL
    now = Fraction(1000)
    for step in steps:
        now += Fraction(step, 16)
        taken = take(shape, state, 1, 1, float(now))
        state = taken.state
        assert bool(taken.tokens) is model.take(now)


@given(RATES, STEPS)
def test_in_any_time_it_allows_no_more_than_its_burst_its_rate_and_the_credit(rate: Rate, steps: list[int]) -> None:
    arrivals, now_s = [], 1000.0
    for step in steps:
        now_s += step / 16
        arrivals.append(now_s)
    found = allowed(rate, arrivals)
    for first, begin_s in enumerate(found):
        for last in range(first, len(found)):
            shape = shape_of(rate)
            most = shape.capacity + (found[last] - begin_s) * rate.per_s + shape.credit
            assert last - first + 1 <= most + 1e-6


@given(st.integers(1, 50), st.floats(0.5, 10))
def test_without_a_burst_the_first_unit_allows_exactly_the_rate(amount: int, load: float) -> None:
    """But for a call that takes the first token of the next one a little early."""
    rate, gap_s = Rate(amount, Unit.SECOND), 1 / (amount * load)
    end_s = 1001 - shape_of(rate).early_s
    arrivals = [at for number in range(int(amount * load)) if (at := 1000 + gap_s * number) < end_s]
    assert len(allowed(rate, arrivals)) == min(amount, len(arrivals))


@given(st.integers(1, 1000), st.sampled_from([None, 1, 2000]))
def test_at_once_it_allows_no_more_than_it_holds(amount: int, burst: int | None) -> None:
    rate = Rate(amount, Unit.SECOND, burst)
    assert len(allowed(rate, [1000.0] * 2500)) == (amount if burst is None else burst)


@pytest.mark.parametrize("burst", [None, 20])
def test_at_twice_the_rate_half_is_allowed(burst: int | None) -> None:
    rate = Rate(1000, Unit.SECOND, burst)
    found = allowed(rate, [1000 + number / 2000 for number in range(20_000)])
    assert 9800 <= len(found) <= 10_200


def test_a_rate_of_nothing_allows_nothing() -> None:
    taken = take(shape_of(Rate(0, Unit.SECOND)), FULL, 1, 1, 1000.0)
    assert (taken.tokens, taken.wait_s) == (0, NEVER_S)


def test_more_than_the_bucket_holds_is_never_allowed() -> None:
    assert take(shape_of(Rate(5, Unit.SECOND)), FULL, 6, 6, 1000.0).wait_s == NEVER_S


@given(RATES, st.integers(1, 60), st.floats(0, 100))
def test_the_wait_is_how_long_until_it_allows_the_next(rate: Rate, most: int, pause_s: float) -> None:
    shape = shape_of(rate)
    state = take(shape, FULL, 1, most, 1000.0).state
    now_s = 1000.0 + pause_s
    taken = take(shape, state, 1, shape.capacity, now_s)
    if not taken.tokens:
        assert take(shape, state, 1, 1, now_s + taken.wait_s).tokens == 1
        too_soon_s = (taken.wait_s - shape.early_s) * 0.9
        assert taken.wait_s < 0.01 or not take(shape, state, 1, 1, now_s + too_soon_s).tokens


@given(RATES, st.integers(1, 60))
def test_tokens_that_are_given_back_are_there_again(rate: Rate, most: int) -> None:
    shape = shape_of(rate)
    first = take(shape, FULL, 1, most, 1000.0)
    state = give_back(shape, first.state, first.tokens)
    assert take(shape, state, 1, shape.capacity, 1000.0).tokens == shape.capacity


def test_a_rate_that_grows_does_not_make_clients_wait_as_long_as_the_one_before() -> None:
    state = FULL
    for _ in range(5):
        state = take(shape_of(Rate(5, Unit.HOUR)), state, 1, 1, 1000.0).state
    grown = shape_of(Rate(100, Unit.SECOND))
    taken = take(grown, state, 1, 1, 1000.0)
    assert taken.tokens
    level = look(grown, state, 1000.0)
    assert level.tokens == 95
    assert level.full_in_s <= 2.0 + 1e-6


@given(RATES, RATES, STEPS, STEPS)
def test_after_a_change_of_the_rate_the_new_one_holds(
    one: Rate, other: Rate, before: list[int], after: list[int]
) -> None:
    state, now_s, allowed_s = FULL, 1000.0, []
    for step in before:
        now_s += step / 16
        state = take(shape_of(one), state, 1, 1, now_s).state
    shape = shape_of(other)
    longest_s = shape.longest_s + shape.early_s  # the bucket before may have given a token on credit
    for step in after:
        now_s += step / 16
        taken = take(shape, state, 1, 1, now_s)
        state = taken.state
        assert taken.wait_s <= longest_s + 1e-6
        if taken.tokens:
            allowed_s.append(now_s)
    if allowed_s:
        most = shape.capacity + (allowed_s[-1] - allowed_s[0]) * shape.per_s + shape.credit
        assert len(allowed_s) <= most + 1e-6


@pytest.mark.parametrize("burst", [None, 1, 3])
@pytest.mark.parametrize("amount", [1, 2, 5, 60])
def test_a_client_that_calls_at_the_rate_is_never_refused(amount: int, burst: int | None) -> None:
    rate = Rate(amount, Unit.MINUTE, burst)
    arrivals = [1000.0 + number * 60 / amount for number in range(300)]
    assert allowed(rate, arrivals) == arrivals


@given(RATES, st.lists(st.floats(0, 1), min_size=2, max_size=200))
def test_a_client_whose_calls_at_the_rate_are_delayed_by_some_milliseconds_is_never_refused(
    rate: Rate, delays: list[float]
) -> None:
    longest_s = min(EARLY_S, 0.5 / rate.per_s)
    arrivals = [1000.0 + number / rate.per_s + delay * longest_s for number, delay in enumerate(delays)]
    assert allowed(rate, arrivals) == arrivals


@given(RATES, st.lists(st.floats(0, 1), min_size=20, max_size=200))
def test_calls_that_always_come_early_get_no_more_than_the_rate(rate: Rate, parts: list[float]) -> None:
    shape, now_s, arrivals = shape_of(rate), 1000.0, []
    for part in parts:
        now_s += 1 / rate.per_s - part * shape.early_s
        arrivals.append(now_s)
    found = allowed(rate, arrivals)
    assert len(found) <= shape.capacity + (found[-1] - found[0]) * rate.per_s + shape.credit + 1e-6


@pytest.mark.parametrize("amount", [1, 2, 10, 1000])
def test_of_twice_the_rate_exactly_the_rate_is_allowed(amount: int) -> None:
    arrivals = [1000.0 + number / (2 * amount) for number in range(2 * amount * 10)]
    at_most_one_on_credit = (10 * amount, 10 * amount + 1)
    assert len(allowed(Rate(amount, Unit.SECOND), arrivals)) in at_most_one_on_credit
