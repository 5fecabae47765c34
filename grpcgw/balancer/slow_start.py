"""Slow start: the weight of a new pod grows over a window (Envoy's slow start, aggression 1.0).

A pod with cold caches warms up before it gets its full share. If all pods are new, all have the same weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpcgw.balancer.base import Backend, Outcome

MIN_WEIGHT = 0.1
"""Envoy's `min_weight_percent`: the weight of a pod when it joins."""


@dataclass(slots=True)
class _Presence:
    joined_s: float
    seen_s: float


class SlowStart:
    def __init__(self, window_s: float) -> None:
        """`window_s`: seconds from joining to full weight. More than 0."""
        self._window_s = window_s
        self._presences: dict[Backend, _Presence] = {}

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """A pod warms up with time, not with RPCs."""

    def weigh(self, pods: Sequence[Backend], now_s: float) -> list[float]:
        """From MIN_WEIGHT to 1.0, linear over the window.

        A pod that was away for less than the window continues as if it had stayed: a reconnect is no cold start.
        """
        for pod in pods:
            self._presences.setdefault(pod, _Presence(now_s, now_s)).seen_s = now_s
        for pod, presence in tuple(self._presences.items()):
            if now_s - presence.seen_s >= self._window_s:
                del self._presences[pod]
        return [self._factor(now_s - self._presences[pod].joined_s) for pod in pods]

    def _factor(self, age_s: float) -> float:
        return min(1.0, max(MIN_WEIGHT, age_s / self._window_s))
