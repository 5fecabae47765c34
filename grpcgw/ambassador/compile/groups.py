"""Chooses the Mappings that serve: versions that compile and that their group accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from grpcgw.ambassador.compile.generations import LEFT_OUT, SERVES_ON, Build, Generations
from grpcgw.ambassador.compile.grouping import (
    Complaint,
    GroupKey,
    GroupMember,
    find_complaints,
    group_members,
    share_weights,
)
from grpcgw.ambassador.compile.mappings import CompiledMapping
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.objects import KubeObject, ObjectKey

ServingMappings = dict[ObjectKey, CompiledMapping]
Groups = dict[GroupKey, list[GroupMember]]


def choose_mappings(
    mappings: Iterable[KubeObject], build: Build[CompiledMapping], generations: Generations
) -> tuple[ServingMappings, Groups]:
    """The Mappings that serve, and their groups, all without complaints."""
    by_key = {obj.key: obj for obj in mappings}
    serving: ServingMappings = {}
    for key, obj in by_key.items():
        compiled = generations.serve(obj, build)
        if compiled is not None:
            serving[key] = compiled
    groups, complaints = _settle(serving, build, generations)
    for key, complaint in complaints.items():
        findings = Findings(by_key[key])
        findings.error(f"{complaint.message}; {SERVES_ON if key in serving else LEFT_OUT}", *complaint.path)
        generations.report(findings)
    _report_weightless(groups, by_key, generations)
    _report_lone_shadows(groups, by_key, generations)
    _report_unrouted(groups, by_key, generations)
    return serving, groups


def _settle(
    serving: ServingMappings, build: Build[CompiledMapping], generations: Generations
) -> tuple[Groups, dict[ObjectKey, Complaint]]:
    """Replace members that do not fit their groups by their last good versions, or remove them from `serving`.

    Only one step back is tried: a Mapping whose former version does not fit either is removed. Returns their problems.
    """
    groups = _group(serving)
    complaints = _find_complaints(groups)
    said = dict(complaints)
    for key in complaints:
        former = generations.serve_earlier(key, build)
        if former is None:
            del serving[key]
        else:
            serving[key] = former
    while complaints:  # each round but the first removes at least one
        groups = _group(serving)
        complaints = _find_complaints(groups)
        for key, complaint in complaints.items():
            said.setdefault(key, complaint)
            del serving[key]
    return groups, said


def _group(serving: Mapping[ObjectKey, CompiledMapping]) -> Groups:
    return group_members(member for compiled in serving.values() for member in compiled.members)


def _find_complaints(groups: Groups) -> dict[ObjectKey, Complaint]:
    found: dict[ObjectKey, Complaint] = {}
    for members in groups.values():
        if len(members) > 1:
            for position, complaint in find_complaints(members).items():
                found.setdefault(members[position].destination.key, complaint)
    return found


def _report_weightless(groups: Groups, by_key: Mapping[ObjectKey, KubeObject], generations: Generations) -> None:
    """Equal shares are legal, but usually two files with the same prefix by mistake."""
    noted: dict[ObjectKey, str] = {}
    for group, members in groups.items():
        sharing = [member for member in members if not member.shadow] if len(members) > 1 else ()
        if len(sharing) > 1 and all(member.weight is None for member in sharing):
            first, second = sharing[0].destination, sharing[1].destination
            noted.setdefault(
                second.key,
                f"shares the calls of {group.prefix} equally with {first.label}, as none of them has a weight; give one"
                " a weight, or a prefix, host or headers of its own",
            )
    for key, message in noted.items():
        findings = Findings(by_key[key])
        findings.notice(message, "prefix")
        generations.report(findings)


def _report_lone_shadows(groups: Groups, by_key: Mapping[ObjectKey, KubeObject], generations: Generations) -> None:
    for members in groups.values():
        if members[0].shadow and all(member.shadow for member in members):
            findings = Findings(by_key[members[0].destination.key])
            findings.notice("gets no copies of calls: its group has no other Mapping", "shadow")
            generations.report(findings)


def _report_unrouted(groups: Groups, by_key: Mapping[ObjectKey, KubeObject], generations: Generations) -> None:
    """A sum below 100 is legal, but usually a mistake."""
    totals: dict[ObjectKey, tuple[str, int]] = {}
    for group, members in groups.items():
        serving = [member for member in members if not member.shadow] if len(members) > 1 else ()
        if len(serving) > 1:
            total = sum(share_weights([member.weight for member in serving]) or ())
            totals[serving[0].destination.key] = (group.prefix, total)
    for key, (prefix, total) in totals.items():
        if total < 100:
            findings = Findings(by_key[key])
            findings.notice(
                f"the weights over {prefix} add up to {total}, so {100 - total} of 100 calls end with UNAVAILABLE;"
                " leave the weight of one Mapping out, and it gets the rest",
                "weight",
            )
            generations.report(findings)
