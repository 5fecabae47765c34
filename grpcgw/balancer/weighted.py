"""Balancing by weights that change with time: a balancer that combines weighers with a weighted picker.

`SlowStart` and `LoadWeights` weigh, `StridePicker` and `WeightedLeastRequestPicker` pick. Pickers are immutable: new
weights make a new picker, at most once a second; a change of the set makes one at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import fsum, prod
from typing import Protocol

from grpcgw.balancer.base import Backend, Outcome, Picker, TakeTurn

UPDATE_PERIOD_S = 1.0
"""A58's `weight_update_period`, and the step of Envoy's slow start."""


class Weigher(Protocol):
    def weigh(self, pods: Sequence[Backend], now_s: float) -> Sequence[float]:
        """A positive weight for each of `pods`; only their proportions matter. `now_s` never decreases."""
        ...

    def done(self, pod: Backend, outcome: Outcome) -> None: ...


MakePicker = Callable[[tuple[Backend, ...], Sequence[float]], Picker]


class Weighted:
    """A balancer by the product of the weights from `weighers`.

    `update` uses the time of the last `refresh`. Pods that are there before the first `refresh` count as old: the
    gateway is new, not they.
    """

    def __init__(self, weighers: Sequence[Weigher], make_even: MakePickerEven, make_uneven: MakePicker) -> None:
        """`make_even` makes the picker if all weights are equal, otherwise `make_uneven`."""
        self._weighers, self._make_even, self._make_uneven = tuple(weighers), make_even, make_uneven
        self._pods: tuple[Backend, ...] = ()
        self._weights: tuple[float, ...] = ()
        self._now_s = self._weighed_s = 0.0

    def update(self, pods: Sequence[Backend]) -> Picker:
        self._pods = tuple(pods)
        self._weights = self._weigh()
        return self._make_picker()

    def refresh(self, now_s: float) -> Picker | None:
        self._now_s = now_s
        if now_s - self._weighed_s < UPDATE_PERIOD_S:
            return None
        before, self._weights = self._weights, self._weigh()
        return None if self._weights == before else self._make_picker()

    def done(self, pod: Backend, outcome: Outcome) -> None:
        for weigher in self._weighers:
            weigher.done(pod, outcome)

    def _weigh(self) -> tuple[float, ...]:
        self._weighed_s = self._now_s
        columns = [weigher.weigh(self._pods, self._now_s) for weigher in self._weighers]
        return tuple(prod(factors) for factors in zip(*columns, strict=True))

    def _make_picker(self) -> Picker:
        if len(set(self._weights)) <= 1:
            return self._make_even(self._pods)
        return self._make_uneven(self._pods, self._weights)


MakePickerEven = Callable[[tuple[Backend, ...]], Picker]

_FULL = 0xFFFF
_LIGHTEST, _HEAVIEST = 0.01, 10.0
"""Weights are kept within these multiples of their mean, so that a pick takes few steps and every pod gets RPCs."""


class StridePicker:
    """Weighted turns by a static stride scheduler (A58, as in grpc-go and gRPC core): cheap to make, without a lock.

    The turns go over the pods round by round. A pod is taken in a round if its weight, summed over the rounds, has
    passed a multiple of the largest weight: the heaviest pod in every round, a pod of half its weight in every second.
    The turns continue from one picker to the next.
    """

    __slots__ = ("_pods", "_strides", "_take")

    def __init__(self, pods: tuple[Backend, ...], weights: Sequence[float], take_turn: TakeTurn) -> None:
        """One positive weight per pod; at least one pod."""
        mean = fsum(weights) / len(weights)
        bounded = [min(max(weight / mean, _LIGHTEST), _HEAVIEST) for weight in weights]
        heaviest = max(bounded)
        self._pods, self._take = pods, take_turn
        self._strides = tuple(max(1, round(weight / heaviest * _FULL)) for weight in bounded)

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        index = self._take_turn()
        pod = self._pods[index]
        if pod is avoid and len(self._pods) > 1:
            pod = self._pods[self._take_turn()]
            if pod is avoid:
                pod = self._pods[(index + 1) % len(self._pods)]
        return pod

    def _take_turn(self) -> int:
        strides, take = self._strides, self._take
        count = len(strides)
        while True:  # ends: the heaviest pod is taken in every round
            turn_round, index = divmod(take(), count)
            stride = strides[index]
            # Every other pod starts half a step later; otherwise equal pods would be taken in the same rounds.
            if (stride * turn_round + index * (_FULL // 2)) % _FULL >= _FULL - stride:
                return index
