"""Which Mappings serve: each in a version that compiles and that its group can take. Knows generations and groups."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grpcgw.config.generations import LEFT_OUT, SERVES_ON, Build, Generations
from grpcgw.config.grouping import Candidate, Complaint, GroupKey, find_complaints, group_candidates
from grpcgw.config.mappings import CompiledMapping
from grpcgw.config.objects import KubeObject, ObjectKey
from grpcgw.config.parse import Findings

Serving = dict[ObjectKey, CompiledMapping]


def choose_mappings(mappings: Iterable[KubeObject], build: Build[CompiledMapping], generations: Generations) -> Serving:
    """The Mappings that serve, no group of them with a complaint."""
    by_key = {obj.key: obj for obj in mappings}
    serving: Serving = {}
    for key, obj in by_key.items():
        compiled = generations.serve(obj, build)
        if compiled is not None:
            serving[key] = compiled
    for key, complaint in _settle(serving, build, generations).items():
        findings = Findings(by_key[key])
        findings.error(f"{complaint.message}; {SERVES_ON if key in serving else LEFT_OUT}", *complaint.path)
        generations.report(findings)
    _report_lone_shadows(serving, by_key, generations)
    return serving


def group_mappings(serving: Mapping[ObjectKey, CompiledMapping]) -> dict[GroupKey, list[Candidate]]:
    return group_candidates(candidate for compiled in serving.values() for candidate in compiled.candidates)


def _settle(serving: Serving, build: Build[CompiledMapping], generations: Generations) -> dict[ObjectKey, Complaint]:
    """Put the members of groups that do not fit back to their last good versions, or take them out of `serving`.

    One step back is tried: who does not fit in the former version either is taken out. Returns what is wrong with each.
    """
    complaints = _find_all(serving)
    for key in complaints:
        former = generations.serve_earlier(key, build)
        if former is None:
            del serving[key]
        else:
            serving[key] = former
    said = dict(complaints)
    while complaints:  # each round takes one out at least
        complaints = _find_all(serving)
        for key, complaint in complaints.items():
            said.setdefault(key, complaint)
            del serving[key]
    return said


def _find_all(serving: Serving) -> dict[ObjectKey, Complaint]:
    found: dict[ObjectKey, Complaint] = {}
    for members in group_mappings(serving).values():
        if len(members) > 1:
            for position, complaint in find_complaints(members).items():
                found.setdefault(members[position].destination.mapping, complaint)
    return found


def _report_lone_shadows(serving: Serving, by_key: Mapping[ObjectKey, KubeObject], generations: Generations) -> None:
    for members in group_mappings(serving).values():
        if all(member.shadow for member in members):
            findings = Findings(by_key[members[0].destination.mapping])
            findings.notice("there is no other Mapping in its group whose calls it could get copies of", "shadow")
            generations.report(findings)
