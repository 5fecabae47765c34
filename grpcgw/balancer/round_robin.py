"""round_robin: strict turns over the usable pods. The turns survive changes of the set, and workers may share them."""

from __future__ import annotations

from collections.abc import Sequence

from grpcgw.balancer.base import Backend, Outcome, TakeTurn, turns_from


class RoundRobin:
    def __init__(self, take_turn: TakeTurn | None = None) -> None:
        """None: turns of its own, starting at the first pod."""
        self._take_turn = take_turn or turns_from()

    def update(self, pods: Sequence[Backend]) -> RoundRobinPicker:
        return RoundRobinPicker(tuple(pods), self._take_turn)

    def refresh(self, now_s: float) -> None:
        """Turns do not change with time."""

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """Turns do not learn from outcomes."""


class RoundRobinPicker:
    __slots__ = ("_pods", "_take_turn")

    def __init__(self, pods: tuple[Backend, ...], take_turn: TakeTurn) -> None:
        self._pods, self._take_turn = pods, take_turn

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        pods = self._pods
        if not pods:
            return None
        pod = pods[self._take_turn() % len(pods)]
        if pod is avoid and len(pods) > 1:
            turn = self._take_turn()
            pod = pods[turn % len(pods)]
            if pod is avoid:  # another thread took the turn in between
                pod = pods[(turn + 1) % len(pods)]
        return pod
