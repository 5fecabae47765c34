"""The state of the gateway joined per route: configuration, pods and traffic. The page and the JSON both render it.

Views hold the values of the state itself and compute what they show from them. No HTML, no JSON, no clock.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from grpcgw.admin.cluster_views import NO_POD, ClusterView, view_clusters
from grpcgw.admin.describe import (
    describe_balancing,
    describe_changes,
    describe_conditions,
    describe_host,
    describe_policies,
)
from grpcgw.admin.policy_views import PolicyStates, RoutePolicyView
from grpcgw.admin.recent import Recent, Totals
from grpcgw.admin.state import GatewayState
from grpcgw.admin.traffic_views import MethodView, add_up_methods, merge_methods
from grpcgw.model.objects import Problem, Severity
from grpcgw.model.reach import UNREACHED, Reach
from grpcgw.model.route import Destination, Route
from grpcgw.telemetry.counters import OTHER
from grpcgw.telemetry.merge import merge_shadows
from grpcgw.telemetry.report import ShadowReport

NO_CALLS = Recent(0, 0)
FEWEST_CALLS = 5
"""Fewer RPCs in the last minute prove nothing."""

NO_MAPPING = ("", OTHER)
"""Mapping and service in reports of RPCs that matched no Mapping."""


@dataclass(frozen=True, slots=True)
class DestinationView:
    """One cluster of a destination. Traffic is that of the whole destination."""

    destination: Destination
    cluster: ClusterView
    weight_percent: float
    traffic: MethodView
    methods: tuple[MethodView, ...]
    recent: Recent = NO_CALLS
    refused: str = ""
    """Why the gateway refuses all its RPCs; empty: it does not."""
    decided_by: tuple[RoutePolicyView, ...] = ()
    """The policies that decide on its RPCs, in the order they run."""

    @property
    def trouble(self) -> str:
        """Why its share of the route's RPCs fails; empty: no failure is known."""
        if not self.weight_percent or self.refused in UNREACHED:
            return ""
        if self.refused:
            return self.refused
        if self.cluster.is_dead:
            return NO_POD
        failed, finished = self.recent.failed, self.recent.finished
        if finished < FEWEST_CALLS or 2 * failed <= finished:
            return ""
        return f"{failed:,} of {finished:,} calls failed in the last minute"

    @property
    def balancing(self) -> str:
        return describe_balancing(self.destination.balancing.load_balancer)

    @property
    def changes(self) -> tuple[str, ...]:
        """Each change that the Mapping makes to an RPC, in a few words."""
        return tuple(describe_changes(self.destination))

    @property
    def policies(self) -> tuple[str, ...]:
        """Each policy of the Mapping against failing and overloaded pods, in a few words."""
        return tuple(describe_policies(self.destination))


@dataclass(frozen=True, slots=True)
class ShadowView:
    """One cluster of a shadow Mapping. Copies are those of the whole Mapping, over all workers."""

    destination: Destination
    cluster: ClusterView
    weight_percent: float
    copies: ShadowReport

    @property
    def finished(self) -> int:
        return sum(self.copies.codes.values())

    @property
    def not_ok(self) -> int:
        return self.finished - self.copies.codes.get(0, 0)

    @property
    def balancing(self) -> str:
        return describe_balancing(self.destination.balancing.load_balancer)


@dataclass(frozen=True, slots=True)
class RouteView:
    key: str
    """Short digest of the route's name."""
    route: Route
    destinations: tuple[DestinationView, ...]
    shadows: tuple[ShadowView, ...] = ()
    """One for each cluster of the shadow Mapping."""

    @property
    def host(self) -> str:
        """As a Mapping would write it."""
        return "*" if self.route.host is None else describe_host(self.route.host)

    @property
    def in_trouble(self) -> bool:
        return any(destination.trouble for destination in self.destinations)

    @property
    def conditions(self) -> tuple[str, ...]:
        return describe_conditions(self.route)


@dataclass(frozen=True, slots=True)
class GatewayView:
    state: GatewayState
    errors: tuple[Problem, ...]
    notices: tuple[Problem, ...]
    routes: tuple[RouteView, ...]
    clusters: tuple[ClusterView, ...]
    traffic: MethodView
    unmatched: MethodView

    @property
    def handshake_failures(self) -> Mapping[str, int]:
        """By cause, over all workers."""
        failures: Counter[str] = Counter()
        for worker in self.state.workers:
            failures.update(worker.handshake_failures)
        return failures

    @property
    def in_trouble(self) -> int:
        """Routes that cannot serve, or fail most of their calls."""
        return sum(route.in_trouble for route in self.routes)


def view_gateway(state: GatewayState) -> GatewayView:
    clusters = {view.cluster.name: view for view in view_clusters(state)}
    methods = merge_methods(state.workers)
    by_mapping: dict[str, list[MethodView]] = defaultdict(list)
    for (mapping, _, _), method in methods.items():
        by_mapping[mapping].append(method)
    shadows = merge_shadows(shadow for worker in state.workers for shadow in worker.shadows)
    copies = {shadow.mapping: shadow for shadow in shadows}
    reach = Reach(state.snapshot)
    policies = PolicyStates(state.workers, clusters, state.snapshot.policies)
    return GatewayView(
        state=state,
        errors=tuple(problem for problem in state.problems if problem.severity is Severity.ERROR),
        notices=tuple(problem for problem in state.problems if problem.severity is Severity.NOTICE),
        routes=tuple(
            _view_route(route, clusters, by_mapping, copies, state.recent, reach, policies)
            for route in state.snapshot.routes
            if route.destinations
        ),
        clusters=tuple(clusters.values()),
        traffic=add_up_methods(methods.values()),
        unmatched=add_up_methods(
            method for (mapping, service, _), method in methods.items() if (mapping, service) == NO_MAPPING
        ),
    )


def not_ready_reason(state: GatewayState) -> str:
    """Why the gateway is not ready, in words; empty: it is ready."""
    if state.ready:
        return ""
    if state.draining:
        return "draining: running RPCs finish, new ones go to other replicas"
    waiting = [source.name for source in state.sources if not source.synced]
    if waiting:
        return "waiting for a first complete read of " + ", ".join(waiting)
    if state.configured_at_s and not state.listeners:
        return "no data port is open; if that lasts, the problems on the diagnostics page say why"
    return "no complete configuration is served yet"


def _view_route(
    route: Route,
    clusters: Mapping[str, ClusterView],
    by_mapping: Mapping[str, list[MethodView]],
    copies: Mapping[str, ShadowReport],
    recent: Totals,
    reach: Reach,
    policies: PolicyStates,
) -> RouteView:
    return RouteView(
        key=hashlib.sha256(route.name.encode()).hexdigest()[:12],
        route=route,
        destinations=tuple(
            _view_destination(
                destination,
                clusters[one.cluster],
                route.percent_of(destination, one),
                by_mapping.get(destination.label, []),
                recent.get(destination.label, NO_CALLS),
                reach.find_refusal(route, destination),
                policies.view(destination),
            )
            for destination in route.destinations
            for one in destination.clusters
        ),
        shadows=() if route.shadow is None else _view_shadow(route, route.shadow, clusters, copies),
    )


def _view_shadow(
    route: Route, shadow: Destination, clusters: Mapping[str, ClusterView], copies: Mapping[str, ShadowReport]
) -> tuple[ShadowView, ...]:
    counted = copies.get(shadow.label) or ShadowReport(shadow.label, {}, {}, 0)
    return tuple(
        ShadowView(shadow, clusters[one.cluster], route.percent_of(shadow, one), counted) for one in shadow.clusters
    )


def _view_destination(
    destination: Destination,
    cluster: ClusterView,
    weight_percent: float,
    methods: list[MethodView],
    recent: Recent,
    refused: str,
    decided_by: tuple[RoutePolicyView, ...],
) -> DestinationView:
    ordered = sorted(methods, key=lambda method: (method.service, method.method))
    return DestinationView(
        destination, cluster, weight_percent, add_up_methods(ordered), tuple(ordered), recent, refused, decided_by
    )
