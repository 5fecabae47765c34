"""Weighted split of a Route over its destinations: exact shares, in turns or by the hash of a header.

Deterministic, without randomness. By hash, every worker and every gateway decides alike.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate, count
from math import gcd

from grpcgw.model.route import Destination

_FULL = 100


class Split:
    """The turns of one Route's destinations; lives as long as the Route is served.

    Safe to share between threads without a lock: the turns are a fixed cycle, and the only thing that changes is an
    `itertools.count`, whose `next` is one uninterruptible step. Two threads never take the same turn.
    """

    __slots__ = ("_bounds", "_count", "_cycle", "_destinations")

    def __init__(self, destinations: Sequence[Destination]) -> None:
        """The weights of `destinations` add up to at most 100; RPCs of the missing share are refused."""
        self._cycle = _make_cycle(destinations)
        self._count = count()
        self._destinations = tuple(destinations)
        self._bounds = tuple(accumulate(destination.weight_percent for destination in destinations))

    def pick(self) -> Destination | None:
        """The destination of the next RPC; None: it is in the share that the weights leave unrouted."""
        cycle = self._cycle
        if len(cycle) == 1:
            return cycle[0]
        return cycle[next(self._count) % len(cycle)]

    def pick_for(self, value: str | bytes) -> Destination | None:
        """The destination of all RPCs with this value of the sticky header.

        Each destination owns a range of hashes as wide as its weight, in the order given: where a weight grows at the
        expense of the first or last destination, its own callers stay.
        """
        data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        hashed = int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
        position = bisect_right(self._bounds, hashed * _FULL >> 64)
        return self._destinations[position] if position < len(self._destinations) else None


def _make_cycle(destinations: Sequence[Destination]) -> tuple[Destination | None, ...]:
    """The shortest sequence in which each destination has its exact share, spread as evenly as possible.

    Smooth weighted round robin (nginx's rule): in each step every entry gains its weight as credit, the entry with
    the most credit is taken and loses the total; the first of equals wins.
    """
    entries: list[Destination | None] = list(destinations)
    weights = [destination.weight_percent for destination in destinations]
    if sum(weights) > _FULL:
        raise ValueError(f"weights add up to {sum(weights)}, more than {_FULL}")
    if sum(weights) < _FULL:
        entries.append(None)
        weights.append(_FULL - sum(weights))
    credits = [0] * len(entries)
    cycle: list[Destination | None] = []
    for _ in range(_FULL // gcd(*weights)):
        credits = [credit + weight for credit, weight in zip(credits, weights, strict=True)]
        richest = credits.index(max(credits))
        credits[richest] -= _FULL
        cycle.append(entries[richest])
    return tuple(cycle)
