"""Counters of one pod's address, which outlive its connections."""

from __future__ import annotations

import threading


class PodCounts:
    """Counters of one address in one cluster, over all connections to it. They never fall.

    Several threads count: the lock costs some 60 ns where an RPC costs 100 µs (docs/performance.md).
    """

    __slots__ = ("__weakref__", "failures", "finished", "last_error", "latency_sum_s", "lock", "total")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.total = self.finished = self.failures = 0
        self.latency_sum_s = 0.0
        self.last_error = ""


NOTHING_COUNTED = PodCounts()
