"""What discovery must know about the objects of a dialect, as plain values: control gives them to the sources.

So no source imports a dialect, and a second dialect adds its kinds without a change in discovery.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpcgw.model.objects import KubeObject, ObjectKey

FindKeys = Callable[[KubeObject], frozenset[ObjectKey] | None]
"""The keys that an object names; None: the object is too broken to tell."""


@dataclass(frozen=True, slots=True)
class DialectObjects:
    """The kinds of one dialect, and pure functions over its objects."""

    api_groups: frozenset[str]
    """The part of `apiVersion` before the slash."""
    kinds: frozenset[str]
    """Kinds that have a typed model: their `spec` may be extended by an annotation."""
    restricting_kinds: frozenset[str]
    """Kinds that restrict who may call. Where one cannot be read, what it may have protected is not served."""
    naming_kinds: frozenset[str]
    """Kinds that name Secrets or certificate files."""
    is_meant_for: Callable[[KubeObject, str], bool]
    """Whether an object is configuration of the gateway with this id (`--ambassador-id`)."""
    find_secrets: FindKeys
    """Keys of the Secrets that an object of `naming_kinds` names."""
    find_files: FindKeys
    """Keys of the certificate files (`model.certificate_files`) that an object of `naming_kinds` names."""

    def owns(self, obj: KubeObject) -> bool:
        """Whether the object belongs to one of the dialect's API groups."""
        return obj.api_version.partition("/")[0] in self.api_groups
