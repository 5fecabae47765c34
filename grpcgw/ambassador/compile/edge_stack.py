"""The AuthService and RateLimitService that Edge Stack installs for itself: its own process behind 127.0.0.1 enforces
Filters and RateLimits. Here the gateway does, so nobody is asked. Source: Edge Stack's manifests and documentation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grpcgw.ambassador.compile.guards import GuardContext
from grpcgw.ambassador.spec.parse import Findings, raw_spec
from grpcgw.model.objects import KubeObject, read_metadata

_ADDRESS = "127.0.0.1:8500"
_ENFORCED_HERE = "has no effect: it is the service of Edge Stack itself, whose {} this gateway enforces"


def leave_out_own(
    objects: Sequence[KubeObject], service_field: str, enforced: str, context: GuardContext
) -> list[KubeObject]:
    """Without those of Edge Stack's own, each of which gets a notice. `enforced`: what they are for."""
    others = []
    for obj in objects:
        if not _is_own(obj, service_field):
            others.append(obj)
            continue
        findings = Findings(obj)
        findings.notice(_ENFORCED_HERE.format(enforced), service_field)
        context.generations.report(findings)
    return others


def _is_own(obj: KubeObject, service_field: str) -> bool:
    """By its address, and by its name or label: something else may listen there beside the gateway."""
    spec = raw_spec(obj)
    if not isinstance(spec, Mapping) or spec.get(service_field) != _ADDRESS:
        return False
    return "edge-stack" in obj.key.name or read_metadata(obj, "labels").get("product") == "aes"
