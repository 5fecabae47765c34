"""Typed models of the objects inside a Mapping's fields: load_balancer, retry_policy, health_checks, …"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from grpcgw.ambassador.spec.durations import parse_duration_ms
from grpcgw.ambassador.spec.fields import (
    Anything,
    Count,
    Duration,
    Milliseconds,
    Percent,
    PositiveCount,
    PositiveMilliseconds,
    Resource,
    Table,
    Text,
    as_choices,
    rules,
)

_AUTHORITY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(:[0-9]{1,5})?", re.ASCII)
"""Host and port of RFC 3986, without user information, which RFC 9113 forbids."""


def _check_authority(text: str) -> str:
    if text and not _AUTHORITY.fullmatch(text):
        raise ValueError(f"{text!r} is no :authority: write a host name or an address, and perhaps a port")
    return text


def _check_some_time(text: str) -> str:
    if not parse_duration_ms(text):
        raise ValueError(f"{text!r} is no time at all; leave it out for the default")
    return text


def _as_added(value: object) -> object:
    return {"value": value} if isinstance(value, str) else value


class Cookie(Resource):
    name: Text
    path: str | None = None
    ttl: str | None = None


class LoadBalancerSpec(Resource):
    model_config = rules(
        (
            "!(self.policy in ['ring_hash', 'maglev']) || has(self.header) || has(self.source_ip) || has(self.cookie)",
            "the policies ring_hash and maglev need one of header, source_ip, cookie",
        )
    )

    policy: Literal["round_robin", "least_request", "ring_hash", "maglev", "weighted_round_robin"]
    header: str | None = None
    source_ip: bool | None = None
    cookie: Cookie | None = None
    slow_start_ms: Milliseconds | None = None
    prefer_same_zone: bool | None = None

    @model_validator(mode="after")
    def _check_hash_source(self) -> LoadBalancerSpec:
        sources = [name for name in ("header", "source_ip", "cookie") if getattr(self, name)]
        if self.policy not in ("ring_hash", "maglev"):
            if sources:
                raise ValueError(f"policy {self.policy} takes no {sources[0]}")
        elif len(sources) != 1:
            raise ValueError(f"policy {self.policy} needs exactly one of header, source_ip, cookie")
        elif self.slow_start_ms:
            raise ValueError(f"policy {self.policy} takes no slow_start_ms: a pod's share is the keys it is given")
        return self


class RegexRewriteSpec(Resource):
    pattern: Text
    substitution: str


class AddedHeader(Resource):
    value: str
    append: bool | None = None
    v2Representation: Anything = None  # noqa: N815 (left by a conversion between versions)


class KeepaliveSpec(Resource):
    """Seconds. `time` is the name in Ambassador's code and pages, `idle_time` that in its CRDs."""

    time: PositiveCount | None = None
    idle_time: PositiveCount | None = None
    interval: PositiveCount | None = None
    probes: PositiveCount | None = None

    @model_validator(mode="after")
    def _check_time(self) -> KeepaliveSpec:
        if None not in (self.time, self.idle_time) and self.time != self.idle_time:
            raise ValueError(f"time {self.time} and idle_time {self.idle_time} are one field; leave one out")
        return self


RetryCondition = Literal[
    "5xx",
    "gateway-error",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
]


class RetryPolicySpec(Resource):
    retry_on: Annotated[
        list[RetryCondition],
        BeforeValidator(as_choices, json_schema_input_type=str | list[RetryCondition]),
        Field(min_length=1),
    ]
    num_retries: Count | None = None
    per_try_timeout: Duration | None = None
    budget_percent: Percent | None = None


class CircuitBreakerSpec(Resource):
    priority: Literal["default", "high"] = "default"
    max_connections: Count | None = None
    max_pending_requests: Count | None = None
    max_requests: Count | None = None
    max_retries: Count | None = None


Authority = Annotated[str, AfterValidator(_check_authority)]


class GrpcHealthSpec(Resource):
    upstream_name: str
    authority: Authority | None = None


class HealthProbeSpec(Resource):
    grpc: GrpcHealthSpec | None = None
    http: Table | None = None

    @model_validator(mode="after")
    def _check_form(self) -> HealthProbeSpec:
        if (self.grpc is None) == (self.http is None):
            raise ValueError("needs exactly one of grpc and http")
        return self


class HealthCheckSpec(Resource):
    health_check: HealthProbeSpec
    timeout: Annotated[Duration, AfterValidator(_check_some_time)] | None = None
    interval: Annotated[Duration, AfterValidator(_check_some_time)] | None = None
    unhealthy_threshold: PositiveCount | None = None
    healthy_threshold: PositiveCount | None = None


class OutlierDetectionSpec(Resource):
    consecutive_failures: Count | None = None
    interval_ms: PositiveMilliseconds | None = None
    base_ejection_ms: PositiveMilliseconds | None = None
    max_ejection_ms: PositiveMilliseconds | None = None
    max_ejection_percent: Percent | None = None
    success_rate_stdev_factor: PositiveCount | None = None
    success_rate_minimum_pods: PositiveCount | None = None
    success_rate_request_volume: PositiveCount | None = None


AddedHeaders = dict[str, Annotated[AddedHeader, BeforeValidator(_as_added, json_schema_input_type=str | AddedHeader)]]
