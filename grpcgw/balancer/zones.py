"""Zone preference: the usable pods that Kubernetes assigns to this zone (EndpointSlice `hints.forZones`).

As in kube-proxy, hints count only if every ready pod has one and some usable pod is assigned to this zone. Otherwise
every usable pod may be picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TypeVar

from grpcgw.balancer.base import Backend
from grpcgw.model.endpoints import Endpoint

AnyBackend = TypeVar("AnyBackend", bound=Backend)

ZoneHints = Mapping[Endpoint, Set[str]]
"""For every ready pod of a cluster, usable or not, the zones it is assigned to (empty: no hint)."""


def prefer_zone(pods: Sequence[AnyBackend], hints: ZoneHints, zone: str) -> tuple[AnyBackend, ...]:
    """The part of the usable `pods` to balance over in `zone` (empty: unknown)."""
    if zone and all(hints.values()):
        meant = tuple(pod for pod in pods if zone in hints.get(pod.endpoint, ()))
        if meant:
            return meant
    return tuple(pods)
