"""Compiles retries, circuit breakers, health checks and outlier detection of a Mapping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from grpcgw.ambassador.spec.durations import parse_duration_ms
from grpcgw.ambassador.spec.mapping_parts import (
    CircuitBreakerSpec,
    HealthCheckSpec,
    OutlierDetectionSpec,
    RetryCondition,
    RetryPolicySpec,
)
from grpcgw.ambassador.spec.parse import Findings, parse_part
from grpcgw.model.balancing import HealthCheck, OutlierDetection
from grpcgw.model.codes import Code
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy

_CODES: dict[RetryCondition, frozenset[Code]] = {
    "cancelled": frozenset({Code.CANCELLED}),
    "deadline-exceeded": frozenset({Code.DEADLINE_EXCEEDED}),
    "internal": frozenset({Code.INTERNAL}),
    "resource-exhausted": frozenset({Code.RESOURCE_EXHAUSTED}),
    "unavailable": frozenset({Code.UNAVAILABLE}),
    "5xx": frozenset({Code.UNAVAILABLE}),
    "gateway-error": frozenset({Code.UNAVAILABLE}),
    "retriable-4xx": frozenset({Code.ABORTED}),
    "connect-failure": frozenset(),
    "refused-stream": frozenset(),
    "retriable-status-codes": frozenset(),
}
"""gRPC's own conditions (gRFC A44), and what HTTP's mean to gRPC.

502, 503 and 504 are UNAVAILABLE (grpc's http-grpc-status-mapping), and the one 4xx Envoy retries, 409, is ABORTED. A
failed connection and a refused stream never reached a pod, so every policy retries them.
"""


def compile_retry(spec: RetryPolicySpec, findings: Findings, *path: str) -> RetryPolicy:
    if "retriable-status-codes" in spec.retry_on:
        findings.notice(
            "retriable-status-codes has no effect: Ambassador has no field that lists them; name gRPC's codes",
            *path,
            "retry_on",
        )
    defaults = RetryPolicy(frozenset())
    return RetryPolicy(
        codes=frozenset[int]().union(*(_CODES[condition] for condition in spec.retry_on)),
        num_retries=defaults.num_retries if spec.num_retries is None else spec.num_retries,
        per_try_timeout_ms=(parse_duration_ms(spec.per_try_timeout) if spec.per_try_timeout else 0) or None,
        budget_percent=defaults.budget_percent if spec.budget_percent is None else spec.budget_percent,
    )


def compile_breakers(specs: Iterable[CircuitBreakerSpec], findings: Findings, *path: str) -> tuple[CircuitBreaker, ...]:
    """One of each priority, in the order of priorities."""
    breakers: dict[Priority, CircuitBreaker] = {}
    for index, spec in enumerate(specs):
        priority = Priority(spec.priority)
        if priority in breakers:
            findings.error(f"there is another circuit breaker of priority {priority}; keep one", *path, index)
        breakers[priority] = CircuitBreaker(
            priority, spec.max_connections, spec.max_pending_requests, spec.max_requests, spec.max_retries
        )
    return tuple(breakers[priority] for priority in Priority if priority in breakers)


def compile_health_check(entries: Sequence[object], findings: Findings, *path: str) -> HealthCheck | None:
    """The first gRPC check; a bad entry is skipped with an error, the others are kept."""
    chosen: HealthCheck | None = None
    for index, raw in enumerate(entries):
        spec = parse_part(raw, HealthCheckSpec, findings, *path, index)
        if spec is None:
            continue
        if spec.health_check.grpc is None:
            findings.notice("has no effect on gRPC: pods are checked with grpc.health.v1", *path, index, "health_check")
        elif chosen is not None:
            findings.fault("only the first health check is used; this entry is left out", *path, index)
        else:
            chosen = _make_health_check(spec)
    return chosen


def _make_health_check(spec: HealthCheckSpec) -> HealthCheck:
    assert spec.health_check.grpc is not None
    defaults = HealthCheck()
    return HealthCheck(
        service=spec.health_check.grpc.upstream_name,
        authority=spec.health_check.grpc.authority or "",
        timeout_ms=parse_duration_ms(spec.timeout) if spec.timeout else defaults.timeout_ms,
        interval_ms=parse_duration_ms(spec.interval) if spec.interval else defaults.interval_ms,
        unhealthy_threshold=spec.unhealthy_threshold or defaults.unhealthy_threshold,
        healthy_threshold=spec.healthy_threshold or defaults.healthy_threshold,
    )


def compile_outlier_detection(raw: object, findings: Findings, *path: str) -> OutlierDetection | None:
    """An object with Envoy's settings; the text that Ambassador's schema requires is an error in Ambassador too."""
    if isinstance(raw, str):
        findings.fault(
            "outlier_detection takes no text, in Ambassador neither; write an object:"
            " {consecutive_failures: 5}; the text has no effect",
            *path,
        )
        return None
    spec = parse_part(raw, OutlierDetectionSpec, findings, *path)
    if spec is None:
        return None
    given = spec.model_dump(exclude_none=True)
    if given.get("consecutive_failures") == 0:
        given["consecutive_failures"] = None
    return OutlierDetection(**given)
