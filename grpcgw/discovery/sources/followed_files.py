"""Reads a followed file: bounded, regular files only, and only when its stamp shows that it may have changed.

For configuration, certificates and tokens alike. Blocks, so call it in a thread: a hung mount then holds a thread, not
the event loop. Links are followed, so the swap of `..data` in a mounted ConfigMap or Secret shows in the stamp.
"""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

CLOCK_STEP_NS = 2_000_000_000
"""The coarsest step in which a file system counts the time of a change (FAT; most count in milliseconds)."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Tells one version of a file from the next without reading it. The owner of a file can set `modified_ns` to any
    time, but nobody can set `changed_ns`."""

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    device: int

    def is_final(self, read_at_ns: int) -> bool:
        """Whether every later change gives the file another stamp, if it had this one before it was read at
        `read_at_ns`.

        A change in the same clock step as the one before it, and of the same size, leaves the stamp as it was. So the
        last change must be a whole step older than the reading: every later change then falls into a later step. A
        change in the future means that the clocks differ, and proves nothing.
        """
        return read_at_ns - max(self.modified_ns, self.changed_ns) >= CLOCK_STEP_NS


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file at its last reading. `content` is None if it could not be read, and `unreadable` says why."""

    content: bytes | None = field(default=None, repr=False)
    unreadable: str = ""
    stamp: Stamp | None = field(default=None, compare=False)
    """While the file has this stamp it has this content; None: it must be read to know."""


@dataclass(frozen=True, slots=True)
class FollowedFile:
    """One file at its last reading."""

    read: FileContent
    settled: bool = False
    """It was the same at the reading before."""


def follow(path: Path, former: FollowedFile | None, max_bytes: int) -> FollowedFile:
    """The state of a file after `former`."""
    return settle(read_followed(path, None if former is None else former.read, max_bytes), former)


def settle(read: FileContent, former: FollowedFile | None) -> FollowedFile:
    """`read` after `former`: settled when two readings in a row were the same."""
    return FollowedFile(read, settled=former is not None and read == former.read)


def read_followed(path: Path, former: FileContent | None, max_bytes: int) -> FileContent:
    """The file as it is now; `former` itself while its stamp proves that nothing changed. None reads in any case."""
    read_at_ns = time.time_ns()
    try:
        status = path.stat()
        stamp = _make_stamp(status)
        if former is not None and former.stamp == stamp:
            return former
        content = _read_bytes(path, status, max_bytes)
    except (OSError, UnicodeError) as error:  # the latter for a name that cannot be encoded
        return FileContent(unreadable=getattr(error, "strerror", None) or str(error))
    # The stamp was taken before the content: a change in between gives another stamp at the next reading.
    return FileContent(content, stamp=stamp if stamp.is_final(read_at_ns) else None)


def reject(read: FileContent, reason: str) -> FileContent:
    """`read` without its content: the file holds something that must not be kept."""
    return replace(read, content=None, unreadable=reason)


def _make_stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def _read_bytes(path: Path, status: os.stat_result, max_bytes: int) -> bytes:
    """Raises OSError for a file that is not regular (opening a device can have effects, reading a pipe would block) or
    too large."""
    _require_regular(status)
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    with open(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor))  # another file may have taken its place
        content = file.read(max_bytes + 1) or b""  # None: a file in /proc that is not ready
    if len(content) > max_bytes:
        raise OSError(f"it is larger than {max_bytes // 1024**2} MB")
    return content


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
