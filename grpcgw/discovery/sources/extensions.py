"""Merges the annotation `grpcgw.dev/spec` into the `spec` of an object (RFC 7386 JSON Merge Patch).

Where Emissary's CRDs are installed, the API server drops or refuses fields that they do not name. To the API server the
annotation is text, so grpcgw's own fields pass. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from grpcgw.discovery.sources.yaml_documents import Document, Fault, read_documents
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import Extension, FieldPath, KubeObject, read_metadata

EXTENSION = "grpcgw.dev/spec"
_PATH: FieldPath = ("metadata", "annotations", EXTENSION)


def extend(obj: KubeObject, dialect: DialectObjects) -> KubeObject:
    """`obj` with the fields of its annotation in its `spec`; `obj` itself if it has no annotation or no typed `spec`.

    If the text cannot be read, `source.extension.fault` says why, and the dialect rejects the object.
    """
    text = read_metadata(obj, "annotations").get(EXTENSION)
    if text is None or obj.key.kind not in dialect.kinds or not dialect.owns(obj):
        return obj
    first_line = obj.source.lines.get((*_PATH, 0))
    fields = _read(text, first_line or 1)
    if isinstance(fields, str):
        return replace(obj, source=replace(obj.source, extension=Extension(_PATH, fault=fields)))
    spec = obj.body.get("spec")
    if not isinstance(spec, Mapping | None):
        return obj  # the dialect reports a spec of the wrong type
    found: set[FieldPath] = set()
    merged = _merge(spec or {}, fields.value, ("spec",), found)
    lines = {("spec", *path): line for path, line in fields.lines.items()} if first_line else {}
    extension = Extension(_PATH, frozenset(found), lines)
    return replace(obj, body={**obj.body, "spec": merged}, source=replace(obj.source, extension=extension))


def _read(text: object, first_line: int) -> Document | str:
    """The fields, or the reason why they cannot be read."""
    if not isinstance(text, str):
        return "should be a text: fields of the spec as YAML, after a |"
    documents = list(read_documents(text, first_line))
    fault = next((one for one in documents if isinstance(one, Fault)), None)
    if fault is not None:
        return f"line {fault.line - first_line + 1}: {fault.message}"
    found = [one for one in documents if isinstance(one, Document)]
    if len(found) != 1 or not isinstance(found[0].value, Mapping):
        return "should be one object of fields as they stand in the spec"
    return found[0]


def _merge(target: object, patch: object, path: FieldPath, found: set[FieldPath]) -> object:
    """RFC 7386. Adds to `found` the paths whose value comes from `patch` alone."""
    if not isinstance(patch, Mapping):
        found.add(path)
        return patch
    if not isinstance(target, Mapping):
        found.add(path)
        target = {}
    merged = {**target}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = _merge(target.get(name), value, (*path, name), found)
    return merged
