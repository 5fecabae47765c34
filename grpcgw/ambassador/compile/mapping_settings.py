"""A Mapping with the Module's defaults, validated as one object, and its structured settings as values of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import TypeVar

from grpcgw.ambassador.compile.labels import ReportLabel, compile_default_labels, compile_labels
from grpcgw.ambassador.compile.metadata_edits import check_key, compile_added, compile_removed, note_hidden_key
from grpcgw.ambassador.compile.resilience import (
    compile_breakers,
    compile_health_check,
    compile_outlier_detection,
    compile_retry,
)
from grpcgw.ambassador.spec.mapping_parts import LoadBalancerSpec
from grpcgw.ambassador.spec.mapping_spec import MappingSettings, MappingSpec, SharedSettings
from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.ambassador.spec.parse import Findings, parse_spec, raw_spec
from grpcgw.model.balancing import HealthCheck, LoadBalancer, OutlierDetection
from grpcgw.model.edits import NO_EDITS, HeaderAdd, HeaderEdits
from grpcgw.model.objects import KubeObject
from grpcgw.model.resilience import CircuitBreaker, RetryPolicy

V = TypeVar("V")
T = TypeVar("T")

_ALIASES = {"stats_name": "v3StatsName", "health_checks": "v3health_checks"}
"""Names that conversions between Ambassador's versions leave behind, by the fields they mean."""

_NO_HOST = "_skip_mapping_with_empty_host_"
"""`host` of a v3alpha1 Mapping without hostname that is stored, or asked for, as v2."""


@dataclass(frozen=True, slots=True)
class MergedMapping:
    spec: MappingSpec
    """The Mapping's own fields, and the Module's defaults for those it does not set."""
    inherited: Set[str] = frozenset()
    """The fields that the Module's defaults set."""

    def owns(self, field: str) -> bool:
        """Whether the Mapping itself sets the field."""
        return field not in self.inherited and getattr(self.spec, field) is not None


def merge_mapping(obj: KubeObject, defaults: Mapping[str, object], findings: Findings) -> MergedMapping | None:
    """The Mapping with defaults; None: at least one error is in `findings`. Errors are those of its own fields."""
    if defaults:
        raw = raw_spec(obj)
        given = {name for name, value in raw.items() if value is not None} if isinstance(raw, Mapping) else set()
        defaults = {
            name: value for name, value in defaults.items() if name not in given and _ALIASES.get(name) not in given
        }
    spec = parse_spec(obj, MappingSpec, findings, defaults)
    return None if spec is None else MergedMapping(_resolve_aliases(spec), defaults.keys())


def _resolve_aliases(spec: MappingSpec) -> MappingSpec:
    if not spec.v3StatsName and not spec.v3health_checks and spec.host != _NO_HOST:
        return spec
    return spec.model_copy(
        update={
            "host": None if spec.host == _NO_HOST else spec.host,
            "stats_name": spec.stats_name or spec.v3StatsName,
            "health_checks": spec.health_checks or spec.v3health_checks,
        }
    )


def merge_defaults(config: ModuleConfig) -> dict[str, object]:
    """Defaults of a Mapping's fields: the Module's `defaults.httpmapping`, then its own keys."""
    keys = {name: getattr(config, name) for name in SharedSettings.model_fields}
    keys["timeout_ms"] = config.cluster_request_timeout_ms
    own = config.defaults.httpmapping if config.defaults is not None else None
    written = {name: getattr(own, name) for name in MappingSettings.model_fields} if own is not None else {}
    every = [*keys.items(), *written.items()]
    return {name: value for name, value in every if value is not None}


def check_defaults(config: ModuleConfig, findings: Findings) -> None:
    """ReportLabel the problems of defaults here, at the Module, and not at each Mapping."""
    keys = {name: getattr(config, name) for name in SharedSettings.model_fields}
    compile_settings(MappingSettings.model_construct(**keys), findings, "config")
    if config.defaults is not None and config.defaults.httpmapping is not None:
        compile_settings(config.defaults.httpmapping, findings, "config", "defaults", "httpmapping")
        _check_labels(config.defaults.httpmapping.labels, compile_labels, findings, "defaults", "httpmapping", "labels")
    _check_labels(config.default_labels, compile_default_labels, findings, "default_labels")


def _check_labels(
    given: Mapping[str, object] | None,
    compile_them: Callable[[Mapping[str, object], ReportLabel], object],
    findings: Findings,
    *path: str,
) -> None:
    if given:
        compile_them(given, lambda message, *inner: findings.error(message, "config", *path, *inner))


@dataclass(frozen=True, slots=True)
class StructuredSettings:
    """Settings that are objects or lists. None, or empty: not set."""

    load_balancer: LoadBalancer | None
    request_headers: HeaderEdits
    response_headers: HeaderEdits
    retry: RetryPolicy | None
    circuit_breakers: tuple[CircuitBreaker, ...] | None
    health_check: HealthCheck | None
    outlier_detection: OutlierDetection | None


def compile_settings(
    spec: MappingSettings, findings: Findings, *path: str, inherited: Set[str] = frozenset()
) -> StructuredSettings:
    """`path` is where the spec stands. Problems of `inherited` fields are not reported: the Module's are (above)."""
    unreported = findings.copy() if inherited else findings

    def part(field: str, value: V | None, compile_part: Callable[..., T]) -> T | None:
        if value is None:
            return None
        return compile_part(value, unreported if field in inherited else findings, *path, field)

    return StructuredSettings(
        load_balancer=part("load_balancer", spec.load_balancer, compile_load_balancer),
        request_headers=_make_edits(
            part("add_request_headers", spec.add_request_headers, compile_added),
            part("remove_request_headers", spec.remove_request_headers, compile_removed),
        ),
        response_headers=_make_edits(
            part("add_response_headers", spec.add_response_headers, compile_added),
            part("remove_response_headers", spec.remove_response_headers, compile_removed),
        ),
        retry=part("retry_policy", spec.retry_policy, compile_retry),
        circuit_breakers=part("circuit_breakers", spec.circuit_breakers, compile_breakers),
        health_check=part("health_checks", spec.health_checks, compile_health_check),
        outlier_detection=part("outlier_detection", spec.outlier_detection, compile_outlier_detection),
    )


def _make_edits(add: tuple[HeaderAdd, ...] | None, remove: tuple[str, ...] | None) -> HeaderEdits:
    return HeaderEdits(add or (), remove or ()) if add or remove else NO_EDITS


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
