"""One pod of one cluster in this worker: its counters, its connection's state, and whether new RPCs may go there.

Knows nothing of channels: an engine holds those behind the `Connection` port.
"""

from __future__ import annotations

import threading
from typing import Protocol

from grpcgw.config.endpoint import Endpoint
from grpcgw.telemetry.report import PodReport, PodState


class Connection(Protocol):
    """An engine's channel to one pod."""

    def state(self) -> PodState:
        """Connectivity now; starts connecting when idle. Never blocks."""
        ...

    def close(self) -> None:
        """Cancel what still runs and free everything. Called once, from the housekeeping thread."""
        ...


class Pod:
    """Several threads count: the lock costs some 60 ns where an RPC costs 100 µs (docs/performance.md)."""

    __slots__ = (
        "_lock",
        "cluster",
        "connection",
        "draining",
        "endpoint",
        "failures",
        "finished",
        "in_flight",
        "last_error",
        "latency_sum_s",
        "state",
        "total",
    )

    def __init__(self, cluster: str, endpoint: Endpoint, connection: Connection) -> None:
        self.cluster, self.endpoint, self.connection = cluster, endpoint, connection
        self.state = PodState.IDLE
        self.draining = False
        self.in_flight = self.total = self.finished = self.failures = 0
        self.latency_sum_s = 0.0
        self.last_error = ""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """An RPC is about to be sent to this pod."""
        with self._lock:
            self.in_flight += 1
            self.total += 1

    def end(self, duration_s: float, error: str) -> None:
        """The RPC is over; `error` is empty unless it counts against the pod."""
        with self._lock:
            self.in_flight -= 1
            self.finished += 1
            self.latency_sum_s += duration_s
            if error:
                self.failures += 1
                self.last_error = error

    def report(self) -> PodReport:
        mean_ms = 1000 * self.latency_sum_s / self.finished if self.finished else 0.0
        state = PodState.DRAINING if self.draining else self.state
        return PodReport(
            self.cluster, str(self.endpoint), state, self.in_flight, self.total, self.failures, mean_ms, self.last_error
        )
