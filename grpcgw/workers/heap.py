"""Gives memory back to the system that glibc keeps after it was freed.

One client that opened many streams and read none of them left a worker with hundreds of megabytes for good. Fixed
thresholds of malloc (`MALLOC_MMAP_THRESHOLD_`) give it back as well, and cost every RPC with large messages a third
more; this costs some milliseconds now and then, in a worker that has grown.
"""

from __future__ import annotations

import ctypes
import logging
import os
import time
from collections.abc import Callable

log = logging.getLogger(__name__)

GROWN_BYTES = 64 << 20
"""A process that is not this much larger than at its smallest is left alone."""
EVERY_S = 30.0


class HeapTrimmer:
    """`look` is called once a second or so, in a thread that serves nobody."""

    def __init__(self, clock: Callable[[], float], size_bytes: Callable[[], int], trim: Callable[[], None]) -> None:
        """`clock` in seconds; `size_bytes`: what the process takes now; `trim` gives back what is free."""
        self._clock, self._size_bytes, self._trim = clock, size_bytes, trim
        self._smallest_bytes = size_bytes()
        self._next_s = 0.0

    def look(self) -> None:
        now_s, size_bytes = self._clock(), self._size_bytes()
        self._smallest_bytes = min(self._smallest_bytes, size_bytes)
        if now_s >= self._next_s and size_bytes > self._smallest_bytes + GROWN_BYTES:
            self._next_s = now_s + EVERY_S
            self._trim()
            log.debug("memory: %d MB, given back what was free: %d MB", size_bytes >> 20, self._size_bytes() >> 20)


def make_trimmer() -> HeapTrimmer:
    """For this process. Without glibc it has nothing to call."""
    return HeapTrimmer(time.monotonic, resident_bytes, give_back)


def give_back() -> None:
    """Have glibc return the free memory of its heaps to the system (malloc_trim(3)); any other libc is left alone."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int:
    """What the process takes of the machine's memory; 0 where the system does not say (`/proc`)."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
