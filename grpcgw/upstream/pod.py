"""One pod of one cluster in this worker: its counters, its connection's state, and whether new RPCs may go there.

Knows nothing of channels: an engine holds those behind the `Connection` port.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Protocol

from grpcgw.config.endpoint import Endpoint
from grpcgw.config.policies import HealthCheck
from grpcgw.telemetry.report import PodReport, PodState

LINGER_S = 0.5
"""How long a pod that left stays connected without any RPC: one that chose its Mapping or its pod just before may only
now be about to be sent."""


class Connection(Protocol):
    """An engine's channel to one pod."""

    def state(self) -> PodState:
        """Connectivity now; starts connecting when idle. Never blocks."""
        ...

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        """Ask the pod for its health, and return at once.

        `report` is called once, from any thread, with why the check failed, or "" where the pod is serving; not
        where the connection was closed meanwhile.
        """
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
        "expires_at_s",
        "failures",
        "finished",
        "in_flight",
        "last_error",
        "latency_sum_s",
        "left_at_s",
        "rests",
        "state",
        "total",
    )

    def __init__(
        self,
        cluster: str,
        endpoint: Endpoint,
        connection: Connection,
        rests: bool = False,
        expires_at_s: float = math.inf,
    ) -> None:
        """`rests`: the connection may close while it is idle, and is as good as connected then. `expires_at_s`: the
        monotonic time at which another connection is to take its place."""
        self.cluster, self.endpoint, self.connection = cluster, endpoint, connection
        self.rests, self.expires_at_s = rests, expires_at_s
        self.state = PodState.IDLE
        self.draining = False
        self.left_at_s: float | None = None
        """Monotonic time at which it was first asked whether it is over."""
        self.in_flight = self.total = self.finished = self.failures = 0
        self.latency_sum_s = 0.0
        self.last_error = ""
        self._lock = threading.Lock()

    def is_ready(self) -> bool:
        """Whether an RPC can be sent without waiting for more than its own connection to wake."""
        return self.state is PodState.READY or (self.rests and self.state is PodState.IDLE)

    def is_over(self, now_s: float, limit_s: float) -> bool:
        """Whether the connection of this pod, which left, is to be closed; at `limit_s` whatever still runs there."""
        if self.left_at_s is None:
            self.left_at_s = now_s
        return now_s >= limit_s or (not self.in_flight and now_s >= self.left_at_s + LINGER_S)

    def carry_on(self, former: Pod) -> None:
        """Count on from `former`, whose place on the same endpoint this pod takes."""
        self.total, self.finished, self.failures = former.total, former.finished, former.failures
        self.latency_sum_s, self.last_error = former.latency_sum_s, former.last_error

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

    def report(self, note: str = "") -> PodReport:
        mean_ms = 1000 * self.latency_sum_s / self.finished if self.finished else 0.0
        state = PodState.DRAINING if self.draining else self.state
        return PodReport(
            self.cluster,
            str(self.endpoint),
            state,
            self.in_flight,
            self.total,
            self.failures,
            mean_ms,
            self.last_error,
            note,
        )
