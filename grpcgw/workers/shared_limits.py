"""What all workers count together, in memory that they share, so that limits are exact over them (decision 034).

The tables of token buckets and of RPCs in flight are a file in memory that the workers inherit and map. A worker locks
a small part of a table while it changes it, by a record lock of the kernel, which frees the locks of a process that
dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import mmap
import os
import time

from grpcgw.policy.limits.bucket_table import SECRET_BYTES, SETS, TABLE_BYTES, BucketTable
from grpcgw.policy.limits.in_flight_table import IN_FLIGHT_BYTES, InFlightTable

log = logging.getLogger(__name__)


PATIENCE_S = 0.01
"""How long a lock is waited for: others hold one for some microseconds, unless they get no time to run."""
LOOK_EVERY_S = 0.000_05
STUCK_S = 0.5
"""So long after that, the same lock is not waited for."""


class RecordLock:
    """A `SetLock` over the processes that have the file.

    A process that is stopped keeps its lock, and the event loop must not wait for it: what needs the lock then goes on
    without it. The worst that comes of it is that a few RPCs of that set are counted wrong.
    """

    def __init__(self, descriptor: int, first: int) -> None:
        """`first`: the byte that lock 0 is; they need not exist."""
        self._descriptor, self._first = descriptor, first
        self._stuck, self._stuck_until_s = -1, 0.0
        """The lock that did not come in time; a stopped process has one at most."""

    def acquire(self, number: int) -> None:
        if not self._try(number):
            self._wait(number)

    def release(self, number: int) -> None:
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._first + number)

    def _wait(self, number: int) -> None:
        now_s = time.monotonic()
        if number == self._stuck and now_s < self._stuck_until_s:
            return
        until_s = now_s + PATIENCE_S
        while time.monotonic() < until_s:
            time.sleep(LOOK_EVERY_S)
            if self._try(number):
                return
        self._stuck, self._stuck_until_s = number, time.monotonic() + STUCK_S

    def _try(self, number: int) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._first + number)
        except BlockingIOError:
            return False
        return True


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
        os.ftruncate(descriptor, TABLE_BYTES + IN_FLIGHT_BYTES)
        os.pwrite(descriptor, os.urandom(SECRET_BYTES), 0)
        undo.pop_all()
    return descriptor


def map_tables(descriptor: int, worker: int) -> tuple[BucketTable, InFlightTable]:
    """The tables of the file; the mapping lives as long as they. `worker`: the number of this one. Raises OSError."""
    whole = memoryview(mmap.mmap(descriptor, TABLE_BYTES + IN_FLIGHT_BYTES))
    buckets = BucketTable(whole[:TABLE_BYTES], RecordLock(descriptor, 0))
    return buckets, InFlightTable(whole[TABLE_BYTES:], RecordLock(descriptor, SETS), worker)
