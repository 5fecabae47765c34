"""One pod of one cluster in this worker: its connection's state, its counters, and whether it is draining.

An engine holds the channel behind the `Connection` port.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from typing import Protocol

from grpcgw.logs import DefectLog
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import DEFAULT_CONNECTION, ConnectionSettings
from grpcgw.model.endpoints import Endpoint, PodState
from grpcgw.telemetry.report import PodReport
from grpcgw.upstream.pod_counts import NOTHING_COUNTED, PodCounts

_defects = DefectLog(logging.getLogger(__name__))

LINGER_S = 0.5
"""How long a pod that left stays connected without RPCs: an RPC that picked it just before may not be sent yet."""


class Connection(Protocol):
    """An engine's channel to one pod."""

    def state(self) -> PodState:
        """Connectivity now. Never blocks.

        Starts connecting when idle, unless the connection was made to be opened on demand, or has an idle timeout and
        has been established once: RPCs wake it then.
        """
        ...

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        """Start a health check, and return at once.

        `report` is called once, from any thread, with why the check failed, or "" where the pod is serving. It is not
        called if the connection was closed before that.
        """
        ...

    def set_other_address(self, address: str) -> None:
        """The pod's address in its other IP family; "": it has none. For connections that are opened from now on, where
        the engine tries both."""
        ...

    def close(self) -> None:
        """Cancel what still runs and free everything. Called once, from the housekeeping thread."""
        ...


MAX_ERROR_CHARACTERS = 512
"""Limit on a pod's last error: the pod writes the text, and every report carries it."""


class Pod:
    """One connection to a pod."""

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
        "on_demand",
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
        used: ConnectionSettings | None = None,
    ) -> None:
        """`settings`: of the cluster. `expires_at_s`: the monotonic time at which another connection replaces it.
        `counts`: of this address so far; None: a new address. `used`: settings of `connection`; None: `settings`."""
        self.cluster, self.endpoint, self.connection = cluster, endpoint, connection
        self.settings, self.expires_at_s = settings, expires_at_s
        used = used or settings
        self.rests = used.idle_timeout_ms is not None
        """The connection may close while it is idle, and counts as connected then."""
        self.on_demand = used.on_demand
        """The first RPC opens the connection."""
        self.state = PodState.IDLE
        self.draining = self.replaced = False
        """`replaced`: another connection replaces it. It gets no new RPCs, even if its pod comes back."""
        self.left_at_s: float | None = None
        """Monotonic time of the first `is_over`."""
        self.in_flight = 0
        self.connect_error = ""
        """Why the last attempt to connect failed."""
        self.counts = counts or PodCounts()

    def is_ready(self) -> bool:
        """Whether an RPC can be sent at once, or wakes an idle connection."""
        return self.state is PodState.READY or (self.rests and self.state is PodState.IDLE)

    def is_over(self, now_s: float, limit_s: float) -> bool:
        """Whether to close the connection of this pod, which left; at `limit_s` even if RPCs still run there."""
        if self.left_at_s is None:
            self.left_at_s = now_s
        return now_s >= limit_s or (not self.in_flight and now_s >= self.left_at_s + LINGER_S)

    def come_back(self) -> None:
        """The pod that left is back. The next `Pool.look` reads the state of its connection."""
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
        """`failure`: of the probe for the cause; empty: it could connect after all."""
        if self.state is PodState.FAILING:
            self.connect_error = failure.removeprefix("UNAVAILABLE: ")[:MAX_ERROR_CHARACTERS]

    def report(self, note: str = "", counted: bool = True) -> PodReport:
        """`counted`: with the counters of the address; of several connections to it only one reports them."""
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
    """Close them all, even if closing one of them raises."""
    for pod in pods:
        try:
            pod.connection.close()
        except Exception:
            _defects.note("cannot close the connection to pod", str(pod.endpoint))


def pod_target(address: str) -> str:
    """The grpc target of `host:port`, with a scheme that needs no name resolution: `ipv4:10.0.0.1:50051`."""
    return f"ipv6:{address}" if address.startswith("[") else f"ipv4:{address}"
