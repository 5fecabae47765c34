"""Objects in the annotations of a cluster's Services and Ingresses, kept as a partition of the store.

Subscribes to the store, not to the API server: an annotation is read in the step in which its carrier is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpcgw.discovery.sources.yaml_objects import CARRIERS, ObjectReader, keep_first
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, read_metadata

PARTITION = "kubernetes annotations"


@dataclass(frozen=True, slots=True)
class _Read:
    """The objects of one carrier, and the annotation and labels they were read from."""

    source: object
    objects: tuple[KubeObject, ...]
    problems: tuple[Problem, ...]


class AnnotatedObjects:
    """Keeps a partition of the store equal to the annotations of its carriers, from `follow` on."""

    def __init__(self, store: ObjectStore, dialect: DialectObjects) -> None:
        self._store, self._dialect = store, dialect
        # Without an environment: who may write objects in a cluster must not read the gateway's variables.
        self._reader = ObjectReader(dialect)
        self._read: dict[ObjectKey, _Read] = {}

    def follow(self) -> Callable[[], None]:
        """Subscribe; returns the function that unsubscribes."""
        return self._store.subscribe(self._note)

    def _note(self, changed: frozenset[ObjectKey]) -> None:
        is_other = [self._reread(key) for key in changed if key.kind in CARRIERS]
        if any(is_other):
            self._write()

    def _reread(self, key: ObjectKey) -> bool:
        """Whether the annotation or labels of the carrier changed."""
        obj = self._store.get(key)
        text = None if obj is None else read_metadata(obj, "annotations").get(self._dialect.annotation)
        if obj is None or not isinstance(text, str):
            return self._read.pop(key, None) is not None
        source = (text, read_metadata(obj, "labels"))
        if key in self._read and self._read[key].source == source:
            return False
        self._read[key] = _Read(source, *self._reader.read_annotation(obj))
        return True

    def _write(self) -> None:
        carriers = [self._read[key] for key in sorted(self._read)]
        objects, conflicts = keep_first((obj for read in carriers for obj in read.objects), self._dialect)
        self._store.replace(PARTITION, objects)
        self._store.report(PARTITION, [*(problem for read in carriers for problem in read.problems), *conflicts])
