"""least_request by power of two choices: of two random pods, the one with fewer RPCs in flight (Envoy's default).

Two choices keep the fullest pod near the mean, and no pod looks best to all pickers at once. The pods count their RPCs;
a count that is one step old costs one choice, not correctness.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Sequence
from itertools import accumulate

from grpcgw.balancer.base import Backend, Outcome

Draw = Callable[[], float]
"""A random number from 0.0 to below 1.0; `random.random` is atomic in CPython, so safe in every thread."""


class LeastRequest:
    def __init__(self, draw: Draw = random.random) -> None:
        self._draw = draw

    def update(self, pods: Sequence[Backend]) -> LeastRequestPicker:
        return LeastRequestPicker(tuple(pods), self._draw)

    def refresh(self, now_s: float) -> None:
        """RPCs in flight are read at each pick."""

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """RPCs in flight are counted by the pod."""


class LeastRequestPicker:
    __slots__ = ("_draw", "_pods")

    def __init__(self, pods: tuple[Backend, ...], draw: Draw) -> None:
        self._pods, self._draw = pods, draw

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        pods = self._pods
        count = len(pods)
        if count < 2:
            return pods[0] if pods else None
        index = int(self._draw() * count)
        other = int(self._draw() * (count - 1))
        one, two = pods[index], pods[other + (other >= index)]  # never the same twice
        if one is avoid:
            return two
        return two if two.in_flight < one.in_flight and two is not avoid else one


class WeightedLeastRequestPicker:
    """Draws pods by weight and compares RPCs in flight in proportion to it.

    Without load every pod gets its share by weight, and under load its RPCs in flight settle at that share.
    """

    __slots__ = ("_draw", "_ends", "_pods", "_weights")

    def __init__(self, pods: tuple[Backend, ...], weights: Sequence[float], draw: Draw) -> None:
        """One positive weight per pod; at least one pod."""
        self._pods, self._weights, self._draw = pods, tuple(weights), draw
        self._ends = tuple(accumulate(weights))

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        pods, weights = self._pods, self._weights
        index, other = self._draw_index(), self._draw_index()
        if pods[index] is avoid:
            index = other if other != index else (index + 1) % len(pods)
        elif pods[other] is not avoid and (
            pods[other].in_flight * weights[index] < pods[index].in_flight * weights[other]
        ):
            index = other
        return pods[index]

    def _draw_index(self) -> int:
        # Rounding may yield the last end itself.
        return min(bisect(self._ends, self._draw() * self._ends[-1]), len(self._pods) - 1)
