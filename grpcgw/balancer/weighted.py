"""Balancing by weights that change with time: what weighs pods, put before what picks by weight.

`SlowStart` and `LoadWeights` weigh, `StridePicker` and `WeightedLeastRequestPicker` pick. Pickers stay immutable: new
weights make a new picker, at most once a second, and a change of the set makes one at once.
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
        """A positive weight for each of `pods`; only their proportions mean something. `now_s` never goes back."""
        ...

    def done(self, pod: Backend, outcome: Outcome) -> None: ...


MakePicker = Callable[[tuple[Backend, ...], Sequence[float]], Picker]


class Weighted:
    """A balancer whose pods weigh the product of what `weighers` say.

    `update` has no time of its own and takes that of the last `refresh`; pods that were there before the first are
    old to it: not they are new, but the gateway.
    """

    def __init__(self, weighers: Sequence[Weigher], make_even: MakePickerEven, make_uneven: MakePicker) -> None:
        """`make_even` makes the picker where all weights are the same, `make_uneven` where they are not."""
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
"""Weights are kept within these multiples of their mean, so that a pick takes few steps and no pod is forgotten."""


class StridePicker:
    """Weighted turns (static stride, as grpc-go and gRPC core do A58): cheap to make, without a lock.

    The turns walk over the pods round by round. In its `round` a pod is taken if its weight, summed up over the
    rounds, has passed a multiple of the largest weight: the heaviest pod in every round, one of half its weight in
    every second. Turns are shared with the pickers before and after.
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
            # Every other pod starts half a step later, or pods of one weight would all be taken in the same rounds.
            if (stride * turn_round + index * (_FULL // 2)) % _FULL >= _FULL - stride:
                return index
