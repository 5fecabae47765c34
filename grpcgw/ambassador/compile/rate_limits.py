"""Compiles RateLimits: all of a domain together decide on the Mappings with labels in it.

A RateLimit with an error refuses what it would have limited, unless it has a last good version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from grpcgw.ambassador.compile.guards import Guard, GuardContext, GuardedMapping
from grpcgw.ambassador.compile.labels import compile_default_labels, find_groups, ignore
from grpcgw.ambassador.compile.limit_templates import OF_LIMIT, OF_REFUSAL, compile_body, compile_headers
from grpcgw.ambassador.compile.unenforced_guards import UnenforcedGuard, read_limit_scope
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.rate_limit_specs import LimitErrorSpec, LimitSpec, RateLimitSpec
from grpcgw.model.cluster import Cluster
from grpcgw.model.labels import FixedLabel, HeaderLabel, Label, LabelGroup
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.rate_limits import DomainLimits, LabelLimit, PatternItem, Rate, RateLimitSettings, Unit
from grpcgw.model.route import PolicySettings

_REFUSED = "the calls that it limits are refused"
_UNLIMITED = "calls are not limited by it"
_HAS_ERRORS = "cannot be enforced: it has errors"


@dataclass(frozen=True, slots=True)
class RateLimitsGuard:
    """All RateLimits of a domain."""

    by: str
    domain: str
    limits: tuple[LabelLimit, ...]
    defaults: Mapping[str, LabelGroup]
    """Labels of the Module, by domain."""
    clusters: tuple[Cluster, ...] = ()

    @property
    def domain_limits(self) -> DomainLimits:
        return DomainLimits(self.domain, self.limits)

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        groups = find_groups(mapping.spec.labels or {}, self.defaults, self.domain, mapping.cluster)
        limits = [one for one in self.limits if any(_may_match(one.pattern, group) for group in groups)]
        if not limits:
            return None
        return RateLimitSettings(name=self.by, domain=self.domain, groups=groups, limits=tuple(limits))


def compile_rate_limits(objects: Sequence[KubeObject], context: GuardContext) -> tuple[Guard, ...]:
    guards: list[Guard] = []
    by_domain: dict[str, list[tuple[ObjectKey, tuple[LabelLimit, ...]]]] = {}
    first_of: FirstOfPattern = {}
    for obj in objects:
        left_out = _UNLIMITED if context.serve_without else _REFUSED
        compiled = context.generations.serve(obj, _make_build(context.default_domain), left_out)
        if compiled is not None:
            domain, limits = compiled
            by_domain.setdefault(domain, []).append((obj.key, limits))
            context.generations.report(_find_repeated(obj, domain, limits, first_of))
        elif not context.serve_without:
            guards.append(UnenforcedGuard(str(obj.key), read_limit_scope(obj, context.module), why=_HAS_ERRORS))
    defaults = compile_default_labels(context.module.default_labels or {}, ignore)
    for domain, found in by_domain.items():
        names = ", ".join(str(key) for key, _ in found)
        limits = tuple(limit for _, several in found for limit in several)
        guards.append(RateLimitsGuard(names, domain, limits, defaults))
    return tuple(guards)


FirstOfPattern = dict[tuple[str, tuple[PatternItem, ...]], str]
"""The first limit of each domain and pattern."""


def _find_repeated(obj: KubeObject, domain: str, limits: tuple[LabelLimit, ...], first_of: FirstOfPattern) -> Findings:
    """A notice at each limit that never counts, as one before it has its pattern."""
    findings = Findings(obj)
    for index, limit in enumerate(limits):
        key = domain, tuple(tuple(sorted(item)) for item in limit.pattern)
        if key in first_of:
            findings.notice(f"has no effect: {first_of[key]} has the same pattern", "limits", index)
        else:
            first_of[key] = f"{limit.name} of {obj.key}"
    return findings


_Compiled = tuple[str, tuple[LabelLimit, ...]]


def _make_build(default_domain: str) -> Callable[[KubeObject, Findings], _Compiled | None]:
    def build(obj: KubeObject, findings: Findings) -> _Compiled | None:
        spec = parse_spec(obj, RateLimitSpec, findings)
        if spec is None:
            return None
        limits = [_compile_limit(obj.key, index, one, findings) for index, one in enumerate(spec.limits)]
        return spec.domain or default_domain, tuple(limits)

    return build


def _compile_limit(key: ObjectKey, index: int, spec: LimitSpec, findings: Findings) -> LabelLimit:
    path = ("limits", index)
    error = spec.errorResponse or LimitErrorSpec()
    if error.contentType:
        findings.notice("has no effect: gRPC errors have no body", *path, "errorResponse", "contentType")
    burst = None if spec.burstFactor is None else max(1, spec.rate * spec.burstFactor)
    return LabelLimit(
        spec.name or f"{key.name}.{key.namespace}-{index}",
        tuple(_compile_item(item, findings, *path, "pattern", at) for at, item in enumerate(spec.pattern)),
        Rate(spec.rate, Unit(spec.unit), burst),
        spec.action == "logonly",
        compile_headers(spec.injectRequestHeaders, OF_LIMIT, findings, *path, "injectRequestHeaders"),
        compile_headers(spec.injectResponseHeaders, OF_LIMIT, findings, *path, "injectResponseHeaders"),
        compile_headers(error.headers, OF_REFUSAL, findings, *path, "errorResponse", "headers"),
        compile_body(error.bodyTemplate or "", findings, *path, "errorResponse", "bodyTemplate"),
    )


def _compile_item(item: Mapping[str, str], findings: Findings, *path: str | int) -> PatternItem:
    if not item:
        findings.error("should be an object with one label or more", *path)
    return tuple((key, "" if value == "*" else value) for key, value in item.items())


def _may_match(pattern: tuple[PatternItem, ...], group: LabelGroup) -> bool:
    """Whether some RPC's descriptor of the group begins with the pattern."""
    if any(isinstance(label, HeaderLabel) and label.optional for label in group):
        return True
    if len(pattern) > len(group):
        return False
    return all(
        any(key == label.key and _may_be(label, value) for key, value in item)
        for item, label in zip(pattern, group, strict=False)
    )


def _may_be(label: Label, value: str) -> bool:
    return not value or not isinstance(label, FixedLabel) or label.value == value
