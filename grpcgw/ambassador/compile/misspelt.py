"""Objects with an unknown kind or apiVersion: guesses what was meant, and refuses what they may have protected.

Each is an error and left out. If a Host or AuthService, say, was meant, a stand-in of that kind refuses what the object
would have refused; its apiVersion is one that no kind accepts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from difflib import get_close_matches

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.unenforced_guards import GUARDING_KINDS
from grpcgw.ambassador.spec.parse import API_VERSIONS, STAND_IN_VERSION
from grpcgw.ambassador.spec.resources import API_GROUPS, MODELS, PLANNED_KINDS
from grpcgw.model.objects import KubeObject, ObjectKey

RESTRICTING_KINDS = frozenset({"Host", "Listener", "Module", "TLSContext", *GUARDING_KINDS})
_KINDS = (*MODELS, *GUARDING_KINDS, *PLANNED_KINDS)
_BY_LOWER = {kind.lower(): kind for kind in _KINDS}


def guess_kind(kind: str) -> str:
    """The known kind that an unknown one resembles; empty: none."""
    name = kind.removeprefix("Ambassador") or kind  # as x.getambassador.io had it
    near = get_close_matches(name.lower(), _BY_LOWER, n=1)
    return _BY_LOWER[near[0]] if near else ""


def guess_version(api_version: str, kind: str) -> str:
    """The Ambassador apiVersion that a misspelt one resembles; empty: none."""
    group, _, version = api_version.partition("/")
    if group in API_GROUPS:
        return ""
    if api_version in API_VERSIONS and kind in _KINDS:  # Kubernetes' own v1 has none of these
        return f"getambassador.io/{api_version}"
    near = get_close_matches(group.lower(), API_GROUPS, n=1, cutoff=0.85)
    return f"{near[0]}/{version or 'v2'}" if near else ""


def report_misspelt_groups(objects: Iterable[KubeObject], generations: Generations) -> None:
    objects = list(objects)
    meant = {one: guess for one in {_of(obj) for obj in objects} if (guess := guess_version(*one))}
    for obj in objects if meant else ():
        if _of(obj) in meant:
            generations.leave_out(obj, f"apiVersion {obj.api_version} is not read, did you mean {meant[_of(obj)]}")


def find_stand_ins(objects: Collection[KubeObject]) -> list[KubeObject]:
    """Of those that may restrict clients. A valid object of the same key decides instead."""
    meant = {one: kind for one in {_of(obj) for obj in objects} if (kind := _guess_lost_kind(*one))}
    if not meant:
        return []
    keys = {obj.key for obj in objects if _of(obj) not in meant}
    lost = [_stand_in(obj, meant[_of(obj)]) for obj in objects if _of(obj) in meant]
    return [one for one in lost if one.key not in keys]


def _of(obj: KubeObject) -> tuple[str, str]:
    return obj.api_version, obj.key.kind


def _guess_lost_kind(api_version: str, kind: str) -> str:
    """The restricting kind that an object left out for its kind or apiVersion was meant to have."""
    if not guess_version(api_version, kind) and (api_version.partition("/")[0] not in API_GROUPS or kind in _KINDS):
        return ""
    meant = kind if kind in _KINDS else guess_kind(kind)
    return meant if meant in RESTRICTING_KINDS else ""


def _stand_in(obj: KubeObject, kind: str) -> KubeObject:
    key = ObjectKey(kind, obj.key.namespace, obj.key.name)
    return replace(obj, api_version=STAND_IN_VERSION, key=key)
