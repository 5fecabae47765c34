"""One cluster in this worker: its pods, their connections, and the load-balancing states over them.

Changed under the lock of the ClusterSet. No I/O; the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from grpcgw.balancer.zones import ZoneHints
from grpcgw.kept import Kept
from grpcgw.model.balancing import Balancing, HealthCheck
from grpcgw.model.cluster import Cluster, ConnectionSettings
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.upstream.active_health import HealthChecker, PodHealth
from grpcgw.upstream.load_balancing import BalancingState
from grpcgw.upstream.pod import Pod
from grpcgw.upstream.pool import OpenPod, Pool, usable

OpenConnection = Callable[[Cluster, Endpoint, ConnectionSettings, float], Pod]
"""Opens a connection to an endpoint of a cluster with these settings, at a monotonic time in seconds."""
NoteHealth = Callable[["ClusterState", PodHealth, str], None]
"""Called from any thread with why a health check failed; empty: the pod is serving."""

CONNECT_PROBE = HealthCheck(timeout_ms=1000)
"""Sent to a pod that cannot be connected to, to learn why: grpc core gives the cause to RPCs only. It fails at once,
without reaching the pod."""

MOST_KEPT_CONNECTED = 100
"""A worker stays connected to the pods of clusters of at most this size. To a pod of a larger cluster it connects when
an RPC picks it, as Envoy does, and closes the connection after `UNUSED_MS` without RPCs."""
UNUSED_MS = 60_000


class ClusterState:
    """A cluster of the snapshot in force."""

    __slots__ = ("_open_connection", "_others", "balancing", "cluster", "endpoints", "hints", "pool", "settled")

    def __init__(self, cluster: Cluster, open_connection: OpenConnection) -> None:
        self.cluster = cluster
        self._open_connection = open_connection
        self.pool = Pool()
        self.endpoints: EndpointSet | None = None
        """The newest set from discovery; None before the first."""
        self.hints: ZoneHints = {}
        self._others: dict[Endpoint, str] = {}
        """Addresses of pods in their other IP family."""
        self.balancing: Kept[Balancing, BalancingState] = Kept()
        self.settled = True
        """Every pod is connected or has failed to once."""

    def change(self, cluster: Cluster, now_s: float) -> None:
        """Use other settings. Pods keep their connections unless the connection settings differ."""
        before, self.cluster = self.cluster, cluster
        if before.connection != cluster.connection:
            self.pool.reconnect(self._opener(now_s))

    def set_endpoints(self, endpoints: EndpointSet, now_s: float, drain_until_s: float) -> None:
        """Make `endpoints` the pods; those that left finish their RPCs until `drain_until_s`. `publish` must follow."""
        if endpoints != self.endpoints:
            self.endpoints = endpoints
            self.hints = dict(zip(endpoints.endpoints, endpoints.zone_hints, strict=False))  # there may be none
            before, self._others = self._others, dict(zip(endpoints.endpoints, endpoints.other_addresses, strict=False))
            self.pool.replace(endpoints.endpoints, self._opener(now_s), drain_until_s)
            if self._others != before:
                for pod in self.pool.pods():
                    pod.connection.set_other_address(self._others.get(pod.endpoint, ""))

    def _opener(self, now_s: float) -> OpenPod:
        cluster, open_connection = self.cluster, self._open_connection
        kept = rests = wakes = cluster.connection
        if self.endpoints is not None and len(self.endpoints.endpoints) > MOST_KEPT_CONNECTED:
            rests = replace(kept, idle_timeout_ms=kept.idle_timeout_ms or UNUSED_MS)
            wakes = replace(rests, on_demand=True)

        def open_pod(endpoint: Endpoint, former: Pod | None) -> Pod:
            is_used = former is not None and former.state is PodState.READY
            pod = open_connection(cluster, endpoint, rests if is_used else wakes, now_s)
            if other := self._others.get(endpoint):
                pod.connection.set_other_address(other)
            return pod

        return open_pod

    def publish(self) -> None:
        """Replace the pickers.

        To be called when the state of a pod or the set of ejected or unhealthy pods has changed, and only then.
        """
        pods = tuple(self.pool.serving.values())
        self.settled = all(pod.is_ready() or pod.state is PodState.FAILING for pod in pods)
        connected = usable(pods)
        for state in self.balancing.values():
            state.update(pods, connected, self.hints)

    def refresh(self, now_s: float, note_health: NoteHealth, looks: bool) -> tuple[Pod, ...]:
        """Read the state of every connection if `looks`, start due health checks and publish changes.

        Returns the pods whose connections to close. Runs over every cluster 20 times a second, so it allocates nothing
        where nothing changed.
        """
        pool = self.pool
        if self.cluster.connection.max_lifetime_ms is not None:
            pool.renew(self._opener(now_s), now_s)
        changed = (looks or pool.unread or bool(pool.arriving)) and pool.look()
        if pool.failed:
            self._probe_failed()
        for reference in self.balancing.references():
            state = reference()
            if state is not None:
                changed |= state.refresh(now_s)
                if state.checker is not None:
                    self._check_health(state.checker, now_s, note_health)
        if changed:
            self.publish()
        return pool.finished(now_s) if pool.leaving else ()

    def _probe_failed(self) -> None:
        while self.pool.failed:
            pod = self.pool.failed.pop()
            pod.connection.check_health(CONNECT_PROBE, pod.note_connect_error)

    def _check_health(self, checker: HealthChecker, now_s: float, note_health: NoteHealth) -> None:
        for pod, health in checker.take_due(now_s):
            pod.connection.check_health(checker.settings, partial(note_health, self, health))

    def explain(self, pod: Pod, now_s: float) -> str:
        """Why Mappings leave out `pod`; empty: none does."""
        if self.pool.arriving.get(pod.endpoint) is pod:
            return "reconnecting; the previous connection serves until then"
        return "; ".join(sorted({state.explain(pod, now_s) for state in self.balancing.values()} - {""}))
