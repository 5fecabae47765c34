"""Selects the objects that configure this gateway, by kind; reports Ambassador's kinds that are not read."""

from __future__ import annotations

from collections.abc import Iterable

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.misspelt import guess_kind
from grpcgw.ambassador.compile.unenforced_guards import AUTH_MODULE, GUARDING_KINDS
from grpcgw.ambassador.spec.parse import Findings, is_meant_for
from grpcgw.ambassador.spec.resources import API_GROUPS, MODELS, PLANNED_KINDS
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject


class ObjectsByKind:
    """The objects that configure the gateway with this id, by kind, in the order of their keys."""

    def __init__(self, objects: Iterable[KubeObject], ambassador_id: str) -> None:
        self._by_kind: dict[str, list[KubeObject]] = {}
        every = list(objects)
        self.has_unreadable_file = any(obj.key.kind == UNREADABLE_FILE for obj in every)
        mine = (
            obj for obj in every if obj.api_version.partition("/")[0] in API_GROUPS and is_meant_for(obj, ambassador_id)
        )
        for obj in sorted(mine, key=lambda obj: (obj.key.kind, obj.key.namespace, obj.key.name)):
            self._by_kind.setdefault(obj.key.kind, []).append(obj)

    @property
    def kinds(self) -> Iterable[str]:
        return self._by_kind

    def modules(self) -> list[KubeObject]:
        return [obj for obj in self.of("Module") if obj.key.name != AUTH_MODULE]

    def guards(self) -> list[KubeObject]:
        return [*self.of(*GUARDING_KINDS), *(obj for obj in self.of("Module") if obj.key.name == AUTH_MODULE)]

    def of(self, *kinds: str) -> list[KubeObject]:
        return [obj for kind in sorted(kinds) for obj in self._by_kind.get(kind, ())]


def report_other_kinds(configuration: ObjectsByKind, generations: Generations) -> None:
    for kind in configuration.kinds:
        if kind in MODELS or kind in GUARDING_KINDS:
            continue
        for obj in configuration.of(kind):
            if kind in PLANNED_KINDS:
                findings = Findings(obj)
                findings.notice(f"{kind} is not supported yet: {PLANNED_KINDS[kind]}")
                generations.report(findings)
            else:
                meant = guess_kind(kind)
                hint = f", did you mean {meant}" if meant else ""
                generations.leave_out(obj, f"kind {kind} is unknown in {obj.api_version}{hint}")
