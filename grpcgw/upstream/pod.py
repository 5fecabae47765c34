"""One pod of one cluster in this worker: what was counted of it, its connection's state, whether new RPCs may go there.

Knows nothing of channels: an engine holds those behind the `Connection` port.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable
from typing import Protocol

from grpcgw.logs import DefectLog
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import DEFAULT_CONNECTION, ConnectionSettings
from grpcgw.model.endpoints import Endpoint, PodState
from grpcgw.telemetry.report import PodReport

_defects = DefectLog(logging.getLogger(__name__))

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


MAX_ERROR_CHARACTERS = 512
"""Of a pod's last error: it is the pod's own text, and goes into every report."""


class PodCounts:
    """What was counted of one address in one cluster, over all connections to it. Never falls.

    Several threads count: the lock costs some 60 ns where an RPC costs 100 µs (docs/performance.md).
    """

    __slots__ = ("__weakref__", "failures", "finished", "last_error", "latency_sum_s", "lock", "total")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.total = self.finished = self.failures = 0
        self.latency_sum_s = 0.0
        self.last_error = ""


NOTHING_COUNTED = PodCounts()


class Pod:
    """One connection to a pod, or the first to come."""

    __slots__ = (
        "cluster",
        "connect_error",
        "connection",
        "counts",
        "draining",
        "endpoint",
        "expires_at_s",
        "in_flight",
        "left_at_s",
        "replaced",
        "rests",
        "settings",
        "state",
    )

    def __init__(
        self,
        cluster: str,
        endpoint: Endpoint,
        connection: Connection,
        settings: ConnectionSettings = DEFAULT_CONNECTION,
        expires_at_s: float = math.inf,
        counts: PodCounts | None = None,
    ) -> None:
        """`settings`: what `connection` was made with. `expires_at_s`: the monotonic time at which another connection
        is to take its place. `counts`: of this address so far; None: nothing was counted."""
        self.cluster, self.endpoint, self.connection = cluster, endpoint, connection
        self.settings, self.expires_at_s = settings, expires_at_s
        self.rests = settings.idle_timeout_ms is not None
        """The connection may close while it is idle, and is as good as connected then."""
        self.state = PodState.IDLE
        self.draining = self.replaced = False
        """`replaced`: another connection has its place, or is to have it. It serves no more, though its pod be back."""
        self.left_at_s: float | None = None
        """Monotonic time at which it was first asked whether it is over."""
        self.in_flight = 0
        self.connect_error = ""
        """Why it could not be connected to when it was last tried in vain."""
        self.counts = counts or PodCounts()

    def is_ready(self) -> bool:
        """Whether an RPC can be sent without waiting for more than its own connection to wake."""
        return self.state is PodState.READY or (self.rests and self.state is PodState.IDLE)

    def is_over(self, now_s: float, limit_s: float) -> bool:
        """Whether the connection of this pod, which left, is to be closed; at `limit_s` whatever still runs there."""
        if self.left_at_s is None:
            self.left_at_s = now_s
        return now_s >= limit_s or (not self.in_flight and now_s >= self.left_at_s + LINGER_S)

    def come_back(self) -> None:
        """The pod that left is there again. How its connection is will be seen when it is looked at next."""
        self.draining, self.left_at_s, self.state = False, None, PodState.IDLE

    def begin(self) -> None:
        """An RPC is about to be sent to this pod."""
        counts = self.counts
        with counts.lock:
            self.in_flight += 1
            counts.total += 1

    def end(self, duration_s: float, error: str) -> None:
        """The RPC is over; `error` is empty unless it counts against the pod."""
        counts = self.counts
        with counts.lock:
            self.in_flight -= 1
            counts.finished += 1
            counts.latency_sum_s += duration_s
            if error:
                counts.failures += 1
                counts.last_error = error[:MAX_ERROR_CHARACTERS]

    def note_connect_error(self, failure: str) -> None:
        """`failure`: of an RPC that was to find out why; empty where the pod could be connected to after all."""
        if self.state is PodState.FAILING:
            self.connect_error = failure.removeprefix("UNAVAILABLE: ")[:MAX_ERROR_CHARACTERS]

    def report(self, note: str = "", counted: bool = True) -> PodReport:
        """`counted`: with what was counted of the address; of several connections to it one alone is to say so."""
        counts = self.counts if counted else NOTHING_COUNTED
        mean_ms = 1000 * counts.latency_sum_s / counts.finished if counts.finished else 0.0
        state = PodState.DRAINING if self.draining else self.state
        return PodReport(
            self.cluster,
            str(self.endpoint),
            state,
            self.in_flight,
            counts.total,
            counts.failures,
            mean_ms,
            (state is PodState.FAILING and self.connect_error) or counts.last_error,
            note,
        )


def close_connections(pods: Iterable[Pod]) -> None:
    """Close them all: that one cannot be closed keeps none of the others open."""
    for pod in pods:
        try:
            pod.connection.close()
        except Exception:
            _defects.note("cannot close the connection to pod", str(pod.endpoint))


def pod_target(address: str) -> str:
    """grpc's name for `host:port`, such that nothing is resolved: `ipv4:10.0.0.1:50051`."""
    return f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"
