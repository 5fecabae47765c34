"""What Services and Ingresses of a cluster are annotated with, as objects of the store like any other.

Follows the store, not the API server: whoever writes a carrier there, its annotation is read in the same step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from grpcgw.discovery.sources.yaml_objects import ANNOTATION, CARRIERS, annotated_objects, keep_first
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, read_metadata

PARTITION = "kubernetes annotations"


@dataclass(frozen=True, slots=True)
class _Read:
    """What one carrier brings, and what it was read from."""

    source: object
    objects: tuple[KubeObject, ...]
    problems: tuple[Problem, ...]


class AnnotatedObjects:
    """Keeps a partition of the store equal to the annotations of its carriers, from `follow` on."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[ObjectKey, _Read] = {}

    def follow(self) -> Callable[[], None]:
        """Returns what ends it."""
        return self._store.subscribe(self._note)

    def _note(self, changed: frozenset[ObjectKey]) -> None:
        is_other = [self._reread(key) for key in changed if key.kind in CARRIERS]
        if any(is_other):
            self._write()

    def _reread(self, key: ObjectKey) -> bool:
        """Whether the carrier brings something else than before."""
        obj = self._store.get(key)
        text = None if obj is None else read_metadata(obj, "annotations").get(ANNOTATION)
        if obj is None or not isinstance(text, str):
            return self._read.pop(key, None) is not None
        source = (text, read_metadata(obj, "labels"))
        if key in self._read and self._read[key].source == source:
            return False
        self._read[key] = _Read(source, *annotated_objects(obj))
        return True

    def _write(self) -> None:
        carriers = [self._read[key] for key in sorted(self._read)]
        objects, conflicts = keep_first(obj for read in carriers for obj in read.objects)
        self._store.replace(PARTITION, objects)
        self._store.report(PARTITION, [*(problem for read in carriers for problem in read.problems), *conflicts])
