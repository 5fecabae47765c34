"""Counters and limits of the copies for a shadow Mapping. `session.shadow_copy` is the state machine of one copy."""

from __future__ import annotations

import threading
from collections import Counter
from enum import StrEnum

from grpcgw.model.codes import countable
from grpcgw.telemetry.report import ShadowReport

MAX_COPIES = 1000
"""That run at one time, for one shadow Mapping in one worker."""
MAX_ALL_HELD_BYTES = 64 << 20
"""Of messages of all copies for one shadow Mapping in one worker that its pods have not taken yet."""


class Drop(StrEnum):
    """Why a copy was not sent, or not to its end."""

    TOO_MANY = "too-many"
    TOO_SLOW = "too-slow"
    CIRCUIT_BREAKER = "circuit-breaker"
    NO_ENDPOINTS = "no-endpoints"
    NO_ANSWER = "no-answer"
    DRAINING = "draining"
    DEFECT = "defect"


class CopyCounters:
    """Counters of all copies for one shadow Mapping, over reloads: running, held bytes, statuses, drops.

    Any thread may call any method.
    """

    def __init__(self, mapping: str) -> None:
        self._mapping = mapping
        self._lock = threading.Lock()
        self._codes: Counter[int] = Counter()
        self._dropped: Counter[str] = Counter()
        self._in_flight = self._held_bytes = 0

    def begin(self) -> bool:
        """Whether one more may run; `end` must then follow."""
        with self._lock:
            if self._in_flight >= MAX_COPIES:
                return False
            self._in_flight += 1
            return True

    def end(self, code: int | None) -> None:
        """`code`: the copy's status; None: it was dropped."""
        with self._lock:
            self._in_flight -= 1
            if code is not None:
                self._codes[countable(code)] += 1

    def drop(self, reason: Drop) -> None:
        with self._lock:
            self._dropped[reason.value] += 1

    def hold(self, size_bytes: int) -> bool:
        """Whether a message may be kept; `give_back` must then follow."""
        with self._lock:
            if self._held_bytes + size_bytes > MAX_ALL_HELD_BYTES:
                return False
            self._held_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._held_bytes -= size_bytes

    def held_bytes(self) -> int:
        return self._held_bytes

    def report(self) -> ShadowReport:
        with self._lock:
            return ShadowReport(self._mapping, dict(self._codes), dict(self._dropped), self._in_flight)
