"""Facts about a dialect's objects that discovery needs, as plain values: control passes them to the sources.

No source imports a dialect, and a second dialect adds its kinds without a change in discovery. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from grpcgw.model.key_set_objects import KeySetSource
from grpcgw.model.objects import KubeObject, ObjectKey, Source


def name_in_group(name: str, group: str) -> str:
    """In the key of an object of a group that is not the first one of its kind. No object of the first one has such a
    name: Kubernetes takes no brackets."""
    return f"{name} ({group})"


@dataclass(frozen=True, slots=True)
class ApiResource:
    """A kind in one version of its API. `plural` is its name in paths and RBAC rules."""

    group: str
    """Empty: the core group."""
    version: str
    kind: str
    plural: str
    field_selector: str = ""
    is_second: bool = False
    """Another group that is read has a kind of this name. Both objects of one name decide: those of this group have it
    in the name of their key."""

    def make_key(self, namespace: str, name: str) -> ObjectKey:
        return ObjectKey(self.kind, namespace, name_in_group(name, self.group) if self.is_second else name)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_path(self) -> str:
        """Where the API server lists the kinds of this version (`APIResourceList`)."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str) -> str:
        """Where to list and watch; an empty namespace means all."""
        return f"{self.group_path}/{f'namespaces/{namespace}/' if namespace else ''}{self.plural}"

    def describe_right(self, verb: str, namespace: str) -> str:
        name = f"{self.plural}.{self.group}" if self.group else self.plural
        return f'"{verb}" on {name} in {f"namespace {namespace}" if namespace else "all namespaces"}'


@dataclass(frozen=True, slots=True)
class WatchedKind:
    """What one list/watch loop reads: the first of `candidates` that the cluster serves."""

    candidates: tuple[ApiResource, ...]
    only: ObjectKey | None = None
    """The only object that is read; None: all."""
    optional: bool = False
    """The gateway starts without it when the right to read it is missing; the missing right is still an error."""
    rare: bool = False
    """Most clusters do not have it, so its absence is not reported."""

    @property
    def name(self) -> str:
        if self.only is not None:
            return str(self.only)
        first = self.candidates[0]
        return f"{first.kind}.{first.group}" if first.is_second else first.kind

    def choose(self, served: Mapping[str, Collection[str]]) -> ApiResource | None:
        """The candidate to read, given the kinds served by API version (the core group is always served)."""
        for candidate in self.candidates:
            if not candidate.group or candidate.kind in served.get(candidate.api_version, ()):
                return candidate
        return None


FindKeys = Callable[[KubeObject], frozenset[ObjectKey] | None]
"""The keys that an object names, none for an object of another gateway; None: the object is too broken to tell."""
FindKeySets = Callable[[KubeObject], frozenset[KeySetSource] | None]
"""As `FindKeys`, of key sets to fetch."""


@dataclass(frozen=True, slots=True)
class DialectObjects:
    """The kinds of one dialect, and pure functions over its objects, for one gateway."""

    api_groups: frozenset[str]
    """The part of `apiVersion` before the slash."""
    watched: tuple[WatchedKind, ...]
    """What is read from an API server."""
    kinds: frozenset[str]
    """Kinds that have a typed model: their `spec` may be extended by an annotation."""
    restricting_kinds: frozenset[str]
    """Kinds that restrict who may call. If one cannot be read, the calls that it may restrict are refused."""
    cumulative_kinds: frozenset[str]
    """Restricting kinds of which a second object with the same key restricts as well."""
    singletons: Mapping[str, str]
    """Kinds whose objects all have the same name, with that name."""
    placeholder_version: str
    """apiVersion of the placeholder for an object that cannot be read."""
    annotation: str
    """Annotation of a Service or Ingress that holds objects of the dialect as YAML documents."""
    normalize: Callable[[Mapping[str, object], Source], tuple[Mapping[str, object], Source]]
    """Brings another form of a whole object into the form with `metadata` and `spec`, with the lines of its fields;
    returns any other object unchanged."""
    naming_kinds: frozenset[str]
    """Kinds that name Secrets, certificate files or key sets."""
    find_secrets: FindKeys
    """Keys of the Secrets that an object of `naming_kinds` names."""
    find_files: FindKeys
    """Keys of the certificate files (`model.certificate_objects`) that an object of `naming_kinds` names."""
    find_key_sets: FindKeySets
    """The key sets that an object of `naming_kinds` names."""
    gateway_field: str
    """Field by which an object chooses its gateway."""
    is_meant_for: Callable[[KubeObject], bool]
    """Whether an object is configuration of this gateway."""

    def owns(self, obj: KubeObject) -> bool:
        """Whether the object belongs to one of the dialect's API groups."""
        return obj.api_version.partition("/")[0] in self.api_groups
