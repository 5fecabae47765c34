"""A token bucket as two times, and what to take from it: the arithmetic of rate limits. Pure.

A bucket of `capacity` tokens refills by `per_s` from the time `refills_from_s` on, and is full at `full_at_s`. Times
are seconds on the monotonic clock, which all processes of a machine share.

Without a burst of its own a limit holds back: a bucket that was full refills so late that the first new token is there
one unit after the first one was taken. So each unit from then on allows exactly the rate, and not twice as much, as a
full bucket that refills would, or two windows of a clock side by side; and who calls at the rate is never refused.

Nobody calls exactly at a rate: a call that comes a little early takes its token on credit (`BucketShape.credit`), and
the next one waits so much longer. Without that a client that calls once per second would be refused by a limit of 1 per
second whenever two calls come less than a second apart: every third time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from grpcgw.model.rate_limits import Rate

NEVER_S = 86_400.0
"""What a client should wait that no rate will ever allow."""
EARLY_S = 0.05
"""So early a call may come that the rate allows, as it is delayed by less than the one before; at most half the time
between two calls at the rate."""
_ROUNDING = 1e-6
"""A token that lacks no more than this is there: times are rounded."""


@dataclass(frozen=True, slots=True)
class BucketShape:
    capacity: int
    per_s: float
    hold_s: float
    """How long a bucket that was full waits with its refill."""

    @property
    def credit(self) -> float:
        """The part of a token that may lack: less than one, so that a full bucket never gives more than it holds."""
        return min(EARLY_S * self.per_s, 0.5) + _ROUNDING

    @property
    def early_s(self) -> float:
        """How long before there is a token it may be taken."""
        return self.credit / self.per_s if self.per_s else 0.0

    @property
    def refill_s(self) -> float:
        """Until an empty bucket is full."""
        return self.capacity / self.per_s if self.per_s else 0.0

    @property
    def longest_s(self) -> float:
        """Until any bucket is full."""
        return self.hold_s + self.refill_s

    def allows(self, tokens: int) -> bool:
        """Whether it will ever have so many."""
        return self.per_s > 0 and tokens <= self.capacity


def shape_of(rate: Rate) -> BucketShape:
    if rate.burst is None:
        hold_s = (rate.amount - 1) / rate.per_s if rate.amount else 0.0
        return BucketShape(rate.amount, rate.per_s, hold_s)
    return BucketShape(rate.burst, rate.per_s, 0.0)


@dataclass(frozen=True, slots=True)
class BucketState:
    full_at_s: float
    refills_from_s: float
    per_s: float = 0.0
    """The rate that the times are of, so that the tokens it lacks are known when the rate has changed; 0.0: any."""


FULL = BucketState(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Taken:
    state: BucketState
    tokens: int
    """How many were taken; 0: there are fewer than were asked for at least."""
    wait_s: float
    """0.0: as many as were asked for at most were taken. Else until there is one more or, where none was taken, until
    there are as many as were asked for at least, without credit."""


def take(shape: BucketShape, state: BucketState, least: int, most: int, now_s: float) -> Taken:
    """Take at most `most` tokens and at least `least`, or none."""
    if not shape.allows(least):
        return Taken(state, 0, NEVER_S)
    state = _fit(shape, state, now_s)
    available, is_full = _available(shape, state, now_s)
    refills_from_s = now_s + shape.hold_s if is_full else max(state.refills_from_s, now_s)
    if available + shape.credit < least:
        return Taken(state, 0, refills_from_s - now_s + (least - available) / shape.per_s)
    tokens = min(most, math.floor(available + shape.credit))
    left = available - tokens
    full_at_s = refills_from_s + (shape.capacity - left) / shape.per_s
    wait_s = 0.0 if tokens == most else refills_from_s - now_s + (1.0 - left) / shape.per_s
    return Taken(BucketState(full_at_s, refills_from_s, shape.per_s), tokens, wait_s)


@dataclass(frozen=True, slots=True)
class Level:
    """How full a bucket is."""

    tokens: int
    full_in_s: float


def look(shape: BucketShape, state: BucketState, now_s: float) -> Level:
    state = _fit(shape, state, now_s)
    available, _ = _available(shape, state, now_s)
    return Level(max(0, math.floor(available + shape.credit)), max(0.0, state.full_at_s - now_s))


def give_back(shape: BucketShape, state: BucketState, tokens: int) -> BucketState:
    """Tokens that were taken and not used."""
    per_s = state.per_s or shape.per_s
    if not per_s:
        return state
    return replace(state, full_at_s=max(state.refills_from_s, state.full_at_s - tokens / per_s))


def _fit(shape: BucketShape, state: BucketState, now_s: float) -> BucketState:
    """The state of a bucket whose rate has changed: it lacks as many tokens as before, but is no emptier than one of
    this shape can be. Else a client would wait as long as the rate before would have made it wait."""
    if not shape.per_s:
        return state
    refills_from_s = min(state.refills_from_s, now_s + shape.hold_s)
    since_s, full_at_s = max(refills_from_s, now_s), state.full_at_s
    if state.per_s and state.per_s != shape.per_s:
        lacks_s = max(0.0, full_at_s - max(state.refills_from_s, now_s))
        full_at_s = since_s + lacks_s * state.per_s / shape.per_s if lacks_s else now_s
    return BucketState(min(full_at_s, since_s + shape.refill_s + shape.early_s), refills_from_s, shape.per_s)


def _available(shape: BucketShape, state: BucketState, now_s: float) -> tuple[float, bool]:
    """Tokens that are there, negative where one was taken on credit, and whether the bucket is full."""
    if state.full_at_s <= now_s:
        return float(shape.capacity), True
    since_s = max(state.refills_from_s, now_s)
    return shape.capacity - (state.full_at_s - since_s) * shape.per_s, False
