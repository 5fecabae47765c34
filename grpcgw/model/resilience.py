"""Circuit breaker and retry settings."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Priority(StrEnum):
    DEFAULT = "default"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Limits of one priority class; None: no limit (there is no hidden default of 1024)."""

    priority: Priority = Priority.DEFAULT
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an RPC is retried. Only while no part of a response was passed on.

    An attempt that provably never reached a pod is retried under every policy.
    """

    codes: frozenset[int]
    """gRPC status codes to retry; may be empty."""
    num_retries: int = 1
    per_try_timeout_ms: int | None = None
    budget_percent: int = 20
    """Retries never exceed this share of the RPCs in flight; three are always allowed (Envoy's retry budget)."""
