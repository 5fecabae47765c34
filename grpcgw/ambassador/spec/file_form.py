"""Ambassador's own file form, older than its CRDs: `name` and the fields at the top, without `metadata` and `spec`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from grpcgw.model.objects import FieldPath, Source

_METADATA: Mapping[str, FieldPath] = {
    "name": ("metadata", "name"),
    "namespace": ("metadata", "namespace"),
    "generation": ("metadata", "generation"),
    "metadata_labels": ("metadata", "labels"),
    "apiVersion": ("apiVersion",),
    "kind": ("kind",),
}
"""Paths of the top-level fields that are not fields of `spec`."""


def normalize(body: Mapping[str, object], source: Source) -> tuple[Mapping[str, object], Source]:
    """The object with `metadata` and `spec`, and its source with the paths of that form; others are returned as is."""
    if not _is_flat(body):
        return body, source
    usual: dict[str, object] = {}
    metadata: dict[str, object] = {}
    spec: dict[str, object] = {}
    for name, value in body.items():
        path = _METADATA.get(name, ("spec", name))
        {"metadata": metadata, "spec": spec}.get(str(path[0]), usual)[str(path[-1])] = value
    lines = {_move(path): line for path, line in source.lines.items()}
    filled = tuple((_move(path), one) for path, one in source.filled)
    return {**usual, "metadata": metadata, "spec": spec}, replace(source, lines=lines, filled=filled)


def _is_flat(body: Mapping[str, object]) -> bool:
    if "metadata" in body or "name" not in body:
        return False
    return str(body.get("apiVersion")).startswith(("getambassador.io/", "ambassador/"))


def _move(path: FieldPath) -> FieldPath:
    return (*_METADATA.get(str(path[0]), ("spec", path[0])), *path[1:]) if path else ()
