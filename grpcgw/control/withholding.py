"""When to believe that a cluster has lost its last pod: not while the configuration that needs it may be about to go.

A Service that is renamed together with its Mapping loses its pods at once, and its Mapping only when the change is
compiled. Decides only; knows neither who compiles nor how long that takes. The time (monotonic) is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.endpoints import EndpointSet

GRACE_S = 0.1
"""For so long at least: an API server tells of objects of several kinds in any order, a few ms apart."""
LIMIT_S = 2.0
"""For so long at most, whatever is being compiled."""


@dataclass(frozen=True, slots=True)
class _Withheld:
    endpoints: EndpointSet
    since_s: float


class Withholding:
    """Holds back the sets that take away the last pod of a cluster. Every other set is let through at once."""

    def __init__(self) -> None:
        self._serving: set[str] = set()
        """The clusters that have pods, by the set last let through."""
        self._withheld: dict[str, _Withheld] = {}

    def __bool__(self) -> bool:
        """Whether something is withheld."""
        return bool(self._withheld)

    def admit(self, cluster: str, endpoints: EndpointSet, now_s: float) -> bool:
        """Whether to publish `endpoints` now. Otherwise they are withheld, and come from `release`, unless a newer set
        of the cluster takes their place."""
        if endpoints.endpoints:
            self._serving.add(cluster)
            self._withheld.pop(cluster, None)
        elif cluster in self._serving:
            earlier = self._withheld.get(cluster)
            self._withheld[cluster] = _Withheld(endpoints, earlier.since_s if earlier is not None else now_s)
            return False
        return True

    def release(self, now_s: float, compiling: bool) -> dict[str, EndpointSet]:
        """What is to be published now, by cluster. `compiling`: a change of the configuration is not yet in force."""
        least_s = LIMIT_S if compiling else GRACE_S
        due = {name: each.endpoints for name, each in self._withheld.items() if now_s - each.since_s >= least_s}
        for cluster in due:
            self.forget(cluster)
        return due

    def forget(self, cluster: str) -> None:
        """Nobody wants to know of it any more; the next set of this name is a first one."""
        self._serving.discard(cluster)
        self._withheld.pop(cluster, None)
