"""maglev: consistent hashing by a table (Maglev, NSDI 2016, section 3.4), with one lookup a pick and even shares.

Pods take turns at choosing a free entry, each in an order that depends only on its address. Shares differ by at most
one entry. When a pod leaves, its keys move, and a few others with them (one key in 200 for 64 pods).
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence

from grpcgw.balancer.base import Backend, Outcome, TakeTurn, turns_from
from grpcgw.balancer.hashing import hash_numbers, next_owner
from grpcgw.balancer.round_robin import RoundRobinPicker

TABLE_SIZE = 65_537
"""A prime, so that every step reaches every entry. Envoy's default, enough for some hundred pods."""

_REMEMBERED_TABLES = 4
"""Filling a table takes 15 to 40 ms, which a flapping pod must not cost each time."""


class Maglev:
    def __init__(self, take_turn: TakeTurn | None = None) -> None:
        """`take_turn` is for RPCs without a key; None: turns of its own."""
        self._take_turn = take_turn or turns_from()
        self._tables: dict[tuple[str, ...], array[int]] = {}

    def update(self, pods: Sequence[Backend]) -> MaglevPicker:
        names = tuple(str(pod.endpoint) for pod in pods)
        table = self._tables.pop(names, None)
        if table is None:
            table = _fill_table(names)
        self._tables[names] = table
        while len(self._tables) > _REMEMBERED_TABLES:
            del self._tables[next(iter(self._tables))]  # the least recently used
        return MaglevPicker(tuple(pods), table, RoundRobinPicker(tuple(pods), self._take_turn))

    def refresh(self, now_s: float) -> None:
        """The table does not change with time."""

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """The table does not learn from outcomes."""


def _fill_table(names: Sequence[str]) -> array[int]:
    """The index of a pod for each entry. Pods beyond TABLE_SIZE would never get an RPC."""
    if not names:
        return array("I")
    numbers = [hash_numbers(name, 2) for name in names]
    places = [first % TABLE_SIZE for first, _ in numbers]
    steps = [1 + second % (TABLE_SIZE - 1) for _, second in numbers]
    free = -1
    table = [free] * TABLE_SIZE
    # The innermost loop runs some 700,000 times.
    for index, _ in zip(itertools.cycle(range(len(names))), range(TABLE_SIZE), strict=False):
        place, step = places[index], steps[index]
        while table[place] >= 0:
            place += step
            if place >= TABLE_SIZE:
                place -= TABLE_SIZE
        table[place] = index
        places[index] = place
    return array("I", table)


class MaglevPicker:
    __slots__ = ("_anywhere", "_pods", "_table")

    def __init__(self, pods: tuple[Backend, ...], table: array[int], anywhere: RoundRobinPicker) -> None:
        """`anywhere` picks for RPCs without a key."""
        self._pods, self._table, self._anywhere = pods, table, anywhere

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        """With `avoid`: the pod of the next entry that belongs to another pod."""
        pods = self._pods
        if key is None or not pods:
            return self._anywhere.pick(avoid)
        place = key % TABLE_SIZE
        pod = pods[self._table[place]]
        if pod is avoid and len(pods) > 1:
            pod = pods[next_owner(self._table, place)]
        return pod
