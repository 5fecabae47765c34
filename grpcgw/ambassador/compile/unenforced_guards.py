"""Finds the Mappings that an object protects which grpcgw cannot enforce: their RPCs are refused.

If it is unclear whether a Mapping is protected, it counts as protected. Sources: Ambassador's
AuthService and RateLimitService, Edge Stack's Filter, FilterPolicy and RateLimit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from grpcgw.ambassador.compile.guards import GuardContext, GuardedMapping
from grpcgw.ambassador.compile.matching import Matching
from grpcgw.ambassador.compile.rule_reach import RuleReach, complete_host, complete_path
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.module_spec import ModuleConfig
from grpcgw.ambassador.spec.parse import Findings, raw_spec
from grpcgw.model.cluster import Cluster
from grpcgw.model.glob import ANYTHING, InvalidGlob, compile_glob
from grpcgw.model.objects import KubeObject
from grpcgw.model.route import NOT_SUPPORTED, PolicySettings, Unenforced

GUARDING_KINDS = {
    "AuthService": "calls are not authenticated",
    "AuthorizationPolicy": "calls are not authorized",
    "Filter": "calls are not filtered",
    "FilterPolicy": "calls are not filtered",
    "RateLimit": "calls are not limited",
    "RateLimitService": "calls are not limited",
    "WebApplicationFirewall": "calls are not inspected",
    "WebApplicationFirewallPolicy": "calls are not inspected",
}
"""By kind: the effect that is missing while grpcgw does not support it."""
AUTH_MODULE = "authentication"
"""A Module of this name is the AuthService of Ambassador 0.x; later ones read it, too."""
_PASSING = frozenset({"host", "path", "filters"})
"""The only fields of a FilterPolicy rule that lets calls pass: another field may be another name of `filters`."""

_DEFAULT_DOMAIN = "ambassador"


class Scope(Protocol):
    """Which Mappings an object protects."""

    def protects(self, matching: Matching, spec: MappingSpec) -> bool: ...


@dataclass(frozen=True, slots=True)
class UnenforcedGuard:
    """Refuses the RPCs of all Mappings in its scope."""

    by: str
    """The object, for the operator."""
    scope: Scope
    clusters: tuple[Cluster, ...] = ()
    why: str = NOT_SUPPORTED
    """For the operator and the client."""

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        return Unenforced(name=self.by, why=self.why) if self.scope.protects(mapping.matching, mapping.spec) else None


@dataclass(frozen=True, slots=True)
class AuthScope:
    """An AuthService protects every Mapping without `bypass_auth`."""

    def protects(self, matching: Matching, spec: MappingSpec) -> bool:
        return not spec.bypass_auth


@dataclass(frozen=True, slots=True)
class LimitScope:
    """A RateLimit protects Mappings with labels, their own or the Module's, in its domain."""

    domain: str | None
    """None: it cannot be read."""
    of_all: bool

    def protects(self, matching: Matching, spec: MappingSpec) -> bool:
        labels = spec.labels or {}
        return self.of_all or (bool(labels) if self.domain is None else bool(labels.get(self.domain)))


@dataclass(frozen=True, slots=True)
class FilterScope:
    """A FilterPolicy that cannot be enforced: the first rule that matches a call decides."""

    rules: tuple[tuple[RuleReach, bool], ...] | None
    """Each with whether it has filters; a call of a rule without any passes. None: they cannot be read."""

    def protects(self, matching: Matching, spec: MappingSpec) -> bool:
        for reach, filters in self.rules or ():
            if filters and reach.may_match(matching):
                return True
            if not filters and reach.covers(matching):
                return False
        return self.rules is None


def compile_unenforced(objects: Sequence[KubeObject], context: GuardContext) -> tuple[UnenforcedGuard, ...]:
    """Guards that refuse what the objects protect, and an error at each; or a notice, where it is served without."""
    guards: list[UnenforcedGuard] = []
    for obj in objects:
        scope = _find_scope(obj, context.module)
        findings = Findings(obj)
        kind = obj.key.kind if obj.key.kind in GUARDING_KINDS else "AuthService"
        if context.serve_without:
            findings.notice(f"{kind} is not supported yet: {GUARDING_KINDS[kind]}")
        else:
            guards += [UnenforcedGuard(str(obj.key), scope)] if scope is not None else []
            findings.fault(
                f"{kind} is not supported yet, and the calls of the Mappings that it protects are refused;"
                " leave it out, or serve them without it by --serve-without-auth"
            )
        context.generations.report(findings)
    return tuple(guards)


def _find_scope(obj: KubeObject, module: ModuleConfig) -> Scope | None:
    match obj.key.kind:
        case "AuthService" | "Module":
            return AuthScope()
        case "WebApplicationFirewallPolicy":
            return read_firewall_scope(obj)
        case _:
            return None  # a firewall: it protects what a policy says


def read_limit_scope(obj: KubeObject, module: ModuleConfig) -> LimitScope:
    """Which Mappings a RateLimit or RateLimitService protects that may be wrong."""
    given = _fields(obj).get("domain")
    domain = (module.default_label_domain or _DEFAULT_DOMAIN) if given in (None, "") else given
    read = domain if isinstance(domain, str) and domain else None
    defaults = module.default_labels or {}
    return LimitScope(read, bool(defaults if read is None else defaults.get(read)))


def fails_open(obj: KubeObject) -> bool:
    """A RateLimitService that cannot be called lets calls pass, unless `failure_mode_deny` is set."""
    return _fields(obj).get("failure_mode_deny") in (None, False)


def _fields(obj: KubeObject) -> Mapping[str, object]:
    spec = raw_spec(obj)
    return spec if isinstance(spec, Mapping) else {}


def read_filter_scope(obj: KubeObject) -> FilterScope:
    """Which Mappings a FilterPolicy protects that may be wrong."""
    given = _fields(obj).get("rules")
    rules = [_read_rule(rule) for rule in given] if isinstance(given, list) else [None]
    read = tuple([rule for rule in rules if rule is not None])
    return FilterScope(read if len(read) == len(rules) else None)


def read_firewall_scope(obj: KubeObject) -> FilterScope:
    """Which Mappings a WebApplicationFirewallPolicy protects: those that any of its rules may match."""
    given = _fields(obj).get("rules")
    reaches = [_read_reach(rule) for rule in given] if isinstance(given, list) else [None]
    read = tuple([(reach, True) for reach in reaches if reach is not None])
    return FilterScope(read if len(read) == len(reaches) else None)


def _read_rule(rule: object) -> tuple[RuleReach, bool] | None:
    if not isinstance(rule, Mapping) or "precedence" in rule:  # which changes the order of rules
        return None
    reach = _read_reach(rule)
    return None if reach is None else (reach, bool(rule.get("filters")) or not _PASSING.issuperset(rule))


def _read_reach(rule: object) -> RuleReach | None:
    if not isinstance(rule, Mapping):
        return None
    host, path = rule.get("host", ANYTHING), rule.get("path", ANYTHING)
    if not isinstance(host, str) or not isinstance(path, str):
        return None
    reach = RuleReach(complete_host(host or ANYTHING), complete_path(path))
    try:
        compile_glob(reach.host)
        compile_glob(reach.path)
    except InvalidGlob:
        return None
    return reach
