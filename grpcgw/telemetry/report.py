"""A worker's report to the control process: immutable counters, cumulative since the worker started.

All histograms share the latency buckets, in seconds. Each has one more count than there are bounds: the bucket +Inf.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.endpoints import PodState

LATENCY_BUCKETS_S = (
    *(0.0001, 0.00025, 0.0005),
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
)


@dataclass(frozen=True, slots=True)
class MethodReport:
    """RPCs of one method through one Mapping. `mapping` is empty where none matched; `service` and `method` are `other`
    there, and for methods of a Mapping that have no name (see `counters`)."""

    mapping: str
    service: str
    method: str
    codes: dict[int, int]
    """gRPC status code → RPCs that ended with it."""
    latency_counts: tuple[int, ...]
    """RPCs per bucket (not cumulative), one more than LATENCY_BUCKETS_S."""
    latency_sum_s: float
    in_flight: int
    reasons: dict[tuple[int, str], int] = field(default_factory=dict)
    """The part of `codes` that the gateway made itself: (gRPC status code, reason) → RPCs."""
    request_bytes: int = 0
    """Of messages, as clients sent them."""
    response_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EventReport:
    """Retries, circuit-breaker refusals and ejections."""

    retries: dict[str, int] = field(default_factory=dict)
    """Mapping → retries of its RPCs."""
    breaker_trips: dict[tuple[str, str], int] = field(default_factory=dict)
    """(Mapping, limit) → RPCs and retries that a circuit breaker refused."""
    ejections: dict[str, int] = field(default_factory=dict)
    """Cluster → times that one of its pods was ejected."""


@dataclass(frozen=True, slots=True)
class PodReport:
    cluster: str
    address: str
    """`10.0.0.1:50051`, as `str(Endpoint)` gives it."""
    state: PodState
    in_flight: int
    total: int
    """RPCs sent to this pod (tries, not client calls)."""
    failures: int
    """RPCs the pod or its connection ended with UNAVAILABLE, INTERNAL, UNKNOWN, DEADLINE_EXCEEDED or DATA_LOSS."""
    latency_mean_ms: float
    """Mean over all finished RPCs; 0.0 before the first."""
    last_error: str = ""
    note: str = ""
    """Why a connected pod gets no RPCs, for the operator; empty: it gets its share."""


@dataclass(frozen=True, slots=True)
class PolicyReport:
    """RPCs that a policy of one Mapping decided on."""

    mapping: str
    policy: str
    """Its name: `AuthService auth.default`."""
    allowed: int
    denied: int
    errors: dict[str, int]
    """Kind of error (`PolicyError`) → RPCs that it allowed or denied."""
    wait_counts: tuple[int, ...]
    """Waits for a server or a coroutine, per bucket."""
    wait_sum_s: float


class PolicyError(StrEnum):
    """Why a policy gave no verdict, and what followed."""

    DEFECT = "defect"
    """It raised: the RPC ended with INTERNAL."""
    FAILED_OPEN = "failed-open"
    """Its server gave no verdict: the RPC was allowed."""
    FAILED_CLOSED = "failed-closed"
    """Its server gave no verdict: the RPC was denied."""


@dataclass(frozen=True, slots=True)
class CacheReport:
    """Look-ups in a cache of policies."""

    cache: str
    hits: int
    misses: int


@dataclass(frozen=True, slots=True)
class ShadowReport:
    """Copies of RPCs for one shadow Mapping."""

    mapping: str
    codes: dict[int, int]
    """gRPC status code → copies that ended with it. No client sees these statuses."""
    dropped: dict[str, int]
    """Reason → copies that were not sent, or not completely."""
    in_flight: int


@dataclass(frozen=True, slots=True)
class ClientReport:
    """Clients' connections, and requests on them that are no RPCs."""

    open: dict[int, int] = field(default_factory=dict)
    """Port → open connections."""
    accepted: dict[int, int] = field(default_factory=dict)
    """Port → connections, open and closed."""
    closed: dict[str, int] = field(default_factory=dict)
    """Cause (`CloseCause`) → connections that ended."""
    malformed_requests: int = 0
    """Requests whose stream was reset because they break HTTP/2."""
    http_requests: dict[int, int] = field(default_factory=dict)
    """HTTP status of the answer → requests that are no gRPC."""


@dataclass(frozen=True, slots=True)
class WorkerReport:
    worker: int
    pid: int
    engine: str
    snapshot_version: str
    started_at_s: float
    """Seconds since the epoch."""
    methods: tuple[MethodReport, ...] = ()
    pods: tuple[PodReport, ...] = ()
    events: EventReport = field(default_factory=EventReport)
    shadows: tuple[ShadowReport, ...] = ()
    policies: tuple[PolicyReport, ...] = ()
    caches: tuple[CacheReport, ...] = ()
    slow_checks: dict[str, int] = field(default_factory=dict)
    """Own policy → synchronous checks that held the worker up."""
    access_log_dropped: int = 0
    """RPCs missing in the access log because its reader is too slow or gone."""
    cpu_s: float = 0.0
    """Processor time of the process since it started."""
    memory_bytes: int = 0
    """Resident memory of the process; 0: unknown."""
    handshake_failures: dict[str, int] = field(default_factory=dict)
    """TLS handshakes that failed, by cause, also of predecessors. The supervisor adds those in the log of grpc core."""
    clients: ClientReport | None = None
    """None: the engine does not count them."""
    redis_away: bool | None = None
    """Whether the Redis that rate limits share is away, and they hold on this machine alone; None: there is none."""
    restarts: int = 0
    """How often this worker's predecessor died (filled in by the supervisor)."""
