"""Describes a policy for the operator: what it does, in short, and what happens where its server is away. Pure.

No value here is a secret, nor what a secret could be made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import cast

from grpcgw.model.api_keys import ApiKeySettings
from grpcgw.model.authorization import AuthorizationSettings
from grpcgw.model.ext_authz import ExtAuthzSettings
from grpcgw.model.filters import FilterPolicySettings
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.plugins import PluginSettings
from grpcgw.model.rate_limit_service import RateLimitServiceSettings
from grpcgw.model.rate_limits import ConcurrencyLimitSettings, LabelLimit, RateLimitSettings
from grpcgw.model.route import Destination, PolicySettings, Unenforced
from grpcgw.policy.catalogue import CATALOGUE

OPEN, CLOSED = "open", "closed"


@dataclass(frozen=True, slots=True)
class PolicyView:
    name: str
    """`AuthService auth.default`."""
    kind: str
    what: str
    """What it does, in short."""
    fail_mode: str
    """`open` or `closed`: what happens to an RPC where its server gives no verdict; empty: it has no server."""


def describe_policies(destination: Destination, shared: tuple[PolicySettings, ...] = ()) -> list[PolicyView]:
    """The policies of a Mapping, in the order in which they run. `shared`: those of all (`Snapshot.policies`)."""
    return [describe_policy(one) for one in CATALOGUE.order(destination, shared)]


def describe_policy(settings: PolicySettings) -> PolicyView:
    describe = _DESCRIBED.get(settings.kind)
    what = "" if describe is None else describe(settings)
    return PolicyView(settings.name, settings.kind, what, find_fail_mode(settings))


def find_fail_mode(settings: PolicySettings) -> str:
    match settings:
        case ExtAuthzSettings():
            return OPEN if settings.failure_mode_allow else CLOSED
        case RateLimitServiceSettings():
            return CLOSED if settings.failure_mode_deny else OPEN
        case FilterPolicySettings():
            modes = {find_fail_mode(one) for one in settings.filters}
            return CLOSED if CLOSED in modes else OPEN if OPEN in modes else ""
        case PluginSettings():
            return CLOSED
        case _:
            return ""


def name_services(settings: PolicySettings) -> str:
    return ", ".join(dict.fromkeys(one.cluster for each in settings.upstreams for one in each.clusters))


def _external(settings: PolicySettings) -> str:
    asked = cast(ExtAuthzSettings, settings)
    message = f", with {asked.message.max_bytes} bytes of the first message" if asked.message else ""
    cached = f", answers kept {asked.caching.max_age_ms} ms" if asked.caching else ""
    return f"{asked.protocol} {name_services(asked)} within {asked.timeout_ms} ms{message}{cached}"


def _jwt(settings: PolicySettings) -> str:
    jwt = cast(JwtSettings, settings)
    keys = f"no keys: {jwt.no_keys}" if jwt.no_keys else f"{len(jwt.keys)} keys"
    issuers = f", issuer {' or '.join(jwt.issuers)}" if jwt.issuers else ""
    return f"{', '.join(jwt.algorithms)}; {keys}{issuers}"


def _filter_policy(settings: PolicySettings) -> str:
    policy = cast(FilterPolicySettings, settings)
    rules = [
        f"{rule.host} {rule.path}: {', '.join(policy.filters[one.filter].name for one in rule.filters) or 'no filter'}"
        for rule in policy.rules
    ]
    return _few(rules)


def _rate_limit(settings: PolicySettings) -> str:
    return _few([describe_limit(one) for one in cast(RateLimitSettings, settings).limits])


def describe_limit(limit: LabelLimit) -> str:
    burst = f", burst {limit.rate.burst}" if limit.rate.burst is not None else ""
    return f"{limit.name}: {limit.rate}{burst}" + (" (only logged)" if limit.log_only else "")


def _authorization(settings: PolicySettings) -> str:
    rbac = cast(AuthorizationSettings, settings)
    only_recorded = f", {len(rbac.shadow_rules)} only recorded" if rbac.shadow_rules else ""
    return f"{len(rbac.rules)} sets of rules{only_recorded}"


def _plugin(settings: PolicySettings) -> str:
    plugin = cast(PluginSettings, settings)
    return plugin.plugin + ("" if plugin.timeout_ms is None else f", within {plugin.timeout_ms} ms")


def _rate_limit_service(settings: PolicySettings) -> str:
    limits = cast(RateLimitServiceSettings, settings)
    return f"{name_services(limits)}, domain {limits.domain}, within {limits.timeout_ms} ms"


def _few(texts: Iterable[str], most: int = 3) -> str:
    every = list(texts)
    more = f"; {len(every) - most} more" if len(every) > most else ""
    return "; ".join(every[:most]) + more


_DESCRIBED: dict[str, Callable[[PolicySettings], str]] = {
    Unenforced.kind: lambda _: "cannot be enforced: all calls are refused",
    ApiKeySettings.kind: lambda one: f"a key in {cast(ApiKeySettings, one).header}",
    ExtAuthzSettings.kind: _external,
    JwtSettings.kind: _jwt,
    FilterPolicySettings.kind: _filter_policy,
    AuthorizationSettings.kind: _authorization,
    RateLimitSettings.kind: _rate_limit,
    ConcurrencyLimitSettings.kind: lambda one: f"{cast(ConcurrencyLimitSettings, one).most} calls at a time",
    RateLimitServiceSettings.kind: _rate_limit_service,
    PluginSettings.kind: _plugin,
}
