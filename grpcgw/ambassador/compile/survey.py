"""What of the objects that were found is read, and what is passed over: so that a wrong directory does not look right.

Gives no object a meaning; knows which kinds have one. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from grpcgw.ambassador.spec.parse import is_meant_for
from grpcgw.ambassador.spec.resources import API_GROUPS
from grpcgw.logs import count
from grpcgw.model.objects import KubeObject, Problem, Severity

_OF_KUBERNETES = {
    "v1": frozenset({"Endpoints", "Secret", "Service"}),
    "discovery.k8s.io/v1": frozenset({"EndpointSlice"}),
}
"""What grpcgw reads beside Ambassador's kinds, by apiVersion."""


@dataclass(frozen=True, slots=True)
class Survey:
    configuration: int = 0
    """Objects of Ambassador's kinds that are for this gateway."""
    others: int = 0
    """Services, endpoints, Secrets."""
    for_other_gateways: int = 0
    passed_over: tuple[tuple[str, int], ...] = ()
    """Kinds that are not read, with how many there are."""

    @property
    def read(self) -> int:
        return self.configuration + self.others

    def name_passed_over(self) -> Iterator[str]:
        yield from (f"{number} {kind}" for kind, number in self.passed_over)
        if self.for_other_gateways:
            yield f"{self.for_other_gateways} for another ambassador_id"


def survey(objects: Iterable[KubeObject], ambassador_id: str) -> Survey:
    configuration = others = elsewhere = 0
    passed_over: Counter[str] = Counter()
    for obj in objects:
        if obj.api_version.partition("/")[0] in API_GROUPS:
            mine = is_meant_for(obj, ambassador_id)
            configuration, elsewhere = configuration + mine, elsewhere + (not mine)
        elif obj.key.kind in _OF_KUBERNETES.get(obj.api_version, ()):
            others += 1
        else:
            passed_over[obj.key.kind] += 1
    return Survey(configuration, others, elsewhere, tuple(sorted(passed_over.items())))


MOST_NAMED = 5


def describe(found: Survey, files: int, other_files: Sequence[str]) -> str:
    """`3 objects in 1 file read; passed over: 1 Deployment, notes.txt`. `other_files`: those that were not read."""
    text = f"{count(found.read, 'object')} in {count(files, 'file')} read"
    others = [*found.name_passed_over(), *other_files[:MOST_NAMED]]
    if len(other_files) > MOST_NAMED:
        others.append(f"{len(other_files) - MOST_NAMED} more files")
    return f"{text}; passed over: {', '.join(others)}" if others else text


def find_nothing(found: Survey, files: int, place: str) -> Problem | None:
    """A directory without configuration is mostly the wrong one."""
    if found.configuration:
        return None
    if not files:
        return Problem(Severity.ERROR, "there is no YAML or JSON file here: is it the right directory?", place)
    return Problem(Severity.NOTICE, "no object here is configuration for this gateway", place)
