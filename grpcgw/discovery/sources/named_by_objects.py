"""What the objects of a store name (certificate files, key sets), found again before each compilation."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic, TypeVar

from grpcgw.discovery.store import ObjectStore
from grpcgw.model.objects import KubeObject, ObjectKey

T = TypeVar("T")


class NamedByObjects(Generic[T]):
    """Reads each version of an object once. A broken object names what it named before: its last good version keeps
    serving."""

    def __init__(
        self, store: ObjectStore, kinds: Collection[str], find: Callable[[KubeObject], frozenset[T] | None]
    ) -> None:
        """`find`: what an object of `kinds` names; None: it is too broken to tell."""
        self._store, self._kinds, self._find = store, kinds, find
        self._named_by: dict[ObjectKey, tuple[KubeObject, frozenset[T]]] = {}

    def find(self) -> frozenset[T]:
        """All that is named now."""
        former, self._named_by = self._named_by, {}
        for obj in (obj for kind in self._kinds for obj in self._store.of_kind(kind)):
            known = former.get(obj.key)
            if known is None or known[0] is not obj:
                named = self._find(obj)
                before = frozenset[T]() if known is None else known[1]
                known = (obj, before if named is None else named)
            self._named_by[obj.key] = known
        return frozenset(one for _, named in self._named_by.values() for one in named)
