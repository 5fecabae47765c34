"""Zone preference: of the usable pods those that Kubernetes means for this zone (EndpointSlice `hints.forZones`).

As kube-proxy does: hints count only where every ready pod has one and some pod is meant for this zone. Otherwise, and
while no pod meant for the zone can be used, every pod may be picked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TypeVar

from grpcgw.balancer.base import Candidate
from grpcgw.config.endpoint import Endpoint

AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


def prefer_zone(
    pods: Sequence[AnyCandidate], hints: Mapping[Endpoint, Set[str]], zone: str
) -> tuple[AnyCandidate, ...]:
    """Those of the usable `pods` to balance over in `zone` (empty: unknown).

    `hints`: for every ready pod of the cluster, usable or not, the zones it is meant for (empty: no hint).
    """
    if zone and all(hints.values()):
        meant = tuple(pod for pod in pods if zone in hints.get(pod.endpoint, ()))
        if meant:
            return meant
    return tuple(pods)
