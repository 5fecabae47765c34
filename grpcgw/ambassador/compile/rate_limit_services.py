"""Compiles the RateLimitService of the gateway: each Mapping with labels of its domain gets a policy that calls it.

There is one, as in Ambassador: the first in the order of their keys. One that cannot be compiled, and never was, limits
nothing, unless `failure_mode_deny` says that calls are refused then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.edge_stack import leave_out_own
from grpcgw.ambassador.compile.guards import Guard, GuardContext, GuardedMapping
from grpcgw.ambassador.compile.labels import compile_default_labels, find_groups, ignore
from grpcgw.ambassador.compile.policy_upstreams import compile_policy_upstream
from grpcgw.ambassador.compile.unenforced_guards import UnenforcedGuard, fails_open, read_limit_scope
from grpcgw.ambassador.spec.asked_service import limit_ms
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.rate_limit_service_spec import RateLimitServiceSpec
from grpcgw.model.cluster import Cluster
from grpcgw.model.codes import Code
from grpcgw.model.labels import LabelGroup
from grpcgw.model.objects import KubeObject
from grpcgw.model.rate_limit_service import RateLimitServiceSettings
from grpcgw.model.route import PolicySettings

_LEFT_OUT_OPEN = "left out: it limits no calls"
_LEFT_OUT = "the calls of the Mappings with labels of its domain are refused (failure_mode_deny)"


@dataclass(frozen=True, slots=True)
class RateLimitServiceGuard:
    settings: RateLimitServiceSettings
    """Without label groups, which each Mapping has its own of."""
    default_labels: Mapping[str, LabelGroup]
    clusters: tuple[Cluster, ...]

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        given = mapping.spec.labels or {}
        groups = find_groups(given, self.default_labels, self.settings.domain, mapping.cluster)
        return replace(self.settings, groups=groups) if groups else None


def compile_rate_limit_services(objects: Sequence[KubeObject], context: GuardContext) -> tuple[Guard, ...]:
    guards: list[Guard] = []
    called = leave_out_own(objects, "service", "RateLimits", context)
    if not called:
        return ()
    first, others = called[0], called[1:]
    refuses = not (fails_open(first) or context.serve_without)
    compiled = context.generations.serve(
        first, lambda obj, findings: _compile(obj, context, findings), _LEFT_OUT if refuses else _LEFT_OUT_OPEN
    )
    if compiled is not None:
        guards.append(compiled)
    elif refuses:
        scope = read_limit_scope(first, context.module)
        guards.append(UnenforcedGuard(str(first.key), scope, why="cannot be called: it has errors"))
    for obj in others:
        context.generations.leave_out(obj, f"a gateway has one RateLimitService, and {first.key} is it")
    return tuple(guards)


def _compile(obj: KubeObject, context: GuardContext, findings: Findings) -> RateLimitServiceGuard | None:
    spec = parse_spec(obj, RateLimitServiceSpec, findings)
    if spec is None:
        return None
    module = context.module
    if spec.protocol_version is None:
        findings.notice(
            "calls envoy.service.ratelimit.v3; a service of Ambassador 1 or 2 may have only v2: set protocol_version"
        )
    fields = {
        "service": spec.service,
        "tls": spec.tls,
        "resolver": spec.resolver or module.resolver,
        "stats_name": spec.stats_name or spec.v3StatsName,
    }
    upstream = compile_policy_upstream(obj, fields, "service", context.around, findings)
    if upstream is None:
        return None
    settings = RateLimitServiceSettings(
        name=str(obj.key),
        upstreams=(upstream.destination,),
        domain=spec.domain or context.default_domain,
        api_version=spec.protocol_version or "v3",
        timeout_ms=limit_ms(spec.timeout_ms, 20),
        failure_mode_deny=bool(spec.failure_mode_deny),
        code=Code.UNAVAILABLE if spec.grpc is not None and spec.grpc.is_unavailable else Code.RESOURCE_EXHAUSTED,
    )
    defaults = compile_default_labels(module.default_labels or {}, ignore)
    return RateLimitServiceGuard(settings, defaults, (upstream.cluster,))
