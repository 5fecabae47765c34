"""ring_hash: consistent hashing on a ring (gRFC A42, Envoy's ring_hash): a key belongs to the pod of the next point.

With up to 64 pods each has 256 points, independent of the others (in A42 the number changes with every pod): a pod that
leaves moves only its own keys, a pod that joins takes only its own, and shares differ by some 6 % (one standard
deviation). With more pods each has fewer points, so that a ring is made in milliseconds; a change then moves up to 2 %
more.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence

from grpcgw.balancer.base import Backend, Outcome, TakeTurn, turns_from
from grpcgw.balancer.hashing import hash_numbers, next_owner
from grpcgw.balancer.round_robin import RoundRobinPicker
from grpcgw.model.endpoints import Endpoint

_MOST_POINTS, _FEWEST_POINTS = 256, 16
"""Points of one pod. Two pods have a ring of 512 points, four a ring of 1,024, which is A42's smallest."""
_RING_SIZE = 64 * _MOST_POINTS


class RingHash:
    def __init__(self, take_turn: TakeTurn | None = None) -> None:
        """`take_turn` is for RPCs without a key; None: turns of its own."""
        self._take_turn = take_turn or turns_from()
        self._points: dict[Endpoint, list[int]] = {}
        self._points_per_pod = 0

    def update(self, pods: Sequence[Backend]) -> RingHashPicker:
        self._place(pods)
        owners: dict[int, int] = {}
        for index, pod in enumerate(pods):
            owners.update(dict.fromkeys(self._points[pod.endpoint], index))
        ring = sorted(owners)
        anywhere = RoundRobinPicker(tuple(pods), self._take_turn)
        return RingHashPicker(tuple(pods), ring, [owners[point] for point in ring], anywhere)

    def _place(self, pods: Sequence[Backend]) -> None:
        """The points of each pod. They are kept from one set to the next, and sorted, which makes a ring several times
        cheaper."""
        count = _count_points(len(pods))
        known = self._points if count == self._points_per_pod else {}
        self._points_per_pod = count
        self._points = {
            pod.endpoint: known.get(pod.endpoint) or sorted(hash_numbers(str(pod.endpoint), count)) for pod in pods
        }

    def refresh(self, now_s: float) -> None:
        """The ring does not change with time."""

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """The ring does not learn from outcomes."""


def _count_points(pods: int) -> int:
    return max(_FEWEST_POINTS, min(_MOST_POINTS, _RING_SIZE // max(1, pods)))


class RingHashPicker:
    __slots__ = ("_anywhere", "_owners", "_pods", "_ring")

    def __init__(
        self, pods: tuple[Backend, ...], ring: list[int], owners: list[int], anywhere: RoundRobinPicker
    ) -> None:
        """`owners`: for each point of the sorted `ring`, the index of its pod; `anywhere` is for RPCs without a key."""
        self._pods, self._ring, self._owners, self._anywhere = pods, ring, owners, anywhere

    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        """With `avoid`: the owner of the next point of another pod, where the key would go if that pod left."""
        pods, owners = self._pods, self._owners
        if key is None or not pods:
            return self._anywhere.pick(avoid)
        place = bisect(self._ring, key) % len(owners)
        pod = pods[owners[place]]
        if pod is avoid and len(pods) > 1:
            pod = pods[next_owner(owners, place)]
        return pod
