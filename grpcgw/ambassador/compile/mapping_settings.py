"""The settings a Mapping has of its own or from the Module, as values; None where nobody set them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from operator import attrgetter

from grpcgw.ambassador.compile.metadata_edits import check_key, compile_added, compile_removed, note_hidden_key
from grpcgw.ambassador.compile.resilience import (
    compile_breakers,
    compile_health_check,
    compile_outlier_detection,
    compile_retry,
)
from grpcgw.ambassador.spec.mapping_spec import KeepaliveSpec, LoadBalancerSpec, MappingSettings
from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.balancing import HealthCheck, LoadBalancer, OutlierDetection
from grpcgw.model.edits import HeaderAdd
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy

_KEEPALIVE_TIME_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 7200, 75, 9


@dataclass(frozen=True, slots=True)
class Keepalive:
    time_s: int
    timeout_s: int


@dataclass(frozen=True, slots=True)
class Settings:
    """Of durations, 0 means none."""

    resolver: str | None = None
    load_balancer: LoadBalancer | None = None
    stats_name: str | None = None
    dns_type: str | None = None
    respect_dns_ttl: bool | None = None
    enable_ipv4: bool | None = None
    enable_ipv6: bool | None = None
    priority: Priority | None = None
    auto_host_rewrite: bool | None = None
    add_request_headers: tuple[HeaderAdd, ...] | None = None
    remove_request_headers: tuple[str, ...] | None = None
    add_response_headers: tuple[HeaderAdd, ...] | None = None
    remove_response_headers: tuple[str, ...] | None = None
    add_linkerd_headers: bool | None = None
    timeout_ms: int | None = None
    idle_timeout_ms: int | None = None
    max_message_bytes: int | None = None
    connect_timeout_ms: int | None = None
    cluster_idle_timeout_ms: int | None = None
    cluster_max_connection_lifetime_ms: int | None = None
    keepalive: Keepalive | None = None
    retry: RetryPolicy | None = None
    circuit_breakers: tuple[CircuitBreaker, ...] | None = None
    health_check: HealthCheck | None = None
    outlier_detection: OutlierDetection | None = None

    def or_else(self, defaults: Settings) -> Settings:
        """These, and of those that are not set the defaults."""
        if defaults == NO_SETTINGS:
            return self
        pairs = zip(_VALUES(self), _VALUES(defaults), strict=True)
        return Settings(*(default if own is None else own for own, default in pairs))


NO_SETTINGS = Settings()
_VALUES = attrgetter(*(field.name for field in fields(Settings)))
_PLAIN = tuple(
    {field.name for field in fields(Settings)}
    & {
        *("resolver", "stats_name", "dns_type", "respect_dns_ttl", "enable_ipv4", "enable_ipv6", "auto_host_rewrite"),
        *("add_linkerd_headers", "timeout_ms", "idle_timeout_ms", "connect_timeout_ms", "cluster_idle_timeout_ms"),
        *("cluster_max_connection_lifetime_ms", "max_message_bytes"),
    }
)
"""Settings that are what was written."""


def compile_settings(spec: MappingSettings, findings: Findings, *path: str) -> Settings:
    """`path` is where the spec stands; errors are in `findings`."""
    values: dict[str, object] = {name: getattr(spec, name) for name in _PLAIN}
    values.update(_compile_parts(spec, findings, *path))
    return Settings(**values)  # type: ignore[arg-type]  # _PLAIN names fields of equal types


def _compile_parts(spec: MappingSettings, findings: Findings, *path: str) -> Iterator[tuple[str, object]]:
    if spec.load_balancer is not None:
        yield "load_balancer", compile_load_balancer(spec.load_balancer, findings, *path, "load_balancer")
    if spec.priority is not None:
        yield "priority", Priority(spec.priority)
    for name in ("add_request_headers", "add_response_headers"):
        added = getattr(spec, name)
        if added is not None:
            yield name, compile_added(added, findings, *path, name)
    for name in ("remove_request_headers", "remove_response_headers"):
        removed = getattr(spec, name)
        if removed is not None:
            yield name, compile_removed(removed, findings, *path, name)
    if spec.keepalive is not None:
        yield "keepalive", _compile_keepalive(spec.keepalive)
    if spec.retry_policy is not None:
        yield "retry", compile_retry(spec.retry_policy, findings, *path, "retry_policy")
    if spec.circuit_breakers is not None:
        yield "circuit_breakers", compile_breakers(spec.circuit_breakers, findings, *path, "circuit_breakers")
    if spec.health_checks:
        yield "health_check", compile_health_check(spec.health_checks, findings, *path, "health_checks")
    if spec.outlier_detection is not None:
        yield (
            "outlier_detection",
            compile_outlier_detection(spec.outlier_detection, findings, *path, "outlier_detection"),
        )


def compile_load_balancer(spec: LoadBalancerSpec, findings: Findings, *path: str) -> LoadBalancer:
    if spec.cookie is not None:
        findings.notice("has no effect: gRPC clients keep no cookies; hash a header or source_ip", *path, "cookie")
    if spec.header:
        note_hidden_key(spec.header, findings, *path, "header")
    return LoadBalancer(
        policy=spec.policy,
        header=check_key(spec.header, findings, *path, "header") if spec.header else "",
        source_ip=bool(spec.source_ip),
        slow_start_ms=spec.slow_start_ms or 0,
        prefer_same_zone=bool(spec.prefer_same_zone),
    )


def _compile_keepalive(spec: KeepaliveSpec) -> Keepalive:
    """TCP's probes as one HTTP/2 PING: the connection is given up when it stays unanswered as long as all of them."""
    return Keepalive(
        time_s=spec.time or spec.idle_time or _KEEPALIVE_TIME_S,
        timeout_s=(spec.interval or _KEEPALIVE_INTERVAL_S) * (spec.probes or _KEEPALIVE_PROBES),
    )


_MODULE_KEYS = (
    *("resolver", "load_balancer", "add_linkerd_headers", "circuit_breakers", "cluster_idle_timeout_ms"),
    *("cluster_max_connection_lifetime_ms", "enable_ipv4", "enable_ipv6", "keepalive", "retry_policy"),
)
"""Keys of the Module that are defaults under the Mapping's own names."""


def compile_defaults(config: ModuleConfig, findings: Findings) -> Settings:
    """What Mappings have from the Module: its `defaults.httpmapping`, then its own keys."""
    given = {name: getattr(config, name) for name in _MODULE_KEYS}
    keys = MappingSettings.model_construct(**given, timeout_ms=config.cluster_request_timeout_ms)
    settings = compile_settings(keys, findings, "config")
    if config.defaults is None or config.defaults.httpmapping is None:
        return settings
    own = compile_settings(config.defaults.httpmapping, findings, "config", "defaults", "httpmapping")
    return own.or_else(settings)
