"""Certificates in files on the gateway's disk as a source of objects, read once or followed.

Owns when a file is read and when new content is believed; which files are wanted the configuration says
(`config.certificate_files`), what is in them is its business too. Files are read in a thread as values, the store is
written in the control loop only. Nothing of what a file holds is ever part of a message.

Files are looked at in intervals, not watched: they lie anywhere, in volumes that change by a link being turned or on
file systems that report nothing, are a handful, and to ask for the state of one takes microseconds.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from grpcgw.discovery.store import ObjectStore
from grpcgw.model.certificate_files import CERTIFICATE_FILES, list_paths, make_object
from grpcgw.model.dialect import DialectObjects
from grpcgw.model.objects import KubeObject, ObjectKey

PARTITION = "certificate files"
MAX_FILE_BYTES = 1024 * 1024
"""As much as a Secret or ConfigMap may hold; the authorities of a whole system take a quarter of it."""
POLL_S = 1.0
"""A kubelet takes a minute to update a volume: the second does not matter."""
SETTLE_S = 0.2
"""Pause until a file that just changed is read once more: the other file of its pair may be on its way."""

_PEM = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class FileState:
    """One file at its last reading. `content` is empty where `unreadable` says why it cannot be read."""

    signature: tuple[int, ...]
    """Changes with the content; empty where the file was not read."""
    content: bytes = field(default=b"", repr=False)
    unreadable: str = ""
    settled: bool = False
    """It was the same at the reading before."""


Files = Mapping[str, FileState]


def read_certificate_files(objects: Iterable[KubeObject], dialect: DialectObjects) -> list[KubeObject]:
    """What the files hold that `objects` name, as objects to be compiled beside them."""
    keys = {key for obj in objects for key in find_wanted(obj, dialect) or ()}
    files = read_files(keys, {})
    return [make_file_object(key, files) for key in sorted(keys)]


def find_wanted(obj: KubeObject, dialect: DialectObjects) -> frozenset[ObjectKey] | None:
    """The files an object names that is this gateway's configuration; those of another gateway are not read. None: it
    is too broken to tell."""
    return dialect.find_files(obj) if obj.key.kind in dialect.naming_kinds and dialect.owns(obj) else frozenset()


class CertificateFiles:
    """Keeps the store equal to the files that its TLSContexts and Hosts name. For the control loop."""

    def __init__(self, store: ObjectStore, dialect: DialectObjects) -> None:
        self._store = store
        self._dialect = dialect
        self._wanted: frozenset[ObjectKey] = frozenset()
        self._wanted_by: dict[ObjectKey, tuple[KubeObject, frozenset[ObjectKey]]] = {}
        self._files: Files = {}
        self._reading = asyncio.Lock()

    async def read_wanted(self) -> None:
        """Returns when the store has what the objects in it name, so that they can be compiled together."""
        while (wanted := self._find_wanted()) != self._wanted:
            self._wanted = wanted
            await self.refresh()

    async def run(self) -> None:
        """Follow the files until cancelled."""
        while True:
            await asyncio.sleep(POLL_S if self._settled() else SETTLE_S)
            if self._wanted:
                await self.refresh()

    async def refresh(self) -> None:
        """Look at every file. New content is in the store when it was the same twice; what was not there, at once."""
        async with self._reading:
            wanted = self._wanted
            files = await asyncio.to_thread(read_files, wanted, self._files)
            if files != self._files or wanted != self._wanted_in_store():
                self._files = files
                self._store.replace(PARTITION, [self._renew(key) for key in sorted(wanted)])

    def _renew(self, key: ObjectKey) -> KubeObject:
        former = self._store.get(key)
        if former is not None and not all(self._files[path].settled for path in list_paths(key)):
            return former
        return make_file_object(key, self._files)

    def _find_wanted(self) -> frozenset[ObjectKey]:
        """What all objects want; each is read once, since this is asked before each compilation. One that is broken
        wants what it wanted before: its last good version serves on."""
        former, self._wanted_by = self._wanted_by, {}
        for obj in (obj for kind in self._dialect.naming_kinds for obj in self._store.of_kind(kind)):
            known = former.get(obj.key)
            if known is None or known[0] is not obj:
                wanted = find_wanted(obj, self._dialect)
                before = frozenset() if known is None else known[1]
                known = (obj, before if wanted is None else wanted)
            self._wanted_by[obj.key] = known
        return frozenset(key for _, wanted in self._wanted_by.values() for key in wanted)

    def _wanted_in_store(self) -> frozenset[ObjectKey]:
        return frozenset(obj.key for obj in self._store.of_kind(CERTIFICATE_FILES))

    def _settled(self) -> bool:
        return all(state.settled for state in self._files.values())


def make_file_object(key: ObjectKey, files: Files) -> KubeObject:
    states = {path: files[path] for path in list_paths(key)}
    return make_object(
        key,
        {path: state.content for path, state in states.items() if not state.unreadable},
        {path: state.unreadable for path, state in states.items() if state.unreadable},
    )


def read_files(keys: Iterable[ObjectKey], former: Files) -> Files:
    paths = sorted({path for key in keys for path in list_paths(key)})
    return {path: read_file(path, former.get(path)) for path in paths}


def read_file(path: str, former: FileState | None) -> FileState:
    """The state of a file after `former`. It is read twice after each change: a clock that counts in milliseconds
    shows nothing of a write that follows the reading at once."""
    try:
        status = os.stat(path)
        signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if former is not None and former.settled and former.signature == signature:
            return former
        state = FileState(signature, _read_pem(path, status))
    except (OSError, UnicodeError) as error:
        state = FileState((), unreadable=getattr(error, "strerror", None) or str(error))
    return replace(state, settled=former is not None and replace(former, settled=False) == state)


def _read_pem(path: str, status: os.stat_result) -> bytes:
    """OSError where it is no regular file (to open a device can have effects, to read a pipe would wait), is too large,
    or holds no PEM, whatever it holds instead."""
    _require_regular(status)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor))  # another may have taken its place meanwhile
        content = file.read(MAX_FILE_BYTES + 1) or b""  # None of a file in /proc that would have to be waited for
    if len(content) > MAX_FILE_BYTES:
        raise OSError(f"it is larger than {MAX_FILE_BYTES // 1024} KB")
    if _PEM not in content:
        raise OSError("it holds no PEM")
    return content


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
