"""Secrets that are read one by one: those that a TLSContext or Host names and that are no certificates.

Certificates (`kubernetes.io/tls`) are all read, by one watch. Authorities are mostly kept in Secrets of another type,
as every password and helm release is; of those only the named enter this process. Owns which Secrets these are, and a
task for each; how one is read is the business of who makes the loops. Runs in the control process's event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from grpcgw.ambassador.spec.parse import is_meant_for
from grpcgw.ambassador.spec.secret_names import NAMING_KINDS, find_named_secrets
from grpcgw.discovery.sources.watch import CERTIFICATE_TYPE, is_possible_name
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.objects import KubeObject, ObjectKey


class Loop(Protocol):
    """What keeps `partition` of the store equal to one Secret. From when it is made, the store is not `synced` until
    the first answer."""

    partition: str

    async def run(self) -> None: ...


class NamedSecrets:
    """Reads each Secret from when something names it until nothing does.

    What an object names is taken from its newest version that can be read. `namespace` empty: of all namespaces.
    """

    def __init__(
        self,
        store: ObjectStore,
        make_loop: Callable[[ObjectKey], Loop],
        certificates: str,
        namespace: str,
        ambassador_id: str,
    ) -> None:
        """`certificates` is the partition (and status) of the watch of all certificates."""
        self._store = store
        self._make_loop = make_loop
        self._certificates = certificates
        self._namespace = namespace
        self._ambassador_id = ambassador_id
        self._named: dict[ObjectKey, frozenset[ObjectKey]] = {}
        """By the object that names them."""
        self._wanted: frozenset[ObjectKey] = frozenset()
        self._running: dict[ObjectKey, tuple[Loop, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Run until cancelled, from before the first kind has been read: then the store never counts as `synced`
        without the Secrets that are named."""
        async with asyncio.TaskGroup() as tasks:

            def note(changed: frozenset[ObjectKey]) -> None:
                self._note(changed, tasks)

            unsubscribe = self._store.subscribe(note)
            note(frozenset())  # what was wanted already, where this is not the first run
            try:
                await asyncio.Event().wait()
            finally:
                unsubscribe()
                self._wanted = frozenset()
                self._running.clear()

    def _note(self, changed: frozenset[ObjectKey], tasks: asyncio.TaskGroup) -> None:
        if changed and not any(key.kind in NAMING_KINDS or key.kind == "Secret" for key in changed):
            return
        for key in changed:
            if key.kind in NAMING_KINDS:
                self._read_names(key)
        wanted, before = self._find_wanted(), self._wanted
        # Kept first: beginning and ending change the store, which comes back here.
        self._wanted = wanted
        for key in before - wanted:
            self._end(key)
        for key in wanted - before:
            self._begin(key, tasks)

    def _read_names(self, key: ObjectKey) -> None:
        obj = self._store.get(key)
        if obj is None or not is_meant_for(obj, self._ambassador_id):
            self._named.pop(key, None)
            return
        named = find_named_secrets(obj)
        if named is not None:
            self._named[key] = named

    def _find_wanted(self) -> frozenset[ObjectKey]:
        """None at all until it is known which of the named ones are certificates."""
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
    """Whether the watch of all certificates has it: the loops here leave certificates out."""
    return obj is not None and obj.body.get("type") == CERTIFICATE_TYPE
