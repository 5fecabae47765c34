"""Settings that balance over the pods of a cluster: load balancing policy, active health checks, outlier detection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """Policy name of the balancer catalogue with its parameters; ring_hash and maglev hash exactly one thing.

    Policies: round_robin, least_request, ring_hash, maglev, and weighted_round_robin (not in Ambassador), which weighs
    pods by the load they report with ORCA.
    """

    policy: str = "round_robin"
    header: str = ""
    """Metadata key whose value is hashed; an RPC without it goes to any pod."""
    source_ip: bool = False
    slow_start_ms: int = 0
    """Time until a new pod gets its full share; 0: at once. (Not in Ambassador.)"""
    prefer_same_zone: bool = False
    """Follow EndpointSlice zone hints. (Not in Ambassador.)"""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active check of each pod by `grpc.health.v1.Health/Check`."""

    service: str = ""
    """`upstream_name`: service name in the request."""
    authority: str = ""
    timeout_ms: int = 3_000
    interval_ms: int = 5_000
    unhealthy_threshold: int = 2
    healthy_threshold: int = 1


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Passive: a pod that fails too often is ejected for a while. Names and defaults are Envoy's (and gRFC A50's)."""

    consecutive_failures: int | None = 5
    interval_ms: int = 10_000
    base_ejection_ms: int = 30_000
    max_ejection_ms: int = 300_000
    max_ejection_percent: int = 10
    success_rate_stdev_factor: int | None = None
    """In thousandths, Envoy's 1900; None: success rates are not compared."""
    success_rate_minimum_pods: int = 5
    success_rate_request_volume: int = 100


ROUND_ROBIN = LoadBalancer()


@dataclass(frozen=True, slots=True)
class Balancing:
    """How the pods of a cluster are balanced. Destinations with equal settings share turns, ejections and health
    checks over a cluster."""

    load_balancer: LoadBalancer = ROUND_ROBIN
    health_check: HealthCheck | None = None
    outlier_detection: OutlierDetection | None = None


DEFAULT_BALANCING = Balancing()
