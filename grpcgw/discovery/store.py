"""The store of all objects: sources write partitions, readers subscribe to changes.

For the control process's event loop only, not thread-safe. Does not interpret objects and never blocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from grpcgw.logs import DefectLog
from grpcgw.model.objects import KubeObject, ObjectKey, Problem

ChangeListener = Callable[[frozenset[ObjectKey]], None]


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """The state of a source, for diagnostics, metrics and readiness."""

    name: str
    """`directory examples/greet` or `kubernetes Mapping`."""
    synced: bool
    """A first complete set has been read. A kind that is not installed counts as read (it is empty); so does a single
    Secret to which access was refused."""
    last_contact_s: float
    """Wall-clock seconds since the epoch of the last sign of life of the source; 0.0: none yet."""
    watching: bool = True
    """False while it is not connected, not installed, or switched off."""
    error: str = ""


class ObjectStore:
    """Objects by key in partitions (a directory, a kind of the API server), so that each source replaces only its own.

    If two partitions have the same key, the one written first counts; the other is used once the first drops the key.
    """

    def __init__(self) -> None:
        self._partitions: dict[str, dict[ObjectKey, KubeObject]] = {}
        self._problems: dict[str, tuple[Problem, ...]] = {}
        self._statuses: dict[str, SourceStatus] = {}
        self._objects: dict[ObjectKey, KubeObject] = {}
        self._by_kind: dict[str, dict[ObjectKey, KubeObject]] = {}
        self._listeners: list[ChangeListener] = []
        self._defects = DefectLog(logging.getLogger(__name__))

    def replace(self, partition: str, objects: Iterable[KubeObject]) -> None:
        """Make `objects` the whole content of `partition`; no objects removes it."""
        before = self._partitions.get(partition, {})
        after = {obj.key: obj for obj in objects}
        self._partitions[partition] = after
        if not after:
            del self._partitions[partition]
        gone = [key for key in before if key not in after]
        self._settle([*gone, *(key for key, obj in after.items() if before.get(key) is not obj)])

    def apply(self, partition: str, obj: KubeObject) -> None:
        """Add one object to `partition`, or replace its former version."""
        self._partitions.setdefault(partition, {})[obj.key] = obj
        self._settle((obj.key,))

    def remove(self, partition: str, key: ObjectKey) -> None:
        if self._partitions.get(partition, {}).pop(key, None) is not None:
            self._settle((key,))

    def drop(self, partition: str) -> None:
        """Remove `partition` with its problems and its status."""
        self.replace(partition, ())
        self.report(partition, ())
        self._problems.pop(partition, None)
        synced = self.synced()
        self._statuses.pop(partition, None)
        if self.synced() != synced:
            self._notify(frozenset())

    def report(self, partition: str, problems: Iterable[Problem]) -> None:
        """Replace the problems of `partition` as a whole (such as a file that is no YAML)."""
        found = tuple(problems)
        if found == self._problems.get(partition, ()):
            return
        self._problems[partition] = found
        self._notify(frozenset())

    def set_status(self, status: SourceStatus) -> None:
        synced = self.synced()
        self._statuses[status.name] = status
        if self.synced() != synced:
            self._notify(frozenset())

    def subscribe(self, listener: ChangeListener) -> Callable[[], None]:
        """Call `listener` with the changed keys after each change (an empty set: only problems or `synced` changed).

        Returns the function that ends the subscription.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def get(self, key: ObjectKey) -> KubeObject | None:
        return self._objects.get(key)

    def of_kind(self, kind: str) -> Iterator[KubeObject]:
        return iter(self._by_kind.get(kind, {}).values())

    def objects(self) -> Iterator[KubeObject]:
        return iter(self._objects.values())

    def problems(self) -> tuple[Problem, ...]:
        return tuple(problem for name in sorted(self._problems) for problem in self._problems[name])

    def statuses(self) -> tuple[SourceStatus, ...]:
        return tuple(self._statuses[name] for name in sorted(self._statuses))

    def synced(self) -> bool:
        """Every source has been read completely once; False while there is no source at all."""
        return bool(self._statuses) and all(status.synced for status in self._statuses.values())

    def _settle(self, keys: Iterable[ObjectKey]) -> None:
        changed = frozenset(key for key in keys if self._settle_one(key))
        if changed:
            self._notify(changed)

    def _settle_one(self, key: ObjectKey) -> bool:
        before = self._objects.get(key)
        after = next((objects[key] for objects in self._partitions.values() if key in objects), None)
        if after is None:
            self._objects.pop(key, None)
            self._by_kind.get(key.kind, {}).pop(key, None)
        else:
            self._objects[key] = after
            self._by_kind.setdefault(key.kind, {})[key] = after
        return _must_notify(before, after)

    def _notify(self, changed: frozenset[ObjectKey]) -> None:
        for listener in tuple(self._listeners):
            try:
                listener(changed)
            except Exception:  # neither the writing source nor the other listeners are at fault
                self._defects.note("a change of objects could not be processed")


def _must_notify(before: KubeObject | None, after: KubeObject | None) -> bool:
    """Whether a change concerns subscribers: also the same object on other lines or in another file, as problems name
    them, but not a change of the status alone, which only its writer uses."""
    if before is None or after is None or before is after:
        return before is not after
    return (
        before.source.origin != after.source.origin
        or before.source.lines != after.source.lines
        or before.api_version != after.api_version
        or _without_status(before.body) != _without_status(after.body)
    )


def _without_status(body: Mapping[str, object]) -> dict[str, object]:
    """The object without the parts that change with each write of its status."""
    rest = {name: value for name, value in body.items() if name != "status"}
    metadata = rest.get("metadata")
    if isinstance(metadata, Mapping):
        rest["metadata"] = {name: value for name, value in metadata.items() if name != "resourceVersion"}
    return rest
