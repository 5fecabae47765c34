"""Heap trimming: returns freed memory that glibc keeps to the system (malloc_trim), and only so.

Without it a client that opened many streams and read none left a worker with hundreds of megabytes for good. Low
malloc thresholds (`MALLOC_MMAP_THRESHOLD_`) return it as well, but make every RPC with large messages a third more
expensive. Trimming costs a few milliseconds now and then, and only in a worker that has grown.

For the same reason a worker raises the thresholds (`keep_freed_memory`): glibc would return the memory of each large
chunk and get it again for the next one, 40 to 230 page faults for a message of 1 MB, a sixth of its processor time.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

GROWN_BYTES = 64 << 20
"""A process is trimmed only when it is larger than its smallest size by this much."""
EVERY_S = 10.0
"""Shortest time between two trims."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
MMAP_THRESHOLD_BYTES, TRIM_THRESHOLD_BYTES = 32 << 20, 64 << 20
"""The largest that glibc takes, and twice that: where its own adjustment ends."""


class HeapTrimmer:
    """Call `check` about once a second, in a thread that serves no RPC."""

    def __init__(self, clock: Callable[[], float], size_bytes: Callable[[], int], trim: Callable[[], None]) -> None:
        """`clock` in seconds; `size_bytes` returns the resident size of the process; `trim` returns free memory."""
        self._clock, self._size_bytes, self._trim = clock, size_bytes, trim
        self._smallest_bytes = size_bytes()
        self._next_s = 0.0

    def check(self) -> None:
        """Trim if the process has grown and the last trim is long enough ago."""
        now_s, size_bytes = self._clock(), self._size_bytes()
        self._smallest_bytes = min(self._smallest_bytes, size_bytes)
        if now_s >= self._next_s and size_bytes > self._smallest_bytes + GROWN_BYTES:
            self._next_s = now_s + EVERY_S
            self._trim()
            log.debug("memory: %d MB before trimming the heap, %d MB after", size_bytes >> 20, self._size_bytes() >> 20)


def make_trimmer() -> HeapTrimmer:
    """A trimmer for this process. Without glibc it does nothing."""
    return HeapTrimmer(time.monotonic, resident_bytes, trim_heap)


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for what is allocated next, until `trim_heap`; does nothing with another libc."""
    set_parameter = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_parameter is not None:
        set_parameter(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES)
        set_parameter(M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES)


def trim_heap() -> None:
    """Return the free memory of glibc's heaps to the system (malloc_trim(3)); does nothing with another libc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """Resident memory of the process; 0 where the system does not report it (`/proc`)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
