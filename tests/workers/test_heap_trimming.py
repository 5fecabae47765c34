"""Memory that a worker no longer uses goes back to the system, though glibc would keep it."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from grpcgw.workers.heap_trimming import EVERY_S, GROWN_BYTES, HeapTrimmer

MB = 1 << 20
SMALL_BYTES = 50 * MB
LARGE_BYTES = SMALL_BYTES + GROWN_BYTES + 1


class Process:
    """A process whose size and clock the test sets; `trims` are the times at which memory was given back."""

    def __init__(self) -> None:
        self.now_s, self.size_bytes = 0.0, SMALL_BYTES
        self.trims: list[float] = []
        self.trimmer = HeapTrimmer(lambda: self.now_s, lambda: self.size_bytes, self._trim)

    def _trim(self) -> None:
        self.trims.append(self.now_s)
        self.size_bytes = SMALL_BYTES

    def look(self, now_s: float, size_bytes: int) -> None:
        self.now_s, self.size_bytes = now_s, size_bytes
        self.trimmer.check()


def test_a_process_that_has_grown_gives_back_what_is_free_but_not_too_often() -> None:
    process = Process()
    process.look(1.0, LARGE_BYTES)
    process.look(EVERY_S, LARGE_BYTES)
    process.look(1.0 + EVERY_S, LARGE_BYTES)
    assert process.trims == [1.0, 1.0 + EVERY_S]


def test_a_process_that_has_not_grown_is_left_alone() -> None:
    process = Process()
    process.look(1.0, SMALL_BYTES + GROWN_BYTES)
    assert process.trims == []


def test_growth_counts_from_the_smallest_size() -> None:
    process = Process()
    process.look(1.0, SMALL_BYTES - 10 * MB)
    process.look(2.0, LARGE_BYTES - 10 * MB)
    assert process.trims == [2.0]


LEAVE_HOLES = f"""
from grpcgw.workers.heap_trimming import make_trimmer, resident_bytes
trimmer = make_trimmer()
before = resident_bytes()
pieces, pins = [], []
for _ in range(180 * {MB} // 60_000):  # below the size from which glibc takes memory from the system piece by piece
    pieces.append(bytes(60_000))
    pins.append(bytes(600))
del pieces
print(resident_bytes() - before)
trimmer.check()
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_glibc_keeps_between_living_objects_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVE_HOLES], capture_output=True, text=True, timeout=60, check=True)
    kept_bytes, left_bytes = map(int, done.stdout.split())
    assert kept_bytes > 100 * MB
    assert left_bytes < 60 * MB


TAKE_AND_FREE = """
import resource
import sys
from grpcgw.workers.heap_trimming import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def take_and_free():
    pieces = [bytes(262_144) for _ in range(16)]
take_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    take_and_free()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_memory_of_large_chunks_is_kept_for_the_next_ones() -> None:
    def count_faults(mode: str) -> int:
        command = [sys.executable, "-c", TAKE_AND_FREE, mode]
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)

    assert count_faults("keep") < 1000 < count_faults("leave")
