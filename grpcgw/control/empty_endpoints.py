"""Delays an empty endpoint set while a configuration change is pending.

A Service that is renamed together with its Mapping loses its pods at once, but its Mapping changes only when the
compilation is done. Without the delay RPCs in between would find a route without pods. Pure: the time (seconds,
from any start) is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.endpoints import EndpointSet

GRACE_S = 1.0
"""Shortest delay. Each kind has a watch of its own, so an API server reports the Mapping and the Service of one change
in any order: usually some ms apart, and hundreds where it or this process gets little processor time."""
LIMIT_S = 10.0
"""Longest delay, even while a configuration change is still pending: changes may follow each other without a pause."""


@dataclass(frozen=True, slots=True)
class _Delayed:
    endpoints: EndpointSet
    since_s: float


class EmptySetDelay:
    """Delays the sets that take away the last pod of a cluster. Every other set passes at once."""

    def __init__(self) -> None:
        self._serving: set[str] = set()
        """Clusters whose last published set has pods."""
        self._delayed: dict[str, _Delayed] = {}

    def __bool__(self) -> bool:
        """Whether a set is delayed."""
        return bool(self._delayed)

    def admit(self, cluster: str, endpoints: EndpointSet, now_s: float) -> bool:
        """Whether to publish `endpoints` now. Otherwise `take_due` returns them later, unless a newer set of the
        cluster replaces them."""
        if endpoints.endpoints:
            self._serving.add(cluster)
            self._delayed.pop(cluster, None)
        elif cluster in self._serving:
            earlier = self._delayed.get(cluster)
            self._delayed[cluster] = _Delayed(endpoints, earlier.since_s if earlier is not None else now_s)
            return False
        return True

    def take_due(self, now_s: float, change_pending: bool) -> dict[str, EndpointSet]:
        """The sets to publish now, by cluster. `change_pending`: a configuration change is not yet published."""
        least_s = LIMIT_S if change_pending else GRACE_S
        due = {name: each.endpoints for name, each in self._delayed.items() if now_s - each.since_s >= least_s}
        for cluster in due:
            self.forget(cluster)
        return due

    def forget(self, cluster: str) -> None:
        """The cluster is no longer in use; the next set of this name counts as its first."""
        self._serving.discard(cluster)
        self._delayed.pop(cluster, None)
