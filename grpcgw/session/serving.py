"""What this worker serves right now: the routing snapshot, the pods of each cluster, and their pickers.

Two things are hot-swapped, each by one reference assignment: `_table` (any configuration change) and a `Balanced`'s
picker (pods came, went, or changed their state). The RPC path only reads references; everything that changes them
holds one lock. No I/O: connections are opened through `Connect`, the time is an argument.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from grpcgw.balancer.base import TakeTurn, turns_from
from grpcgw.errors import GrpcgwError
from grpcgw.listeners.open_ports import SOME_PORT, PortView
from grpcgw.logs import DefectLog
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.clients import ClientRules
from grpcgw.model.cluster import Cluster, ConnectionSettings
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.model.host_policy import Selectors
from grpcgw.model.listener import Listener
from grpcgw.model.metadata import Metadata
from grpcgw.model.route import Destination, Route
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.model.status import Reason, Refusal
from grpcgw.policy.breakers import Breakers
from grpcgw.policy.client_rules import Reception, make_reception
from grpcgw.policy.retry import RetryBudget
from grpcgw.routing.host_rules import Entry, HostFault, HostRefusal, compile_rules
from grpcgw.routing.selection import find_selections, select_routes
from grpcgw.routing.table import RouteTable
from grpcgw.routing.targets import RouteTargets, Target, explain_nowhere
from grpcgw.services.descriptors import DescriptorIndex
from grpcgw.session.held import HeldMessages
from grpcgw.session.shadow import Shadows
from grpcgw.settings import DEFAULT_MAX_MESSAGE_BYTES
from grpcgw.telemetry.access_log import RpcRecord
from grpcgw.telemetry.counters import Counters
from grpcgw.telemetry.report import PodReport
from grpcgw.upstream.active_health import HealthChecker, PodHealth
from grpcgw.upstream.clusters import Balanced, Balancing, ClusterState
from grpcgw.upstream.pod import Connection, Pod, PodCounts

log = logging.getLogger(__name__)

Connect = Callable[[str, ConnectionSettings], Connection]
"""Makes a connection to `host:port`; it connects by itself, nothing is waited for."""


@dataclass(frozen=True, slots=True)
class RpcLog:
    """Who is told of RPCs that ended, and of which share of them where their Mapping does not say."""

    put: Callable[[RpcRecord], None]
    share_percent: float


MOST_GONE_COUNTED = 1000
"""Of so many pods that are gone it is remembered what was counted, should they come back."""

WHY_FAILING = HealthCheck(timeout_ms=1000)
"""Asked of a pod that cannot be connected to: grpc tells the cause to RPCs alone, at once and without the pod."""

AGE_JITTER = 0.1
"""Connections of one age limit end at different times, by up to this share before or after it."""


class Table:
    """One snapshot, ready to be looked up."""

    __slots__ = ("_by_route", "_routes", "_selected", "rules", "snapshot")

    def __init__(
        self, snapshot: Snapshot, selected: Mapping[Selectors, RouteTable], by_route: dict[int, RouteTargets]
    ) -> None:
        """`selected`: the routes of each selection of Hosts; of none, all."""
        self.snapshot = snapshot
        self.rules = compile_rules(snapshot)
        """What Hosts ask of an RPC; None: nothing."""
        self._routes, self._selected = selected[()], selected
        self._by_route = by_route  # by id(): the snapshot keeps the routes alive, and hashing one costs microseconds

    def find(self, path: str, authority: str, metadata: Metadata, selectors: Selectors = ()) -> RouteTargets | None:
        routes = self._selected[selectors] if selectors else self._routes
        route = routes.match(path, authority, metadata)
        return None if route is None else self._by_route[id(route)]

    def find_bound(self, route: Route) -> RouteTargets | None:
        """What the very same Route is bound to here."""
        return self._by_route.get(id(route))


_HOST_REASONS = {
    HostFault.NO_HOST: Reason.NO_HOST,
    HostFault.CLEAR_TEXT: Reason.CLEAR_TEXT,
    HostFault.LEFT_OUT: Reason.LEFT_OUT,
}


class CannotServe(GrpcgwError):
    """A defect: a snapshot that the compiler made cannot be served, because of `mapping`, if one is to blame."""

    def __init__(self, route: Route, error: Exception) -> None:
        self.mapping = next((destination.key for destination in route.all_destinations()), None)
        super().__init__(f"{type(error).__name__}: {error}")


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


class Serving:
    def __init__(
        self, connect: Connect, first_turn: int = 0, drain_time_s: float = 30.0, max_metadata_bytes: int = 65_536
    ) -> None:
        """`first_turn`: where turns begin that are not shared with other workers. `drain_time_s`: how long RPCs on a
        pod that left may go on.
        `max_metadata_bytes`: what a request may carry, see `metadata.is_too_large`."""
        self._connect, self._first_turn, self._drain_time_s = connect, first_turn, drain_time_s
        self.max_metadata_bytes = self._largest_metadata_bytes = max_metadata_bytes
        self.held = HeldMessages(DEFAULT_MAX_MESSAGE_BYTES)
        """Replaced by engines before the first RPC, where other sizes are allowed."""
        self.reception: Reception | None = None
        """What the Module asks of every request; None: nothing."""
        self._lock = threading.Lock()
        self._clusters: dict[str, ClusterState] = {}
        self._endpoints: dict[str, EndpointSet] = {}
        self._orphans: dict[Pod, float] = {}
        """Pods of clusters that are not used any more → as `Pool.leaving`."""
        self._counts: dict[tuple[str, Endpoint], PodCounts] = {}
        """By cluster and address; kept for a while of pods that are gone, which may come back."""
        self._refreshed_at_s = 0.0
        self._defects = DefectLog(log)
        self._table = Table(EMPTY_SNAPSHOT, {(): RouteTable(())}, {})
        self._breakers = Breakers()
        self._budgets: dict[str, RetryBudget] = {}
        self.shadows = Shadows(self.republish)
        self.counters = Counters()
        self.draining = False
        self.rpc_log: RpcLog | None = None
        """Set before the first snapshot; None: nothing is logged."""
        self.shared_turns: Mapping[tuple[str, Balancing], TakeTurn] = {}
        """By cluster: turns to be shared with other workers by whoever begins to take some. Set before a snapshot."""
        self.zone = ""
        """Where the gateway runs, for `prefer_same_zone`. Set before the first snapshot; empty: unknown."""
        self.reflection: DescriptorIndex | None = None
        """What is known of the pods' services; None: the gateway has no reflection service."""

    @property
    def snapshot(self) -> Snapshot:
        return self._table.snapshot

    # --- for every RPC

    def route(
        self, path: str, authority: str = "", metadata: Metadata = (), port: PortView = SOME_PORT
    ) -> Target | Refusal:
        """Where an RPC goes, or why it goes nowhere."""
        table = self._table
        if self.draining or port.closing or table.rules is not None:
            admitted = self._admit(table, authority, metadata, port)
            if isinstance(admitted, Refusal):
                return admitted
            found = table.find(path, authority, metadata, admitted)
        else:
            found = table.find(path, authority, metadata)
        if found is None:
            return Refusal(Reason.NO_MAPPING, f"no Mapping matches {path}")
        target = found.choose(metadata)
        return explain_nowhere(found, path) if target is None else target.refusal or target

    def wants_certificate(self, port: PortView) -> bool:
        """Whether an engine is to say which certificate the client of an RPC has shown."""
        return self.reception is not None and port.asks_clients

    def refuses(self, authority: str, metadata: Metadata, port: PortView) -> bool:
        """Whether an RPC is refused whatever its path is."""
        return isinstance(self._admit(self._table, authority, metadata, port), Refusal)

    def _admit(self, table: Table, authority: str, metadata: Metadata, port: PortView) -> Refusal | Selectors:
        """Why an RPC is refused whatever its path is, or which Mappings may serve it."""
        if self.draining:
            return Refusal(Reason.DRAINING, "the gateway is shutting down")
        if port.closing:
            return Refusal(Reason.DRAINING, "the gateway closes this port")
        if table.rules is None:
            return ()
        judged = table.rules.judge(Entry(port.listener, port.tls, authority, metadata))
        return Refusal(_HOST_REASONS[judged.fault], judged.message) if isinstance(judged, HostRefusal) else judged

    def has_route(self, path: str, authority: str = "", metadata: Metadata = ()) -> bool:
        return self._table.find(path, authority, metadata) is not None

    def clusters_of(self, path: str, authority: str, metadata: Metadata, port: PortView) -> frozenset[str]:
        """Where calls of `path` go, over all Mappings that match it and do not refuse them; none: nowhere."""
        admitted = self._admit(self._table, authority, metadata, port)
        found = None if isinstance(admitted, Refusal) else self._table.find(path, authority, metadata, admitted)
        return frozenset() if found is None else found.open_clusters()

    def can_serve(self, path: str, authority: str = "", metadata: Metadata = ()) -> bool | None:
        """Whether some Mapping has a pod for `path` that is connected or may yet be; None: no Mapping matches."""
        found = self._table.find(path, authority, metadata)
        return None if found is None else found.can_serve()

    # --- when something changed

    def begin_drain(self, now_s: float) -> None:
        """Refuse every RPC from now on, and end the copies of those that run."""
        self.draining = True
        self.shadows.drain(now_s)

    def apply(self, snapshot: Snapshot, now_s: float) -> None:
        """Serve `snapshot` from the next RPC on. Clusters it keeps keep their pods, connections and counters.

        What costs time is done for what is new: for a Route or Cluster that is another object than before. Where it
        cannot be served, what was served before is, and CannotServe says why.
        """
        selections = {one: select_routes(snapshot.routes, one) for one in find_selections(snapshot)}
        tables = {one: _make_table(routes) for one, routes in {**selections, (): snapshot.routes}.items()}
        with self._lock:
            changed = self._take_clusters(snapshot.clusters, now_s)
            destinations = [destination for route in snapshot.routes for destination in route.all_destinations()]
            self._breakers.replace(destinations)
            self._budgets = {d.label: self._budgets.get(d.label) or self._make_budget(d.label) for d in destinations}
            by_route, used = self._bind_routes(chain(snapshot.routes, *selections.values()), changed)
            for name in changed | used:
                self._fill(name, now_s)
            whole = Table(snapshot, tables, by_route)
            self._receive_by(snapshot.clients, snapshot.listeners or ())
            self._table = whole
            self._drop_clusters(snapshot, now_s)
            self._limit_orphans(now_s)

    def _receive_by(self, rules: ClientRules, listeners: Sequence[Listener]) -> None:
        self.reception = make_reception(rules, listeners)
        largest = self._largest_metadata_bytes
        self.max_metadata_bytes = min(largest, rules.max_metadata_bytes or largest)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet, now_s: float) -> None:
        """These are the ready pods of `cluster` from the next RPC on. May come before the snapshot that names it."""
        with self._lock:
            self._endpoints[cluster] = endpoints
            if cluster in self._clusters:
                self._fill(cluster, now_s)
                self._limit_orphans(now_s)

    def note_failure(self, pod: Pod) -> None:
        """An RPC could not connect to `pod`: leave it out until its connection says otherwise."""
        with self._lock:
            pod.state = PodState.FAILING
            self._publish(pod.cluster)

    def republish(self, pod: Pod) -> None:
        """`pod` was just ejected: no new RPC may go there."""
        with self._lock:
            self._publish(pod.cluster)

    def _publish(self, cluster: str) -> None:
        if cluster in self._clusters:
            self._clusters[cluster].publish()

    def refresh(self, now_s: float) -> tuple[Pod, ...]:
        """Look at every connection's state and publish what changed; returns the pods whose connections to close."""
        with self._lock:
            self._refreshed_at_s = now_s
            over = [*self._over_orphans(now_s)]
            for state in self._clusters.values():
                try:
                    over += self._refresh_cluster(state, now_s)
                except Exception:  # whatever is wrong with one cluster, the others are looked after
                    self._defects.note("cannot look after cluster", state.cluster.name)
            if over:
                self._forget_counts()
        self.shadows.sweep(now_s)
        return tuple(over)

    def _forget_counts(self) -> None:
        """Of the pods that are gone, keep what was counted of so many that went last."""
        if len(self._counts) > MOST_GONE_COUNTED:
            here = {(pod.cluster, pod.endpoint) for pod in self._pods()}
            gone = [key for key in self._counts if key not in here]
            for key in gone[: max(0, len(gone) - MOST_GONE_COUNTED)]:
                del self._counts[key]

    def _refresh_cluster(self, state: ClusterState, now_s: float) -> tuple[Pod, ...]:
        if self._look_at(state, now_s):
            state.publish()
        return state.pool.finished(now_s) if state.pool.leaving else ()

    def _look_at(self, state: ClusterState, now_s: float) -> bool:
        """Whether there is something to publish. Goes over every cluster 20 times a second: asks, and makes nothing."""
        if state.cluster.connection.max_lifetime_ms is not None:
            state.pool.renew(self._opener(state.cluster, now_s), now_s)
        changed = state.pool.look()
        while state.pool.failed:
            pod = state.pool.failed.pop()
            pod.connection.check_health(WHY_FAILING, pod.note_connect_error)
        for reference in state.balanced.valuerefs():  # a third of what values() costs
            balanced = reference()
            if balanced is not None:
                changed |= balanced.refresh(now_s)
                if balanced.checker is not None:
                    self._check_health(state, balanced.checker, now_s)
        return changed

    def _check_health(self, state: ClusterState, checker: HealthChecker, now_s: float) -> None:
        for pod, health in checker.take_due(now_s):
            pod.connection.check_health(checker.settings, partial(self._note_health, state, health))

    def _note_health(self, state: ClusterState, health: PodHealth, failure: str) -> None:
        with self._lock:
            if health.record(failure):
                state.publish()

    def settled(self) -> bool:
        """Every pod is connected or has failed to once: RPCs will find the turns they expect."""
        with self._lock:
            return all(state.settled for state in self._clusters.values())

    def pods(self) -> tuple[Pod, ...]:
        with self._lock:
            return self._pods()

    def _pods(self) -> tuple[Pod, ...]:
        return (*(pod for state in self._clusters.values() for pod in state.pool.pods()), *self._orphans)

    def clusters(self) -> tuple[tuple[Cluster, tuple[Pod, ...]], ...]:
        """The clusters in use, each with the pods that get its RPCs."""
        with self._lock:
            return tuple((state.cluster, tuple(state.pool.serving.values())) for state in self._clusters.values())

    def pod_reports(self) -> tuple[PodReport, ...]:
        with self._lock:
            now_s = self._refreshed_at_s
            notes = {pod: state.explain(pod, now_s) for state in self._clusters.values() for pod in state.pool.pods()}
            pods = self._pods()
        # Of several connections to one address the first says what was counted.
        telling = {id(pod.counts): pod for pod in reversed(pods)}
        return tuple(pod.report(notes.get(pod, ""), telling[id(pod.counts)] is pod) for pod in pods)

    def _bind_routes(self, routes: Iterable[Route], changed: set[str]) -> tuple[dict[int, RouteTargets], set[str]]:
        """What each Route is bound to, by its id(), and the clusters of those that were bound anew."""
        by_route: dict[int, RouteTargets] = {}
        used: set[str] = set()
        for route in routes:
            bound = self._table.find_bound(route)
            if bound is None or (changed and not changed.isdisjoint(_clusters_of(route))):
                try:
                    bound = self._bind(route)
                except Exception as error:
                    raise CannotServe(route, error) from error
                used.update(_clusters_of(route))
            by_route[id(route)] = bound
        return by_route, used

    def _bind(self, route: Route) -> RouteTargets:
        targets = tuple(self._target(route, destination) for destination in route.destinations)
        if route.shadow is not None:
            shadow = self.shadows.bind(route.shadow, self._target(route, route.shadow))
            for target in targets:
                target.shadow = shadow
        return RouteTargets(route, targets)

    def _target(self, route: Route, destination: Destination) -> Target:
        state = self._clusters[destination.cluster]
        balancing = Balancing.of(destination)
        balanced = state.balanced.get(balancing)
        if balanced is None:
            checker = state.find_checker(destination.health_check)
            take_turn = self.shared_turns.get((destination.cluster, balancing)) or turns_from(self._first_turn)
            note_ejection = partial(self.counters.count_ejection, destination.cluster)
            balanced = state.balanced[balancing] = Balanced(balancing, checker, take_turn, self.zone, note_ejection)
        breaker, budget = self._breakers.of(destination), self._budgets[destination.label]
        return Target(route, destination, state, balanced, breaker, budget, self._log_percent(destination))

    def _make_budget(self, mapping: str) -> RetryBudget:
        return RetryBudget(partial(self.counters.count_in_flight, mapping))

    def _log_percent(self, destination: Destination) -> float:
        if self.rpc_log is None:
            return 0.0
        own = destination.access_log_percent
        return self.rpc_log.share_percent if own is None else own

    def _fill(self, name: str, now_s: float) -> None:
        state, endpoints = self._clusters[name], self._endpoints.get(name)
        if endpoints is not None and endpoints != state.endpoints:
            state.endpoints = endpoints
            state.hints = dict(zip(endpoints.endpoints, endpoints.zone_hints, strict=False))  # there may be none
            opener = self._opener(state.cluster, now_s)
            state.pool.replace(endpoints.endpoints, opener, now_s + self._drain_time_s)
        state.publish()

    def _opener(self, cluster: Cluster, now_s: float) -> Callable[[Endpoint], Pod]:
        settings = cluster.connection
        age_ms = settings.max_lifetime_ms

        def open_pod(endpoint: Endpoint) -> Pod:
            expires_at_s = math.inf
            if age_ms is not None:
                expires_at_s = now_s + age_ms / 1000 * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
            connection = self._connect(str(endpoint), settings)
            counts = self._counts.setdefault((cluster.name, endpoint), PodCounts())
            return Pod(cluster.name, endpoint, connection, settings, expires_at_s, counts)

        return open_pod

    def _take_clusters(self, clusters: Mapping[str, Cluster], now_s: float) -> set[str]:
        """Use these clusters; returns the names of those that are new, or not what they were."""
        changed = set()
        for name, cluster in clusters.items():
            state = self._clusters.get(name)
            if state is None:
                self._clusters[name] = self._make_cluster(cluster)
            elif state.cluster is cluster:
                continue
            else:
                before, state.cluster = state.cluster, cluster
                if before.connection != cluster.connection:
                    state.pool.reconnect(self._opener(cluster, now_s))
            changed.add(name)
        return changed

    def _make_cluster(self, cluster: Cluster) -> ClusterState:
        state = ClusterState(cluster)
        earlier = {pod: limit_s for pod, limit_s in self._orphans.items() if pod.cluster == cluster.name}
        for pod in earlier:
            del self._orphans[pod]
        state.pool.adopt(earlier, cluster.connection)
        return state

    def _drop_clusters(self, snapshot: Snapshot, now_s: float) -> None:
        for name in [name for name in self._clusters if name not in snapshot.clusters]:
            pool = self._clusters.pop(name).pool
            self._endpoints.pop(name, None)
            pool.replace((), _open_nothing, now_s + self._drain_time_s)
            self._orphans.update(pool.leaving)

    def _limit_orphans(self, now_s: float) -> None:
        """A pod that some cluster still has stays, and what runs there ends by itself; the others have a limit."""
        for pod, limit_s in self._orphans.items():
            stays = any(pod.endpoint in state.pool.serving for state in self._clusters.values())
            self._orphans[pod] = math.inf if stays else min(limit_s, now_s + self._drain_time_s)

    def _over_orphans(self, now_s: float) -> tuple[Pod, ...]:
        over = tuple(pod for pod, limit_s in self._orphans.items() if pod.is_over(now_s, limit_s))
        for pod in over:
            del self._orphans[pod]
        return over


def _clusters_of(route: Route) -> list[str]:
    used = [destination.cluster for destination in route.destinations]
    return used if route.shadow is None else [*used, route.shadow.cluster]


def _open_nothing(endpoint: Endpoint) -> Pod:
    raise AssertionError(f"no pod is opened for an empty set: {endpoint}")
