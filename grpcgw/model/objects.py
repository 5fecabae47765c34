"""Kubernetes objects as read, before a dialect interprets them, and problems of objects.

An object is the same value whether it came from an API server or a YAML file; only its `Source` differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from grpcgw.model.environment import Filled

FieldPath = tuple[str | int, ...]
"""Where a value sits in an object: ("spec", "load_balancer", "policy"); list positions are integers."""


class ObjectKey(NamedTuple):
    """Identity of an object. `kind` alone identifies the API: where two API groups have a kind of one name, objects of
    the second one have it in their `name` (`model.dialect.name_in_group`).

    A tuple, because thousands of them are looked up in each compilation: its hash costs a fifth of a dataclass's.
    """

    kind: str
    namespace: str
    name: str

    @property
    def label(self) -> str:
        """Name in metrics, logs and JSON of an object that serves RPCs: `name.namespace` of a Mapping, `kind
        name.namespace` of any other kind. No two objects have the same label."""
        return f"{self.name}.{self.namespace}" if self.kind == "Mapping" else str(self)

    def __str__(self) -> str:
        return f"{self.kind} {self.name}.{self.namespace}"


@dataclass(frozen=True, slots=True)
class Extension:
    """Extension of an object's `spec` by an annotation."""

    annotation: FieldPath
    """Path of the annotation."""
    fields: frozenset[FieldPath] = frozenset()
    """The parts of `spec` that come from it."""
    lines: Mapping[FieldPath, int] = field(default_factory=dict)
    """As in `Source`, of parts of `spec`."""
    fault: str = ""
    """Why the annotation adds nothing; empty if it is valid."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an object was read.

    `origin` is a file path as the user gave it (`examples/greet/greet.yaml`) or `kubernetes`. `lines` maps a field
    path to its 1-based line for files and is empty for the API server; `()` is the object's first line.
    """

    origin: str
    lines: Mapping[FieldPath, int] = field(default_factory=dict, repr=False, compare=False)
    filled: tuple[tuple[FieldPath, Filled], ...] = field(default=(), repr=False, compare=False)
    """Texts that name environment variables. Only in files: authors of objects in a cluster must not read the gateway's
    environment."""

    extension: Extension | None = field(default=None, repr=False, compare=False)

    def locate(self, path: FieldPath = ()) -> str:
        """`file:line` of the field, or of its nearest parent with a known line; just the origin where none is known."""
        extended = self.extension.lines if self.extension and self._is_extended(path) else {}
        for length in range(len(path), -1, -1):
            line = extended.get(path[:length], self.lines.get(path[:length]))
            if line is not None:
                return f"{self.origin}:{line}"
        return self.origin

    def name(self, path: FieldPath) -> FieldPath:
        """The path of the field as its author wrote it: in the annotation, if the field comes from one."""
        return (*self.extension.annotation, *path[1:]) if self.extension and self._is_extended(path) else path

    def _is_extended(self, path: FieldPath) -> bool:
        fields = self.extension.fields if self.extension else ()
        return any(path[:length] in fields for length in range(1, len(path) + 1))


@dataclass(frozen=True, slots=True)
class KubeObject:
    """One object: `body` is the whole decoded document (metadata, spec, …) and must not be changed."""

    api_version: str
    key: ObjectKey
    body: Mapping[str, object] = field(repr=False)
    source: Source = field(compare=False)


UNREADABLE_FILE = "unreadable file"
"""Kind of the placeholder for a file that could not be read when the gateway started: it may hold any object."""


def read_metadata(obj: KubeObject, section: str) -> Mapping[str, object]:
    """`labels` or `annotations` of an object; empty where they are not an object of names."""
    metadata = obj.body.get("metadata")
    entries = metadata.get(section) if isinstance(metadata, Mapping) else None
    return entries if isinstance(entries, Mapping) else {}


class Severity(StrEnum):
    ERROR = "error"
    """The object (or file) is left out, or its last good version keeps serving."""
    NOTICE = "notice"
    """The object serves; something in it has no effect or another meaning than its author may expect."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem for the operator: which object, where (`file:line` or origin), which field, what to do."""

    severity: Severity
    message: str
    where: str
    object: ObjectKey | None = None
    path: str = ""
    """Dotted field path, `spec.load_balancer.policy`; empty when the whole object is meant."""

    def __str__(self) -> str:
        subject = " ".join(part for part in (str(self.object) if self.object else "", self.path) if part)
        return f"{self.where}: {self.severity}: {subject + ': ' if subject else ''}{self.message}"


def make_problem(obj: KubeObject, severity: Severity, message: str, path: FieldPath = ()) -> Problem:
    """A problem of `obj`, located at the line of the field at `path`."""
    shown = ".".join(map(str, obj.source.name(path)))
    return Problem(severity, message, obj.source.locate(path), obj.key, shown)
