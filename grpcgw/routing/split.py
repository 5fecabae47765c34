"""Splits the RPCs of a Route: exact shares by weight, in turns or by the hash of a header.

Deterministic, no randomness; by hash it is the same on every worker and every gateway.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, count
from math import gcd
from typing import Generic, TypeVar

T = TypeVar("T")

LONGEST_CYCLE = 1000
"""Turns that are stored; a longer cycle is computed turn by turn."""


class Split(Generic[T]):
    """The turns of one Route's choices; lives as long as the route is served.

    Safe to share between threads without a lock: the turns are a fixed cycle, and the only thing that changes is an
    `itertools.count`, whose `next` is one uninterruptible step. Two threads never take the same turn.
    """

    __slots__ = ("_bounds", "_choices", "_count", "_cycle", "_total")

    def __init__(self, choices: Sequence[tuple[T, int]], unrouted: int = 0) -> None:
        """`choices` with their weights; `unrouted` is the weight of None. If all are 0, every pick is None.

        Raises ValueError for a negative weight.
        """
        weights = [weight for _, weight in choices]
        if min((*weights, unrouted)) < 0:
            raise ValueError(f"a weight is negative: {weights}, {unrouted} unrouted")
        self._choices = tuple(choice for choice, _ in choices)
        self._bounds = tuple(accumulate(weights))
        self._total = sum(weights) + unrouted
        self._cycle = _make_cycle((*self._choices, None), (*weights, unrouted))
        self._count = count()

    def pick(self) -> T | None:
        """The choice of the next RPC; None: this RPC is in the unrouted share."""
        cycle = self._cycle
        if len(cycle) == 1:
            return cycle[0]
        return cycle[next(self._count) % len(cycle)]

    def pick_for(self, value: str | bytes) -> T | None:
        """The choice of all RPCs with this value of the sticky header.

        Each choice owns a range of hashes as wide as its weight, in the order given: if a weight grows at the cost of
        the first or last choice, the callers of the growing one stay with it.
        """
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        hashed = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
        position = bisect_right(self._bounds, hashed * self._total >> 64)
        return self._choices[position] if position < len(self._choices) else None


def _make_cycle(choices: Sequence[T | None], weights: Sequence[int]) -> Sequence[T | None]:
    """The shortest sequence in which each choice has its exact share."""
    used = [(choice, weight) for choice, weight in zip(choices, weights, strict=True) if weight]
    if len(used) < 2:
        return (used[0][0] if used else None,)
    divisor = gcd(*weights)
    choices, weights = [choice for choice, _ in used], [weight // divisor for _, weight in used]
    return _spread(choices, weights) if sum(weights) <= LONGEST_CYCLE else _LongCycle(choices, weights)


def _spread(choices: Sequence[T | None], weights: Sequence[int]) -> tuple[T | None, ...]:
    """A cycle that spreads each choice as evenly as possible.

    Smooth weighted round robin (nginx's rule): in each step every choice gains its weight, the richest is taken and
    pays the total; the first of equals wins.
    """
    total = sum(weights)
    credits = [0] * len(choices)
    cycle: list[T | None] = []
    for _ in range(total):
        credits = [credit + weight for credit, weight in zip(credits, weights, strict=True)]
        richest = credits.index(max(credits))
        credits[richest] -= total
        cycle.append(choices[richest])
    return tuple(cycle)


class _LongCycle(Sequence[T | None]):
    """A cycle of any length in constant memory: turns step through the weights' ranges by a stride.

    The stride has no common divisor with the length, so that a cycle visits each place once; near the golden ratio it
    spreads the turns of each choice evenly.
    """

    __slots__ = ("_bounds", "_choices", "_length", "_stride")

    def __init__(self, choices: Sequence[T | None], weights: Sequence[int]) -> None:
        self._choices, self._bounds = choices, tuple(accumulate(weights))
        self._length = self._bounds[-1]
        stride = round(self._length * 0.618034)
        while gcd(stride, self._length) != 1:
            stride += 1
        self._stride = stride

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, turn: int) -> T | None:  # type: ignore[override]  # no slices
        return self._choices[bisect_right(self._bounds, turn * self._stride % self._length)]
