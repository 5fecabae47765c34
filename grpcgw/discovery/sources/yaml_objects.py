"""Objects from YAML (and JSON) text: documents, items of Lists, and objects in annotations.

Pure: no files, no store. What is wrong with a text is returned as a `Problem`; nothing here raises because of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import count
from typing import TypeGuard

from grpcgw.discovery.sources.extensions import extend
from grpcgw.discovery.sources.placeholders import find_placeholders, make_placeholder
from grpcgw.discovery.sources.yaml_documents import Document, Fault, Filling, read_documents
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.environment import hide
from grpcgw.model.objects import FieldPath, KubeObject, ObjectKey, Problem, Severity, Source, read_metadata

DEFAULT_NAMESPACE = "default"
CARRIERS = frozenset({"Service", "Ingress"})
"""Kinds whose annotation may hold objects of the dialect."""
_NAMELESS = frozenset({"Kustomization", "Component"})
"""Files of kustomize: they are no objects of a cluster and need no name."""

Objects = tuple[tuple[KubeObject, ...], tuple[Problem, ...]]


@dataclass(frozen=True, slots=True)
class ObjectReader:
    """Reads objects for one dialect; variables (`$NAME`) are filled in from `environment`, none if it is empty."""

    dialect: DialectObjects
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    def read(self, text: str, origin: str, namespace: str = DEFAULT_NAMESPACE, first_line: int = 1) -> Objects:
        """All objects of the YAML documents in `text`, in order, and what is wrong with the text.

        `origin` is the name of the text in `Source` and problems; `namespace` is for objects that name none. Variables
        in an annotation are filled in after the annotation was parsed. Lists are unfolded, empty documents skipped, the
        dialect's other spellings normalized. The objects of an annotation follow their Service or Ingress. A document
        that is no object is left out with an error, a text that is no YAML gives no objects; placeholders stand for
        the restricting objects in them (`placeholders`).
        """
        objects: list[KubeObject] = []
        problems: list[Problem] = []
        for document in read_documents(text, first_line, Filling(self.environment, self.dialect.annotation)):
            if isinstance(document, Fault):
                problems.append(Problem(Severity.ERROR, document.message, f"{origin}:{document.line}"))
                if document.whole_text:
                    return find_placeholders(text, origin, namespace, self.dialect, first_line), tuple(problems)
                objects += find_placeholders(text, origin, namespace, self.dialect, first_line, document.line)
                continue
            for found in self._objects_of(document, origin, namespace):
                if isinstance(found, KubeObject):
                    annotated, faults = self.read_annotation(found)
                    objects += (found, *annotated)
                    problems += faults
                else:
                    problems.append(replace(found, message=hide(found.message, (one for _, one in document.filled))))
        return tuple(objects), tuple(problems)

    def read_annotation(self, carrier: KubeObject) -> Objects:
        """The objects in the annotation of a Service or Ingress: in its namespace, with its labels unless they have
        their own (Ambassador does so, and Hosts select by labels).

        Each object has its own line if the lines of the annotation are known; otherwise the line of the annotation.
        """
        text = read_metadata(carrier, "annotations").get(self.dialect.annotation)
        if carrier.key.kind not in CARRIERS or not isinstance(text, str):
            return (), ()
        source, path = carrier.source, ("metadata", "annotations", self.dialect.annotation)
        first_line = source.lines.get((*path, 0))
        if first_line is not None:
            objects, problems = self.read(text, source.origin, carrier.key.namespace, first_line)
        else:
            objects, problems = _place(self.read(text, "line", carrier.key.namespace), carrier, path)
        return tuple(_with_labels(found, read_metadata(carrier, "labels")) for found in objects), problems

    def _objects_of(self, document: Document, origin: str, namespace: str) -> Iterator[KubeObject | Problem]:
        body = document.value
        if _is_list(body):
            for item in _items_of(document, body["items"]):
                yield from self._objects_of(item, origin, namespace)
            return
        source = Source(origin, document.lines, document.filled)
        if isinstance(body, dict):
            body, source = self.dialect.normalize(body, source)
        yield from self._object_of(body, source, namespace)

    def _object_of(self, body: object, source: Source, namespace: str) -> Iterator[KubeObject | Problem]:
        found = _read_object(body, source, namespace)
        if isinstance(found, KubeObject):
            yield extend(found, self.dialect)
            return
        yield found
        for part in body if isinstance(body, list) else (body,):
            kind = part.get("kind") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and kind in self.dialect.restricting_kinds:
                yield make_placeholder(kind, namespace, source, self.dialect)


def keep_first(found: Iterable[KubeObject], dialect: DialectObjects) -> Objects:
    """One object per key: the first serves, each other one is an error. Another object of a cumulative kind is kept
    under a key of its own, so that it still restricts."""
    objects: dict[ObjectKey, KubeObject] = {}
    conflicts: list[Problem] = []
    for obj in found:
        first = objects.setdefault(obj.key, obj)
        if first is obj:
            continue
        message = f"this object is already given at {first.source.locate()}, which serves; remove one of the two"
        if obj.key.kind in dialect.cumulative_kinds and obj.body != first.body:
            message += "; until then the restrictions of both apply"
            key = _make_other_key(obj.key, objects, dialect)
            objects[key] = replace(obj, key=key)
        conflicts.append(Problem(Severity.ERROR, message, obj.source.locate(), obj.key))
    return tuple(objects.values()), tuple(conflicts)


def _make_other_key(key: ObjectKey, taken: Container[ObjectKey], dialect: DialectObjects) -> ObjectKey:
    """The name of a singleton must stay."""
    part = "namespace" if key.kind in dialect.singletons else "name"
    others = (key._replace(**{part: f"{getattr(key, part)}-{number}"}) for number in count(2))
    return next(other for other in others if other not in taken)


def _place(found: Objects, carrier: KubeObject, path: FieldPath) -> Objects:
    """All objects and problems at the line of the annotation or, without lines, at the carrier."""
    objects, problems = found
    source = carrier.source
    line = source.lines.get(path)
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
            replace(one, message=f"annotation {path[-1]}, {one.where}: {one.message}", where=source.locate())
            for one in problems
        ),
    )


def _with_labels(obj: KubeObject, labels: Mapping[str, object]) -> KubeObject:
    metadata = obj.body.get("metadata")
    if not labels or not isinstance(metadata, Mapping) or "labels" in metadata:
        return obj
    return replace(obj, body={**obj.body, "metadata": {**metadata, "labels": dict(labels)}})


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


def _read_object(body: object, source: Source, namespace: str) -> KubeObject | Problem:
    if not isinstance(body, Mapping):
        return _no_object(source, (), "this document is no object: it needs apiVersion, kind and metadata")
    for name in ("apiVersion", "kind"):
        if not _is_name(body.get(name)):
            return _no_object(source, (name,), f"this document is no object: {_lack(body.get(name), name)}")
    metadata = body.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    if body["kind"] in _NAMELESS and "name" not in metadata:
        metadata = {"name": source.origin, **metadata}
    if not _is_name(metadata.get("name")):
        lack = _lack(metadata.get("name"), "metadata.name")
        return _no_object(source, ("metadata", "name"), f"this {body['kind']} has no name: {lack}")
    named = metadata.get("namespace") or namespace
    if not isinstance(named, str):
        message = f"{body['kind']} {metadata['name']}: {_lack(named, 'metadata.namespace')}"
        return _no_object(source, ("metadata", "namespace"), message)
    return KubeObject(body["apiVersion"], ObjectKey(body["kind"], named, metadata["name"]), body, source)


def _no_object(source: Source, path: FieldPath, message: str) -> Problem:
    return Problem(Severity.ERROR, message, source.locate(path), path=".".join(str(step) for step in path))


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _lack(value: object, name: str) -> str:
    return f"{name} is missing" if value is None or value == "" else f"{name} must be text (put it in quotes)"
