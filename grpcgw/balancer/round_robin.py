"""Strict turns over the usable pods, one turn counter per cluster and worker that survives changes of the set.

Each worker starts at another pod, so that a few RPCs over many workers spread as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from grpcgw.balancer.base import Candidate, Outcome


class RoundRobin:
    def __init__(self, seed: int = 0) -> None:
        """`seed` (the worker's number) is the position of the first pick."""
        # next() on itertools.count is one step of the interpreter: two threads never get the same turn, without a lock.
        self._turns = itertools.count(seed)

    def update(self, pods: Sequence[Candidate]) -> RoundRobinPicker:
        return RoundRobinPicker(tuple(pods), self._turns)

    def refresh(self, now_s: float) -> None:
        """Turns do not change with time."""

    def done(self, pod: Candidate, outcome: Outcome) -> None:
        """Turns do not learn from outcomes."""


class RoundRobinPicker:
    __slots__ = ("_pods", "_turns")

    def __init__(self, pods: tuple[Candidate, ...], turns: itertools.count[int]) -> None:
        self._pods, self._turns = pods, turns

    def pick(self, avoid: Candidate | None = None, key: int | None = None) -> Candidate | None:
        pods = self._pods
        if not pods:
            return None
        pod = pods[next(self._turns) % len(pods)]
        if pod is avoid and len(pods) > 1:
            turn = next(self._turns)
            pod = pods[turn % len(pods)]
            if pod is avoid:  # another thread took the turn between
                pod = pods[(turn + 1) % len(pods)]
        return pod
