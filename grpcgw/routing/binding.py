"""Binds the routes of a snapshot to their clusters, breakers, retry budgets and shadows.

What costs time is done for what is new: for a Route or Cluster that is another object than before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain

from grpcgw.errors import GrpcgwError
from grpcgw.kept import Kept
from grpcgw.model.host_policy import Selectors
from grpcgw.model.resilience import CircuitBreaker, Priority
from grpcgw.model.route import Destination, PolicySettings, Route
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.breakers import Breaker, choose_limits
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.retry import RetryBudget
from grpcgw.policy.services import PolicyServices
from grpcgw.routing.copy_counters import CopyCounters
from grpcgw.routing.routing_snapshot import RoutingSnapshot
from grpcgw.routing.selection import find_selections, select_routes
from grpcgw.routing.table import RouteTable
from grpcgw.routing.targets import RouteTargets, Shadow, Target
from grpcgw.telemetry.report import ShadowReport
from grpcgw.upstream.cluster_set import ClusterSet

UNUSED_BUDGET = RetryBudget(lambda: 0)
"""Of Mappings without a `retry_policy`."""

MOST_GONE_SHADOWS = 1000
"""The counters of so many shadow Mappings that are gone are remembered, in case they come back."""


class CannotServe(GrpcgwError):
    """A defect: a snapshot that the compiler made cannot be served, because of `mapping`, if one is to blame."""

    def __init__(self, route: Route, error: Exception) -> None:
        self.mapping = next((destination.key for destination in route.all_destinations()), None)
        super().__init__(f"{type(error).__name__}: {error}")


class MatchTables:
    """The match tables of a snapshot, made before anything is changed."""

    def __init__(self, snapshot: Snapshot) -> None:
        """Raises CannotServe for a Route that cannot be matched."""
        self.snapshot = snapshot
        selections = {one: select_routes(snapshot.routes, one) for one in find_selections(snapshot)}
        self.by_selection: Mapping[Selectors, RouteTable] = {
            one: _make_table(routes) for one, routes in {**selections, (): snapshot.routes}.items()
        }
        self._selections = tuple(selections.values())

    def routes(self) -> Iterable[Route]:
        """The routes of the snapshot, and those that selections make of them."""
        return chain(self.snapshot.routes, *self._selections)


def _make_table(routes: tuple[Route, ...]) -> RouteTable:
    try:
        return RouteTable(routes)
    except Exception:
        for route in routes:
            try:
                RouteTable((route,))
            except Exception as error:
                raise CannotServe(route, error) from error
        raise


class RouteBinder:
    """Makes routing snapshots over one ClusterSet. Called by one thread at a time."""

    def __init__(
        self,
        clusters: ClusterSet,
        count_in_flight: Callable[[str], int],
        services: PolicyServices,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        """`count_in_flight`: how many RPCs run for a Mapping, by its label."""
        self._clusters, self._count_in_flight = clusters, count_in_flight
        self._services, self._catalogue = services, catalogue
        self._breakers: Kept[tuple[str, Priority], Breaker] = Kept()
        self._budgets: Kept[str, RetryBudget] = Kept()
        self._copy_counters: Kept[str, CopyCounters] = Kept(MOST_GONE_SHADOWS)
        self._limits: list[tuple[Breaker, CircuitBreaker]] = []
        """To be set once all routes are bound: a snapshot that cannot be served changes no breaker in force."""
        self._shared: tuple[PolicySettings, ...] = ()
        """`Snapshot.policies` of what is being bound."""
        self.log_percent: float | None = None
        """Share of RPCs in the access log where a Mapping does not set it; None: there is no log. Set before the first
        snapshot."""

    def bind(self, tables: MatchTables, before: RoutingSnapshot, changed: set[str]) -> tuple[RoutingSnapshot, set[str]]:
        """Bind the routes of `tables`. Routes of `before` keep their targets unless a cluster of theirs is `changed`.

        Returns the new routing snapshot and the clusters of the routes that were bound. Raises CannotServe.
        """
        self._limits.clear()
        self._shared = tables.snapshot.policies
        by_route: dict[int, RouteTargets] = {}
        used: set[str] = set()
        for route in tables.routes():
            bound = before.find_bound(route) if before.snapshot.policies == self._shared else None
            if bound is None or (changed and not changed.isdisjoint(_clusters_of(route))):
                try:
                    bound = self._bind(route)
                except Exception as error:
                    raise CannotServe(route, error) from error
                used.update(_clusters_of(route))
            by_route[id(route)] = bound
        for breaker, limits in self._limits:
            breaker.change_limits(limits)
        self._limits.clear()
        return RoutingSnapshot(tables.snapshot, tables.by_selection, by_route), used

    def _bind(self, route: Route) -> RouteTargets:
        targets = [self._make_targets(route, destination) for destination in route.destinations]
        if route.shadow is not None:
            shadow = self._make_shadow(route, route.shadow)
            for target in chain.from_iterable(targets):
                target.shadow = shadow
        return RouteTargets(route, targets)

    def _make_targets(self, route: Route, destination: Destination) -> list[Target]:
        """One for each cluster."""
        targets = [self._make_target(route, destination, one.cluster) for one in destination.clusters]
        if not destination.policies and not self._shared:  # as most
            return targets
        policies = self._catalogue.build(destination, self._services, self._shared)
        upstreams = tuple(self._make_upstreams(route, one) for one in destination.policies)
        for target in targets:
            target.decide_by(policies, upstreams)
        return targets

    def _make_target(self, route: Route, destination: Destination, cluster_name: str) -> Target:
        cluster, balancing = self._clusters.balancing(cluster_name, destination.balancing)
        return Target(
            route,
            destination,
            cluster,
            balancing,
            self._find_breaker(destination),
            UNUSED_BUDGET if destination.retry is None else self._find_budget(destination.label),
            self._log_percent(destination),
        )

    def _make_upstreams(self, route: Route, policy: PolicySettings) -> tuple[Target, ...]:
        return tuple(self._make_target(route, one, one.clusters[0].cluster) for one in policy.upstreams)

    def _log_percent(self, destination: Destination) -> float:
        if self.log_percent is None:
            return 0.0
        own = destination.access_log_percent
        return self.log_percent if own is None else own

    def _find_breaker(self, destination: Destination) -> Breaker | None:
        limits = choose_limits(destination)
        if limits is None:
            return None
        breaker = self._breakers.get_or_make((destination.label, destination.priority), lambda: Breaker(limits))
        self._limits.append((breaker, limits))
        return breaker

    def _find_budget(self, label: str) -> RetryBudget:
        return self._budgets.get_or_make(label, lambda: RetryBudget(partial(self._count_in_flight, label)))

    def _make_shadow(self, route: Route, destination: Destination) -> Shadow:
        label = destination.label
        counters = self._copy_counters.get_or_make(label, lambda: CopyCounters(label))
        self._copy_counters.remember(label)
        targets = [self._make_target(route, destination, one.cluster) for one in destination.clusters]
        return Shadow(destination, targets, counters)

    def shadow_reports(self) -> tuple[ShadowReport, ...]:
        """Of every shadow Mapping in use or remembered."""
        return tuple(counters.report() for counters in self._copy_counters.values())


def _clusters_of(route: Route) -> list[str]:
    used = (*route.all_destinations(), *route.policy_upstreams())
    return [one.cluster for destination in used for one in destination.clusters]
