"""The policies of a Mapping as page and JSON show them: order, settings in short, verdicts, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.admin.cluster_views import ClusterView
from grpcgw.model.filters import FilterPolicySettings
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.rate_limits import RateLimitSettings
from grpcgw.model.route import Destination, PolicySettings
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.policy.describe_policy import PolicyView, describe_policy
from grpcgw.telemetry.merge import merge_policies
from grpcgw.telemetry.report import PolicyReport, WorkerReport


@dataclass(frozen=True, slots=True)
class RoutePolicyView:
    """One policy of a Mapping, over all workers."""

    policy: PolicyView
    allowed: int
    denied: int
    errors: Mapping[str, int]
    trouble: str
    """What is wrong with what it needs; empty: nothing is known."""


class PolicyStates:
    """What the workers report of policies, to look up by Mapping."""

    def __init__(
        self,
        workers: Iterable[WorkerReport],
        clusters: Mapping[str, ClusterView],
        shared: tuple[PolicySettings, ...],
    ) -> None:
        reporting = tuple(workers)
        reports = merge_policies(one for worker in reporting for one in worker.policies)
        self._by_key = {(one.mapping, one.policy): one for one in reports}
        self._redis_away = any(worker.redis_away for worker in reporting)
        self._clusters, self._shared = clusters, shared

    def view(self, destination: Destination) -> tuple[RoutePolicyView, ...]:
        """The policies that decide on its RPCs, in the order they run."""
        if not destination.policies and not self._shared:  # as most
            return ()
        return tuple(self._view(destination.label, one) for one in CATALOGUE.order(destination, self._shared))

    def _view(self, label: str, settings: PolicySettings) -> RoutePolicyView:
        counted = self._by_key.get((label, settings.name)) or PolicyReport(label, settings.name, 0, 0, {}, (), 0.0)
        return RoutePolicyView(
            describe_policy(settings), counted.allowed, counted.denied, counted.errors, self._find_trouble(settings)
        )

    def _find_trouble(self, settings: PolicySettings) -> str:
        if isinstance(settings, RateLimitSettings) and self._redis_away:
            return "Redis is away: the limits hold on this machine alone"
        parts = settings.filters if isinstance(settings, FilterPolicySettings) else (settings,)
        keyless = [
            f"{one.name} has no keys: {one.no_keys}" for one in parts if isinstance(one, JwtSettings) and one.no_keys
        ]
        if keyless:
            return "; ".join(keyless)
        used = (self._clusters.get(part.cluster) for one in settings.upstreams for part in one.clusters)
        dead = [str(one.cluster.service) for one in used if one is not None and one.is_dead]
        return f"no pod of {', '.join(dict.fromkeys(dead))} is ready" if dead else ""
