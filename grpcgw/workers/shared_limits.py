"""The buckets of rate limits in memory that all workers share, so that a limit is exact over them (decision 027).

The table is a file in memory that the workers inherit and map. A worker locks one set of the table (a record lock of
the kernel) while it leases tokens; the kernel frees the locks of a process that dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os

from grpcgw.policy.bucket_table import SECRET_BYTES, TABLE_BYTES, BucketTable

log = logging.getLogger(__name__)


class RecordLock:
    """A `SetLock` over the processes that have the file. A thread that waits for it blocks."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def acquire(self, number: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, number)

    def release(self, number: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, number)


def make_table_file() -> int | None:
    """A descriptor of a new, empty table; None where the system has no memfd, or no more files: each worker then counts
    by itself."""
    if not hasattr(os, "memfd_create"):
        log.warning("this system has no memfd: each worker enforces rate limits by itself")
        return None
    try:
        descriptor = os.memfd_create("grpcgw limits")
    except OSError as error:
        log.warning("each worker enforces rate limits by itself: %s", error)
        return None
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, descriptor)
        os.ftruncate(descriptor, TABLE_BYTES)
        os.pwrite(descriptor, os.urandom(SECRET_BYTES), 0)
        undo.pop_all()
    return descriptor


def map_table(descriptor: int) -> BucketTable:
    """The table of a descriptor; the mapping lives as long as the table. Raises OSError."""
    return BucketTable(memoryview(mmap.mmap(descriptor, TABLE_BYTES)), RecordLock(descriptor))
