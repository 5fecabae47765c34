"""Zone preference: of the usable pods those that Kubernetes means for this zone (EndpointSlice `hints.forZones`).

As kube-proxy does: hints count only where every ready pod has one and some pod is meant for this zone. Otherwise, and
while no pod meant for the zone can be used, every pod may be picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TypeVar

from grpcgw.balancer.base import Backend
from grpcgw.model.endpoints import Endpoint

AnyBackend = TypeVar("AnyBackend", bound=Backend)

ZoneHints = Mapping[Endpoint, Set[str]]
"""For every ready pod of a cluster, usable or not, the zones it is meant for (empty: no hint)."""


def prefer_zone(pods: Sequence[AnyBackend], hints: ZoneHints, zone: str) -> tuple[AnyBackend, ...]:
    """Those of the usable `pods` to balance over in `zone` (empty: unknown)."""
    if zone and all(hints.values()):
        meant = tuple(pod for pod in pods if zone in hints.get(pod.endpoint, ()))
        if meant:
            return meant
    return tuple(pods)
