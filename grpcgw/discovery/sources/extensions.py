"""Fields of grpcgw's own in an annotation: what Ambassador's CRDs do not let through in a `spec`.

Beside Emissary an API server drops or refuses what Emissary's CRDs do not name. The annotation is text to them; here it
is put into the `spec` before anybody reads it (merged as RFC 7386 says: objects part by part, null takes away). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from grpcgw.ambassador.spec.resources import API_GROUPS, MODELS
from grpcgw.discovery.sources.yaml_documents import Document, Fault, read_documents
from grpcgw.model.objects import Extension, FieldPath, KubeObject, read_metadata

EXTENSION = "grpcgw.dev/spec"
_PATH: FieldPath = ("metadata", "annotations", EXTENSION)


def extend(obj: KubeObject) -> KubeObject:
    """`obj` with the fields of its annotation in its `spec`; itself where it has none.

    A text that cannot be read is a fault of its `source.extension`, and the object is not to serve without it.
    """
    text = read_metadata(obj, "annotations").get(EXTENSION)
    if text is None or obj.key.kind not in MODELS or obj.api_version.partition("/")[0] not in API_GROUPS:
        return obj
    first_line = obj.source.lines.get((*_PATH, 0))
    fields = _read(text, first_line or 1)
    if isinstance(fields, str):
        return replace(obj, source=replace(obj.source, extension=Extension(_PATH, fault=fields)))
    spec = obj.body.get("spec")
    if not isinstance(spec, Mapping | None):
        return obj  # wrong in itself, and said so
    found: set[FieldPath] = set()
    merged = _merge(spec or {}, fields.value, ("spec",), found)
    lines = {("spec", *path): line for path, line in fields.lines.items()} if first_line else {}
    extension = Extension(_PATH, frozenset(found), lines)
    return replace(obj, body={**obj.body, "spec": merged}, source=replace(obj.source, extension=extension))


def _read(text: object, first_line: int) -> Document | str:
    """The fields, or why there are none."""
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
    """RFC 7386. Notes in `found` where the result is of `patch` alone."""
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
