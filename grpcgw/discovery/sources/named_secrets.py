"""One list/watch loop for each Secret that an object names and that is not of type `kubernetes.io/tls`.

One watch reads all certificates (`kubernetes.io/tls`). CA certificates are mostly kept in Secrets of another type, as
are passwords and Helm releases; of those this process reads only the Secrets that are named. Owns the set of named
Secrets and one task for each; the caller's `make_loop` reads a Secret. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from grpcgw.discovery.sources.watch_events import CERTIFICATE_TYPE, is_possible_name
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import KubeObject, ObjectKey


class Loop(Protocol):
    """Keeps `partition` of the store equal to one Secret. Once it is made, the store is not `synced` until the API
    server has answered."""

    partition: str

    async def run(self) -> None: ...


class NamedSecrets:
    """Reads each Secret for as long as an object names it.

    The names come from the newest version of an object that can be parsed. An empty `namespace` means all.
    """

    def __init__(
        self,
        store: ObjectStore,
        make_loop: Callable[[ObjectKey], Loop],
        certificates: str,
        namespace: str,
        dialect: DialectObjects,
    ) -> None:
        """`certificates` is the partition (and status) of the watch of all certificates."""
        self._store = store
        self._make_loop = make_loop
        self._certificates = certificates
        self._namespace = namespace
        self._dialect = dialect
        self._named: dict[ObjectKey, frozenset[ObjectKey]] = {}
        """By the object that names them."""
        self._wanted: frozenset[ObjectKey] = frozenset()
        self._running: dict[ObjectKey, tuple[Loop, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Run until cancelled. Start it before the first kind has been read: then the store is never `synced` without
        the named Secrets."""
        async with asyncio.TaskGroup() as tasks:

            def note(changed: frozenset[ObjectKey]) -> None:
                self._note(changed, tasks)

            unsubscribe = self._store.subscribe(note)
            note(frozenset())  # Secrets named before this run
            try:
                await asyncio.Event().wait()
            finally:
                unsubscribe()
                self._wanted = frozenset()
                self._running.clear()

    def _note(self, changed: frozenset[ObjectKey], tasks: asyncio.TaskGroup) -> None:
        if changed and not any(key.kind in self._dialect.naming_kinds or key.kind == "Secret" for key in changed):
            return
        for key in changed:
            if key.kind in self._dialect.naming_kinds:
                self._read_names(key)
        wanted, before = self._find_wanted(), self._wanted
        # Assigned first: starting and ending a loop changes the store, which calls this method again.
        self._wanted = wanted
        for key in before - wanted:
            self._end(key)
        for key in wanted - before:
            self._begin(key, tasks)

    def _read_names(self, key: ObjectKey) -> None:
        obj = self._store.get(key)
        named = frozenset() if obj is None else self._dialect.find_secrets(obj)
        if not named and named is not None:
            self._named.pop(key, None)
        elif named is not None:
            self._named[key] = named

    def _find_wanted(self) -> frozenset[ObjectKey]:
        """Empty until all certificates have been read: only then it is known which named Secrets are certificates."""
        if not any(status.name == self._certificates and status.synced for status in self._store.statuses()):
            return frozenset()
        return frozenset(key for keys in self._named.values() for key in keys if self._is_wanted(key))

    def _is_wanted(self, key: ObjectKey) -> bool:
        in_scope = self._namespace in ("", key.namespace) and is_possible_name(key)
        return in_scope and not _is_certificate(self._store.get(key))

    def _begin(self, key: ObjectKey, tasks: asyncio.TaskGroup) -> None:
        loop = self._make_loop(key)
        self._running[key] = (loop, tasks.create_task(loop.run(), name=loop.partition))

    def _end(self, key: ObjectKey) -> None:
        loop, task = self._running.pop(key)
        task.cancel()
        self._store.drop(loop.partition)


def _is_certificate(obj: KubeObject | None) -> bool:
    """Whether the watch of all certificates reads it; then no loop of its own does."""
    return obj is not None and obj.body.get("type") == CERTIFICATE_TYPE
