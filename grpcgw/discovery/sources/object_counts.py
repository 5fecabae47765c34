"""Counts the objects of a source: how many are configuration, how many are ignored, and of which kinds.

So that the log and `grpcgw check` show when a directory is the wrong one. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from grpcgw.logs import count
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import KubeObject, Problem, Severity

_OF_KUBERNETES = {
    "v1": frozenset({"Endpoints", "Secret", "Service"}),
    "discovery.k8s.io/v1": frozenset({"EndpointSlice"}),
}
"""Kubernetes' own kinds that grpcgw reads, by apiVersion."""
MAX_NAMED_FILES = 5
"""Ignored files that `describe_counts` names."""


@dataclass(frozen=True, slots=True)
class ObjectCounts:
    configuration: int = 0
    """Objects of the dialect's kinds for this gateway."""
    kubernetes: int = 0
    """Services, Endpoints, EndpointSlices, Secrets."""
    other_gateways: int = 0
    """Objects of the dialect's kinds for another gateway."""
    gateway_field: str = ""
    """`DialectObjects.gateway_field`."""
    ignored: tuple[tuple[str, int], ...] = ()
    """Kinds that are not read, and the number of objects of each."""

    @property
    def read(self) -> int:
        return self.configuration + self.kubernetes

    def describe_ignored(self) -> Iterator[str]:
        yield from (f"{number} {kind}" for kind, number in self.ignored)
        if self.other_gateways:
            yield f"{self.other_gateways} for another {self.gateway_field}"


def count_objects(objects: Iterable[KubeObject], dialect: DialectObjects) -> ObjectCounts:
    configuration = kubernetes = other_gateways = 0
    ignored: Counter[str] = Counter()
    for obj in objects:
        if dialect.owns(obj):
            mine = dialect.is_meant_for(obj)
            configuration, other_gateways = configuration + mine, other_gateways + (not mine)
        elif obj.key.kind in _OF_KUBERNETES.get(obj.api_version, ()):
            kubernetes += 1
        else:
            ignored[obj.key.kind] += 1
    return ObjectCounts(
        configuration, kubernetes, other_gateways, dialect.gateway_field, tuple(sorted(ignored.items()))
    )


def describe_counts(counts: ObjectCounts, files: int, ignored_files: Sequence[str]) -> str:
    """`3 objects in 1 file read; ignored: 1 Deployment, notes.txt`."""
    text = f"{count(counts.read, 'object')} in {count(files, 'file')} read"
    ignored = [*counts.describe_ignored(), *ignored_files[:MAX_NAMED_FILES]]
    if len(ignored_files) > MAX_NAMED_FILES:
        ignored.append(f"{len(ignored_files) - MAX_NAMED_FILES} more files")
    return f"{text}; ignored: {', '.join(ignored)}" if ignored else text


def find_missing_configuration(counts: ObjectCounts, files: int, place: str) -> Problem | None:
    """The problem of a directory without configuration, which is mostly the wrong directory."""
    if counts.configuration:
        return None
    if not files:
        return Problem(Severity.ERROR, "there is no YAML or JSON file here: is it the right directory?", place)
    return Problem(Severity.NOTICE, "no object here is configuration for this gateway", place)
