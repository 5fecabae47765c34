"""Objects from YAML (and JSON) text: documents, items of lists, Ambassador's flat form, and what annotations carry.

Pure: knows neither files nor the store. What is wrong with a text becomes a `Problem`; nothing here raises for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import TypeGuard

from grpcgw.ambassador.compile.misspelt import RESTRICTING_KINDS
from grpcgw.discovery.sources.extensions import extend
from grpcgw.discovery.sources.lost_objects import find_lost, make_lost
from grpcgw.discovery.sources.yaml_documents import Document, Fault, Filling, read_documents
from grpcgw.model.environment import hide
from grpcgw.model.objects import FieldPath, KubeObject, ObjectKey, Problem, Severity, Source, read_metadata

DEFAULT_NAMESPACE = "default"
ANNOTATION = "getambassador.io/config"
"""Ambassador also reads resources from this annotation of a Service or Ingress: YAML documents in one string."""
_NAMELESS = frozenset({"Kustomization", "Component"})
"""What kustomize reads beside the objects: no object of a cluster, and without a name."""
_HOLDING_TWICE = RESTRICTING_KINDS - {"Listener"}
"""Kinds of which a second object of the same key is not passed over; a Listener alone opens something."""
CARRIERS = frozenset({"Service", "Ingress"})

_ANNOTATION_PATH: FieldPath = ("metadata", "annotations", ANNOTATION)


def parse_objects(
    text: str,
    origin: str,
    namespace: str = DEFAULT_NAMESPACE,
    first_line: int = 1,
    environment: Mapping[str, str] | None = None,
) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """All objects of the YAML documents in `text`, in order, and what is wrong with the text.

    `origin` is what `Source` and problems call it, `namespace` is for objects that name none. Variables are filled in
    from `environment`, in an annotation after it was read. Lists are unfolded, empty documents skipped, Ambassador's
    flat form is brought into the usual one, and the objects that a Service or Ingress is annotated with follow it. A
    document that is no object is left out with an error; a text that is no YAML gives no objects. What keeps people out
    is there all the same (`lost_objects`).
    """
    objects: list[KubeObject] = []
    problems: list[Problem] = []
    for document in read_documents(text, first_line, Filling(environment or {}, ANNOTATION)):
        if isinstance(document, Fault):
            problems.append(Problem(Severity.ERROR, document.message, f"{origin}:{document.line}"))
            if document.whole_text:
                return find_lost(text, origin, namespace, first_line), tuple(problems)
            objects += find_lost(text, origin, namespace, first_line, document.line)
            continue
        for found in _objects_of(document, origin, namespace):
            if isinstance(found, KubeObject):
                annotated, faults = annotated_objects(found, environment)
                objects += (found, *annotated)
                problems += faults
            else:
                problems.append(replace(found, message=hide(found.message, (one for _, one in document.filled))))
    return tuple(objects), tuple(problems)


def keep_first(found: Iterable[KubeObject]) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """One object per key: the first serves; each other one is an error. What another one says of who may call holds
    all the same: it is there under a key of its own."""
    objects: dict[ObjectKey, KubeObject] = {}
    conflicts: list[Problem] = []
    for obj in found:
        first = objects.setdefault(obj.key, obj)
        if first is obj:
            continue
        message = f"this object is already given at {first.source.locate()}, which serves; remove one of the two"
        if obj.key.kind in _HOLDING_TWICE and obj.body != first.body:
            message += ", as whom this one keeps out is kept out meanwhile"
            key = _make_other_key(obj.key, objects)
            objects[key] = replace(obj, key=key)
        conflicts.append(Problem(Severity.ERROR, message, obj.source.locate(), obj.key))
    return tuple(objects.values()), tuple(conflicts)


def _make_other_key(key: ObjectKey, taken: Container[ObjectKey]) -> ObjectKey:
    """The name of a Module is always the same."""
    part = "namespace" if key.kind == "Module" else "name"
    others = (key._replace(**{part: f"{getattr(key, part)}-{number}"}) for number in count(2))
    return next(other for other in others if other not in taken)


def annotated_objects(
    carrier: KubeObject, environment: Mapping[str, str] | None = None
) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """The objects that a Service or Ingress is annotated with: in its namespace, with its labels where they have none.

    Where the lines of the annotation are known, they are where they stand; else all are where the annotation is.
    """
    text = read_metadata(carrier, "annotations").get(ANNOTATION)
    if carrier.key.kind not in CARRIERS or not isinstance(text, str):
        return (), ()
    source = carrier.source
    first_line = source.lines.get((*_ANNOTATION_PATH, 0))
    if first_line is not None:
        objects, problems = parse_objects(text, source.origin, carrier.key.namespace, first_line, environment)
    else:
        read = parse_objects(text, "line", carrier.key.namespace, environment=environment)
        objects, problems = _place(read, carrier)
    return tuple(_with_labels(found, read_metadata(carrier, "labels")) for found in objects), problems


def _place(
    found: tuple[tuple[KubeObject, ...], tuple[Problem, ...]], carrier: KubeObject
) -> tuple[tuple[KubeObject, ...], tuple[Problem, ...]]:
    """All at one place: where the annotation begins or, without lines, at the carrier."""
    objects, problems = found
    source = carrier.source
    line = source.lines.get(_ANNOTATION_PATH)
    if line is not None:
        source = Source(source.origin, {(): line})
    else:
        source = Source(f"{source.origin}, annotation of {carrier.key}")
    return (
        tuple(
            replace(one, source=replace(source, filled=one.source.filled, extension=one.source.extension))
            for one in objects
        ),
        tuple(
            replace(one, message=f"annotation {ANNOTATION}, {one.where}: {one.message}", where=source.locate())
            for one in problems
        ),
    )


def _with_labels(obj: KubeObject, labels: Mapping[str, object]) -> KubeObject:
    """Ambassador gives what is annotated its carrier's labels, by which Hosts select."""
    metadata = obj.body.get("metadata")
    if not labels or not isinstance(metadata, Mapping) or "labels" in metadata:
        return obj
    return replace(obj, body={**obj.body, "metadata": {**metadata, "labels": dict(labels)}})


def _objects_of(document: Document, origin: str, namespace: str) -> Iterator[KubeObject | Problem]:
    body = document.value
    if _is_list(body):
        for item in _items_of(document, body["items"]):
            yield from _objects_of(item, origin, namespace)
        return
    source = Source(origin, document.lines, document.filled)
    if _is_flat(body):
        assert isinstance(body, dict)
        body = _unflatten(body)
        source = _unflatten_source(source)
    yield from _object_of(body, source, namespace)


def _is_list(body: object) -> TypeGuard[dict[object, list[object]]]:
    """A `List`, or a `HostList` as API servers answer with."""
    kind = body.get("kind") if isinstance(body, dict) else None
    return (
        isinstance(kind, str)
        and kind.endswith("List")
        and isinstance(body, dict)
        and isinstance(body.get("items"), list)
    )


def _items_of(document: Document, items: list[object]) -> Iterator[Document]:
    """The items of a List as documents of their own, each with its own lines."""
    lines: dict[int, dict[FieldPath, int]] = defaultdict(dict)
    for path, line in document.lines.items():
        if len(path) > 1 and path[0] == "items" and isinstance(path[1], int):
            lines[path[1]][path[2:]] = line
    fallback: dict[FieldPath, int] = {(): document.lines.get(("items",), 1)}
    for position, item in enumerate(items):
        filled = tuple((path[2:], one) for path, one in document.filled if path[:2] == ("items", position))
        yield Document(item, lines.get(position, fallback), filled)


def _object_of(body: object, source: Source, namespace: str) -> Iterator[KubeObject | Problem]:
    found = _read_object(body, source, namespace)
    yield found
    if isinstance(found, KubeObject):
        return
    for part in body if isinstance(body, list) else (body,):
        kind = part.get("kind") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind in RESTRICTING_KINDS:
            yield make_lost(kind, namespace, source)


def _read_object(body: object, source: Source, namespace: str) -> KubeObject | Problem:
    if not isinstance(body, dict):
        return _no_object(source, (), "this document is no object: it needs apiVersion, kind and metadata")
    for name in ("apiVersion", "kind"):
        if not _is_name(body.get(name)):
            return _no_object(source, (name,), f"this document is no object: {_lack(body.get(name), name)}")
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    if body["kind"] in _NAMELESS and "name" not in metadata:
        metadata = {"name": source.origin, **metadata}
    if not _is_name(metadata.get("name")):
        lack = _lack(metadata.get("name"), "metadata.name")
        return _no_object(source, ("metadata", "name"), f"this {body['kind']} has no name: {lack}")
    named = metadata.get("namespace") or namespace
    if not isinstance(named, str):
        message = f"{body['kind']} {metadata['name']}: {_lack(named, 'metadata.namespace')}"
        return _no_object(source, ("metadata", "namespace"), message)
    return extend(KubeObject(body["apiVersion"], ObjectKey(body["kind"], named, metadata["name"]), body, source))


def _no_object(source: Source, path: FieldPath, message: str) -> Problem:
    return Problem(Severity.ERROR, message, source.locate(path), path=".".join(str(step) for step in path))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _lack(value: object, name: str) -> str:
    return f"{name} is missing" if value is None or value == "" else f"{name} must be text (put it in quotes)"


_FLAT_METADATA = {
    ("name",): ("metadata", "name"),
    ("namespace",): ("metadata", "namespace"),
    ("generation",): ("metadata", "generation"),
    ("metadata_labels",): ("metadata", "labels"),
    ("apiVersion",): ("apiVersion",),
    ("kind",): ("kind",),
}
"""Where the top-level fields of Ambassador's flat form belong; every other field belongs into `spec`."""


def _is_flat(body: object) -> bool:
    """Ambassador's own file form, older than its CRDs: `name` and the fields at the top, without metadata and spec."""
    if not isinstance(body, dict) or "metadata" in body or "name" not in body:
        return False
    return str(body.get("apiVersion")).startswith(("getambassador.io/", "ambassador/"))


def _unflatten(body: dict[str, object]) -> dict[str, object]:
    usual: dict[str, object] = {}
    metadata: dict[str, object] = {}
    spec: dict[str, object] = {}
    for name, value in body.items():
        place = _FLAT_METADATA.get((name,), ("spec", name))
        {"metadata": metadata, "spec": spec}.get(place[0], usual)[place[-1]] = value
    return {**usual, "metadata": metadata, "spec": spec}


def _unflatten_source(source: Source) -> Source:
    lines = {_unflatten_path(path): line for path, line in source.lines.items()}
    return Source(source.origin, lines, tuple((_unflatten_path(path), one) for path, one in source.filled))


def _unflatten_path(path: FieldPath) -> FieldPath:
    return (*_FLAT_METADATA.get((str(path[0]),), ("spec", path[0])), *path[1:]) if path else ()
