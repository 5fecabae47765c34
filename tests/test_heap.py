"""Memory that a worker no longer uses goes back to the system, though glibc would keep it."""

from __future__ import annotations

import ctypes

import pytest

from grpcgw.workers.heap import EVERY_S, HeapTrimmer, resident_bytes

MB = 1 << 20
PIECE_BYTES = 60_000
"""Below the size from which glibc takes memory from the system piece by piece."""


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def leave_holes() -> list[bytes]:
    """180 MB that are free again, between what is returned."""
    pieces, pins = [], []
    for _ in range(180 * MB // PIECE_BYTES):
        pieces.append(bytes(PIECE_BYTES))
        pins.append(bytes(600))
    return pins


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc")
def test_what_is_free_again_is_given_back_and_not_too_often() -> None:
    clock = Clock()
    trimmer = HeapTrimmer(clock)
    before = resident_bytes()
    held = [leave_holes()]
    grown = resident_bytes()
    assert grown > before + 100 * MB
    trimmer.look()
    assert resident_bytes() < before + 60 * MB
    held.append(leave_holes())
    clock.now_s = EVERY_S - 1
    trimmer.look()
    assert resident_bytes() > before + 100 * MB
    clock.now_s = EVERY_S
    trimmer.look()
    assert resident_bytes() < before + 60 * MB


def test_a_process_that_has_not_grown_is_left_alone() -> None:
    trimmer = HeapTrimmer(Clock())
    calls: list[int] = []
    trimmer._trim = calls.append  # what it would call; nothing shows that it was not
    trimmer.look()
    assert calls == []
