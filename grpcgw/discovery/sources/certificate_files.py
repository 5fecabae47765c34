"""Certificate files on the gateway's disk as a source of objects, read once or followed.

Owns when a file is read and when its new content is accepted; the dialect names the files and reads certificates. Files
are read in a thread as values, the store is written in the control loop only. No message contains a part of a file.

The files are polled, not watched: they are a handful in any place, some in volumes that change by the swap of a link or
on file systems that report no change, and one stat takes microseconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from pathlib import Path

from grpcgw.discovery.sources.followed_files import FollowedFile, read_followed, reject, settle
from grpcgw.discovery.sources.named_by_objects import NamedByObjects
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.certificate_objects import CERTIFICATE_FILES, list_paths, make_object
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import KubeObject, ObjectKey

PARTITION = "certificate files"
MAX_FILE_BYTES = 1024 * 1024
"""The most a Secret or ConfigMap may hold; the CA certificates of a whole system take a quarter of it."""
POLL_S = 1.0
"""A kubelet takes a minute to update a volume: the second does not matter."""
SETTLE_S = 0.2
"""Pause until a file that just changed is read again: the other file of its pair may change next."""

_PEM = b"-----BEGIN "


Files = Mapping[str, FollowedFile]


def read_certificate_files(objects: Iterable[KubeObject], dialect: DialectObjects) -> list[KubeObject]:
    """The files that `objects` name, as objects to compile together with them."""
    keys = {key for obj in objects for key in find_wanted(obj, dialect) or ()}
    files = read_files(keys, {})
    return [make_file_object(key, files) for key in sorted(keys)]


def find_wanted(obj: KubeObject, dialect: DialectObjects) -> frozenset[ObjectKey] | None:
    """The files that an object of this gateway names; those of another gateway are not read. None: the object is too
    broken to tell."""
    return dialect.find_files(obj) if obj.key.kind in dialect.naming_kinds and dialect.owns(obj) else frozenset()


class CertificateFiles:
    """Keeps the store equal to the files that its TLSContexts and Hosts name. For the control loop."""

    def __init__(self, store: ObjectStore, dialect: DialectObjects) -> None:
        self._store = store
        self._named = NamedByObjects(store, dialect.naming_kinds, lambda obj: find_wanted(obj, dialect))
        self._wanted: frozenset[ObjectKey] = frozenset()
        self._files: Files = {}
        self._reading = asyncio.Lock()

    async def read_wanted(self) -> None:
        """Return when the store holds the files that its objects name, so that they can be compiled together."""
        while (wanted := self._named.find()) != self._wanted:
            self._wanted = wanted
            await self.refresh()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S if self._settled() else SETTLE_S)
            if self._wanted:
                await self.refresh()

    async def refresh(self) -> None:
        """Read what may have changed. New content is stored once two readings were the same, a new file at once."""
        async with self._reading:
            wanted = self._wanted
            files = await asyncio.to_thread(read_files, wanted, self._files)
            changed, self._files = files != self._files, files
            if changed or wanted != self._wanted_in_store():
                self._store.replace(PARTITION, [self._renew(key) for key in sorted(wanted)])

    def _renew(self, key: ObjectKey) -> KubeObject:
        former = self._store.get(key)
        if former is not None and not all(self._files[path].settled for path in list_paths(key)):
            return former
        return make_file_object(key, self._files)

    def _wanted_in_store(self) -> frozenset[ObjectKey]:
        return frozenset(obj.key for obj in self._store.of_kind(CERTIFICATE_FILES))

    def _settled(self) -> bool:
        return all(state.settled for state in self._files.values())


def make_file_object(key: ObjectKey, files: Files) -> KubeObject:
    read = {path: files[path].read for path in list_paths(key)}
    return make_object(
        key,
        {path: one.content for path, one in read.items() if one.content is not None},
        {path: one.unreadable for path, one in read.items() if one.content is None},
    )


def read_files(keys: Iterable[ObjectKey], former: Files) -> Files:
    paths = sorted({path for key in keys for path in list_paths(key)})
    return {path: read_file(path, former.get(path)) for path in paths}


def read_file(path: str, former: FollowedFile | None) -> FollowedFile:
    """As `follow`, of a file in PEM."""
    read = read_followed(Path(path), None if former is None else former.read, MAX_FILE_BYTES)
    if read.content is not None and _PEM not in read.content:
        read = reject(read, "it holds no PEM")
    return settle(read, former)
