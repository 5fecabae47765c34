"""What is shown, before anyone decides how: the state of the gateway joined per route, cluster and pod.

Counters of the workers are added up here, and configuration, pods and traffic meet. No HTML, no JSON, no clock: the
JSON (`diagnostics`) and the page (`page`) both render these values.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.admin.describe import (
    describe_balancing,
    describe_changes,
    describe_conditions,
    describe_host,
    describe_policies,
)
from grpcgw.admin.recent import Recent, Totals
from grpcgw.admin.state import GatewayState
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.objects import Problem, Severity
from grpcgw.model.reach import UNREACHED, Reach
from grpcgw.model.snapshot import Cluster, Destination, Route
from grpcgw.telemetry.counters import OTHER
from grpcgw.telemetry.merge import merge_shadows
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport, PodReport, PodState, ShadowReport, WorkerReport

NO_POD = "no usable pod"
NO_CALLS = Recent(0, 0)
FEWEST_CALLS = 5
"""So many of the last minute say something."""

NO_MAPPING = ("", OTHER)
"""Mapping and service in reports of RPCs that matched no Mapping."""

_WORST_FIRST = (PodState.FAILING, PodState.DRAINING, PodState.CONNECTING, PodState.IDLE, PodState.READY)


class Health(StrEnum):
    """Colour of a destination by its share of successful RPCs; the borders are Ambassador's."""

    RED = "red"
    YELLOW = "yellow"
    GREEN = "green"
    GRAY = "gray"
    """Unknown: no RPC has finished yet."""


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod over all workers."""

    cluster: str
    address: str
    name: str
    states: Mapping[PodState, int]
    """Workers that see the pod in each state; empty while no worker has reported it."""
    in_flight: int = 0
    total: int = 0
    failures: int = 0
    latency_mean_ms: float = 0.0
    last_error: str = ""
    note: str = ""
    """Why it gets no RPCs from workers that see it connected."""
    zone: str = ""

    @property
    def state(self) -> str:
        """The worst state any worker sees, or `unknown`."""
        return next((str(state) for state in _WORST_FIRST if state in self.states), "unknown")

    @property
    def finished(self) -> int:
        return max(self.total - self.in_flight, 0)

    @property
    def is_usable(self) -> bool:
        """Some worker can send RPCs there, or none has said anything yet."""
        return not self.states or not self.states.keys() <= {PodState.FAILING, PodState.DRAINING}


@dataclass(frozen=True, slots=True)
class ClusterView:
    cluster: Cluster
    pods: tuple[PodView, ...]
    resolved: bool
    """The resolver has answered at least once."""
    error: str

    @property
    def success_share(self) -> float | None:
        """Between 0 and 1; None before the first finished RPC."""
        finished = sum(pod.finished for pod in self.pods)
        failures = sum(pod.failures for pod in self.pods)
        return max(0.0, 1 - failures / finished) if finished else None

    @property
    def is_dead(self) -> bool:
        """No RPC can be served; a cluster whose pods are not known yet is not dead."""
        return self.resolved and not any(pod.is_usable for pod in self.pods)

    @property
    def health(self) -> Health:
        return Health.RED if self.is_dead else health_of(self.success_share)

    @property
    def health_in_words(self) -> str:
        """`98% healthy`."""
        if self.is_dead:
            return NO_POD
        return "no requests yet" if self.success_share is None else f"{self.success_share:.0%} healthy"

    def pods_by_state(self) -> dict[str, int]:
        counts = Counter(pod.state for pod in self.pods)
        return {state: counts[state] for state in (*map(str, reversed(_WORST_FIRST)), "unknown") if counts[state]}


@dataclass(frozen=True, slots=True)
class MethodView:
    """RPCs of one method (or of a whole Mapping, then without names) over all workers."""

    service: str
    method: str
    codes: Mapping[int, int]
    latency_counts: tuple[int, ...]
    latency_sum_s: float
    in_flight: int

    @property
    def finished(self) -> int:
        return sum(self.codes.values())

    @property
    def not_ok(self) -> int:
        return self.finished - self.codes.get(0, 0)

    @property
    def latency_mean_ms(self) -> float:
        return 1000 * self.latency_sum_s / self.finished if self.finished else 0.0

    def latency_below_ms(self, share: float) -> float | None:
        """Upper border of the bucket below which `share` of the RPCs ended; None: unknown, or above the last border."""
        wanted = share * sum(self.latency_counts)
        seen = 0
        for count, border_s in zip(self.latency_counts, LATENCY_BUCKETS_S, strict=False):
            seen += count
            if seen and seen >= wanted:
                return 1000 * border_s
        return None


@dataclass(frozen=True, slots=True)
class DestinationView:
    destination: Destination
    cluster: ClusterView
    traffic: MethodView
    methods: tuple[MethodView, ...]
    recent: Recent = NO_CALLS
    refused: str = ""
    """Why the gateway refuses all its calls; empty: it does not."""

    @property
    def trouble(self) -> str:
        """Why its share of the route's RPCs fails; empty: it does not, as far as is known."""
        if not self.destination.weight_percent or self.refused in UNREACHED:
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
        return describe_balancing(self.destination.load_balancer)

    @property
    def changes(self) -> tuple[str, ...]:
        """What the Mapping changes of an RPC on its way, each in a few words."""
        return tuple(describe_changes(self.destination))

    @property
    def policies(self) -> tuple[str, ...]:
        """What the Mapping does about failing and overloaded pods, each in a few words."""
        return tuple(describe_policies(self.destination))


@dataclass(frozen=True, slots=True)
class ShadowView:
    """A shadow Mapping with its copies over all workers."""

    destination: Destination
    cluster: ClusterView
    copies: ShadowReport

    @property
    def finished(self) -> int:
        return sum(self.copies.codes.values())

    @property
    def not_ok(self) -> int:
        return self.finished - self.copies.codes.get(0, 0)

    @property
    def balancing(self) -> str:
        return describe_balancing(self.destination.load_balancer)


@dataclass(frozen=True, slots=True)
class RouteView:
    key: str
    """Stable over reloads while the match and its Mappings stay the same."""
    route: Route
    destinations: tuple[DestinationView, ...]
    shadow: ShadowView | None = None

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
    clusters = {view.cluster.name: view for view in _view_clusters(state)}
    methods = _merge_methods(state.workers)
    by_mapping: dict[str, list[MethodView]] = defaultdict(list)
    for (mapping, _, _), method in methods.items():
        by_mapping[mapping].append(method)
    shadows = merge_shadows(shadow for worker in state.workers for shadow in worker.shadows)
    copies = {shadow.mapping: shadow for shadow in shadows}
    reach = Reach(state.snapshot)
    return GatewayView(
        state=state,
        errors=tuple(problem for problem in state.problems if problem.severity is Severity.ERROR),
        notices=tuple(problem for problem in state.problems if problem.severity is Severity.NOTICE),
        routes=tuple(
            _view_route(route, clusters, by_mapping, copies, state.recent, reach)
            for route in state.snapshot.routes
            if route.destinations
        ),
        clusters=tuple(clusters.values()),
        traffic=_add_up(methods.values()),
        unmatched=_add_up(
            method for (mapping, service, _), method in methods.items() if (mapping, service) == NO_MAPPING
        ),
    )


def health_of(success_share: float | None) -> Health:
    if success_share is None:
        return Health.GRAY
    if success_share < 0.7:
        return Health.RED
    return Health.YELLOW if success_share < 0.9 else Health.GREEN


def not_ready_reason(state: GatewayState) -> str:
    """Why the gateway must get no new clients, in words; empty when it is ready."""
    if state.ready:
        return ""
    if state.draining:
        return "draining: running RPCs are finishing, new ones go elsewhere"
    waiting = [source.name for source in state.sources if not source.synced]
    if waiting:
        return "waiting for a first complete read of " + ", ".join(waiting)
    if state.configured_at_s and not state.listeners:
        return "no data port is open; where it stays so, the problems on the diagnostics page say why"
    return "no complete configuration is served yet"


def _view_route(
    route: Route,
    clusters: Mapping[str, ClusterView],
    by_mapping: Mapping[str, list[MethodView]],
    copies: Mapping[str, ShadowReport],
    recent: Totals,
    reach: Reach,
) -> RouteView:
    names = "\n".join(str(destination.mapping) for destination in route.destinations)
    identity = f"{route.match.kind}\n{route.match.value}\n{route.precedence}\n{names}"
    return RouteView(
        key=hashlib.sha256(identity.encode()).hexdigest()[:12],
        route=route,
        destinations=tuple(
            _view_destination(
                destination,
                clusters[destination.cluster],
                by_mapping.get(destination.label, []),
                recent.get(destination.label, NO_CALLS),
                reach.find_refusal(route, destination),
            )
            for destination in route.destinations
        ),
        shadow=None if route.shadow is None else _view_shadow(route.shadow, clusters, copies),
    )


def _view_shadow(
    shadow: Destination, clusters: Mapping[str, ClusterView], copies: Mapping[str, ShadowReport]
) -> ShadowView:
    counted = copies.get(shadow.label) or ShadowReport(shadow.label, {}, {}, 0)
    return ShadowView(shadow, clusters[shadow.cluster], counted)


def _view_destination(
    destination: Destination, cluster: ClusterView, methods: list[MethodView], recent: Recent, refused: str
) -> DestinationView:
    ordered = sorted(methods, key=lambda method: (method.service, method.method))
    return DestinationView(destination, cluster, _add_up(ordered), tuple(ordered), recent, refused)


def _view_clusters(state: GatewayState) -> Iterable[ClusterView]:
    reports: dict[str, dict[str, list[PodReport]]] = defaultdict(lambda: defaultdict(list))
    for worker in state.workers:
        for pod in worker.pods:
            reports[pod.cluster][pod.address].append(pod)
    for name, cluster in sorted(state.snapshot.clusters.items()):
        found = state.endpoints.get(name)
        pods = _view_pods(name, found or EndpointSet(), reports.get(name, {}))
        yield ClusterView(cluster, tuple(pods), found is not None, found.error if found else "")


def _view_pods(cluster: str, found: EndpointSet, reports: Mapping[str, list[PodReport]]) -> Iterable[PodView]:
    """The pods of the service in their order, then those that left it and still finish RPCs."""
    known = {str(endpoint): endpoint for endpoint in found.endpoints}
    for address in (*known, *sorted(reports.keys() - known.keys())):
        yield _merge_pod(cluster, address, known.get(address), reports.get(address, []))


def _merge_pod(cluster: str, address: str, endpoint: Endpoint | None, reports: list[PodReport]) -> PodView:
    finished = sum(report.total - report.in_flight for report in reports)
    latency_ms = sum(report.latency_mean_ms * (report.total - report.in_flight) for report in reports)
    worst = sorted(reports, key=lambda report: _WORST_FIRST.index(report.state))
    return PodView(
        cluster=cluster,
        address=address,
        name=endpoint.name if endpoint is not None else "",
        zone=endpoint.zone if endpoint is not None else "",
        states=Counter(report.state for report in reports),
        in_flight=sum(report.in_flight for report in reports),
        total=sum(report.total for report in reports),
        failures=sum(report.failures for report in reports),
        latency_mean_ms=latency_ms / finished if finished else 0.0,
        last_error=next((report.last_error for report in worst if report.last_error), ""),
        note=next((report.note for report in worst if report.note), ""),
    )


def _merge_methods(workers: Iterable[WorkerReport]) -> dict[tuple[str, str, str], MethodView]:
    reports: dict[tuple[str, str, str], list[MethodReport]] = defaultdict(list)
    for worker in workers:
        for report in worker.methods:
            reports[report.mapping, report.service, report.method].append(report)
    return {key: _add_up(group, key[1], key[2]) for key, group in reports.items()}


def _add_up(parts: Iterable[MethodReport | MethodView], service: str = "", method: str = "") -> MethodView:
    codes: Counter[int] = Counter()
    latency_counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
    latency_sum_s = 0.0
    in_flight = 0
    for part in parts:
        codes.update(part.codes)
        latency_counts = [sum(pair) for pair in zip(latency_counts, part.latency_counts, strict=True)]
        latency_sum_s += part.latency_sum_s
        in_flight += part.in_flight
    return MethodView(service, method, codes, tuple(latency_counts), latency_sum_s, in_flight)
