"""All clusters of this worker: their pods and pickers, and the pods of removed clusters until those have drained.

One of the two hot swaps happens here: a changed pod replaces the picker of each load-balancing state of its cluster.
Everything that changes clusters holds one lock; RPCs read references without it. Connections are opened through
`Connect`; the time is an argument.
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from grpcgw.balancer.base import TakeTurn, turns_from
from grpcgw.kept import Kept
from grpcgw.logs import DefectLog
from grpcgw.model.balancing import Balancing, HealthCheck
from grpcgw.model.cluster import Cluster, ConnectionSettings
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.telemetry.report import PodReport
from grpcgw.upstream.active_health import HealthChecker, PodHealth
from grpcgw.upstream.cluster_state import ClusterState
from grpcgw.upstream.load_balancing import BalancingState
from grpcgw.upstream.pod import Connection, Pod
from grpcgw.upstream.pod_counts import PodCounts

log = logging.getLogger(__name__)

Connect = Callable[[str, ConnectionSettings], Connection]
"""Makes a connection to `host:port`. Returns at once; the connection is established in the background."""

MOST_GONE_COUNTED = 1000
"""The counters of so many pods that are gone are remembered, in case they come back."""

AGE_JITTER = 0.1
"""Connections of one age limit end at different times, by up to this share before or after it."""


class ClusterSet:
    """The clusters of the snapshot in force, by name."""

    def __init__(
        self, connect: Connect, first_turn: int, drain_time_s: float, count_ejection: Callable[[str], None]
    ) -> None:
        """`first_turn`: where turns begin that are not shared with other workers. `drain_time_s`: how long RPCs on a
        pod that left may go on. `count_ejection`: called with the cluster's name for each ejection."""
        self._connect, self._first_turn, self._drain_time_s = connect, first_turn, drain_time_s
        self._count_ejection = count_ejection
        self.shared_turns: Mapping[tuple[str, Balancing], TakeTurn] = {}
        """By cluster: turns shared with other workers, used by load-balancing states made from now on. Set before the
        snapshot that needs them."""
        self.zone = ""
        """Where the gateway runs, for `prefer_same_zone`; empty: unknown. Set before the first snapshot."""
        self._lock = threading.Lock()
        self._clusters: dict[str, ClusterState] = {}
        self._endpoints: dict[str, EndpointSet] = {}
        self._orphans: dict[Pod, float] = {}
        """Pods of removed clusters → as `Pool.leaving`."""
        self._checkers: Kept[tuple[str, HealthCheck], HealthChecker] = Kept()
        self._counts: Kept[tuple[str, Endpoint], PodCounts] = Kept(MOST_GONE_COUNTED)
        self._refreshed_at_s = 0.0
        self._defects = DefectLog(log)

    # --- a snapshot is applied: `use`, `balancing` for each destination, `fill`, `drop_others`

    def use(self, clusters: Mapping[str, Cluster], now_s: float) -> set[str]:
        """Add or change these clusters; returns the names of those that are new or changed."""
        changed = set()
        with self._lock:
            for name, cluster in clusters.items():
                state = self._clusters.get(name)
                if state is None:
                    self._clusters[name] = self._make_cluster(cluster)
                elif state.cluster is cluster:
                    continue
                else:
                    state.change(cluster, now_s)
                changed.add(name)
        return changed

    def _make_cluster(self, cluster: Cluster) -> ClusterState:
        state = ClusterState(cluster, self._open_pod)
        earlier = {pod: limit_s for pod, limit_s in self._orphans.items() if pod.cluster == cluster.name}
        for pod in earlier:
            del self._orphans[pod]
        state.pool.adopt(earlier, cluster.connection)
        return state

    def _open_pod(self, cluster: Cluster, endpoint: Endpoint, used: ConnectionSettings, now_s: float) -> Pod:
        settings = cluster.connection
        expires_at_s = math.inf
        if settings.max_lifetime_ms is not None:
            age_s = settings.max_lifetime_ms / 1000
            expires_at_s = now_s + age_s * random.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        connection = self._connect(str(endpoint), used)
        counts = self._counts.get_or_make((cluster.name, endpoint), PodCounts)
        return Pod(cluster.name, endpoint, connection, settings, expires_at_s, counts, used)

    def balancing(self, name: str, settings: Balancing) -> tuple[ClusterState, BalancingState]:
        """Cluster `name` and its load-balancing state for `settings`, which lives as long as the caller holds it.

        Raises KeyError for a cluster that is not in use, or a policy that the catalogue does not have.
        """
        with self._lock:
            cluster = self._clusters[name]
            make = partial(self._make_balancing, name, settings)
            return cluster, cluster.balancing.get_or_make(settings, make)

    def _make_balancing(self, name: str, settings: Balancing) -> BalancingState:
        check = settings.health_check
        checker = None
        if check is not None:
            checker = self._checkers.get_or_make((name, check), partial(HealthChecker, check))
        take_turn = self.shared_turns.get((name, settings)) or turns_from(self._first_turn)
        publish = partial(self._publish_by_name, name)
        return BalancingState(settings, checker, take_turn, self.zone, partial(self._count_ejection, name), publish)

    def fill(self, names: Iterable[str], now_s: float) -> None:
        """Give these clusters the pods known of them, and publish their pickers."""
        with self._lock:
            for name in names:
                self._fill(name, now_s)

    def _fill(self, name: str, now_s: float) -> None:
        state, endpoints = self._clusters[name], self._endpoints.get(name)
        if endpoints is not None:
            state.set_endpoints(endpoints, now_s, now_s + self._drain_time_s)
        state.publish()

    def drop_others(self, clusters: Mapping[str, Cluster], now_s: float) -> None:
        """Remove the clusters that are not among `clusters`. RPCs on their pods may finish within the drain time."""
        with self._lock:
            for name in [name for name in self._clusters if name not in clusters]:
                pool = self._clusters.pop(name).pool
                self._endpoints.pop(name, None)
                pool.replace((), _open_nothing, now_s + self._drain_time_s)
                self._orphans.update(pool.leaving)
            self._limit_orphans(now_s)

    # --- pods and connections change

    def set_endpoints(self, name: str, endpoints: EndpointSet, now_s: float) -> None:
        """Use `endpoints` as the ready pods of cluster `name` from the next RPC on. May come before its snapshot."""
        with self._lock:
            self._endpoints[name] = endpoints
            if name in self._clusters:
                self._fill(name, now_s)
                self._limit_orphans(now_s)

    def _limit_orphans(self, now_s: float) -> None:
        """Give RPCs on orphans the drain time to finish; no limit for an orphan whose pod another cluster still has."""
        for pod, limit_s in self._orphans.items():
            stays = any(pod.endpoint in state.pool.serving for state in self._clusters.values())
            self._orphans[pod] = math.inf if stays else min(limit_s, now_s + self._drain_time_s)

    def note_failure(self, pod: Pod) -> None:
        """An RPC could not connect to `pod`: leave it out until its connection says otherwise."""
        with self._lock:
            if pod.state is PodState.FAILING:
                return  # of many RPCs that waited for its connection one is enough
            pod.state = PodState.FAILING
            self._publish(pod.cluster)
            if pod.cluster in self._clusters:
                self._clusters[pod.cluster].pool.unread = True

    def _publish(self, name: str) -> None:
        # By name: the cluster may have been removed, and added again with the pods that an earlier Target still uses.
        if name in self._clusters:
            self._clusters[name].publish()

    def _publish_by_name(self, name: str) -> None:
        with self._lock:
            self._publish(name)

    def refresh(self, now_s: float, looks: bool = True) -> tuple[Pod, ...]:
        """Publish what changed; returns the pods whose connections to close.

        `looks`: read every connection's state. An engine whose connections report their changes may leave it out while
        none does.
        """
        with self._lock:
            self._refreshed_at_s = now_s
            over, note_health = [*self._finished_orphans(now_s)], self._note_health
            for state in self._clusters.values():
                try:
                    over += state.refresh(now_s, note_health, looks)
                except Exception:  # a defect in one cluster must not stop the others
                    state.pool.unread = True
                    self._defects.note("cannot refresh cluster", state.cluster.name)
            for pod in over:
                self._counts.remember((pod.cluster, pod.endpoint))
        return tuple(over)

    def _finished_orphans(self, now_s: float) -> tuple[Pod, ...]:
        over = tuple(pod for pod, limit_s in self._orphans.items() if pod.is_over(now_s, limit_s))
        for pod in over:
            del self._orphans[pod]
        return over

    def _note_health(self, state: ClusterState, health: PodHealth, failure: str) -> None:
        with self._lock:
            if health.record(failure):
                state.publish()

    # --- reports

    def settled(self) -> bool:
        """Whether every pod is connected or has failed to once, so that RPCs find the turns they expect."""
        with self._lock:
            return all(state.settled for state in self._clusters.values())

    def pods(self) -> tuple[Pod, ...]:
        """Every pod with an open connection."""
        with self._lock:
            return self._pods()

    def _pods(self) -> tuple[Pod, ...]:
        return (*(pod for state in self._clusters.values() for pod in state.pool.pods()), *self._orphans)

    def in_use(self) -> tuple[tuple[Cluster, tuple[Pod, ...]], ...]:
        """The clusters, each with the pods that get its RPCs."""
        with self._lock:
            return tuple((state.cluster, tuple(state.pool.serving.values())) for state in self._clusters.values())

    def pod_reports(self) -> tuple[PodReport, ...]:
        """A report for each connection; of several to one address the first has what was counted."""
        with self._lock:
            now_s = self._refreshed_at_s
            notes = {pod: state.explain(pod, now_s) for state in self._clusters.values() for pod in state.pool.pods()}
            pods = self._pods()
        reporting = {id(pod.counts): pod for pod in reversed(pods)}
        return tuple(pod.report(notes.get(pod, ""), reporting[id(pod.counts)] is pod) for pod in pods)


def _open_nothing(endpoint: Endpoint, former: Pod | None) -> Pod:
    raise AssertionError(f"no pod is opened for an empty set: {endpoint}")
