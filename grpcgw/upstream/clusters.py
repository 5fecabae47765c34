"""The clusters in use: their pods, the ways to balance over them, and which pods each of these leaves out.

`Serving` changes them under its lock; RPCs read the picker in force. No I/O, and the time is an argument.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakValueDictionary

from grpcgw.balancer.base import Balancer, Picker, TakeTurn
from grpcgw.balancer.catalogue import make_balancer
from grpcgw.balancer.zones import ZoneHints, prefer_zone
from grpcgw.model.balancing import HealthCheck, LoadBalancer, OutlierDetection
from grpcgw.model.cluster import Cluster
from grpcgw.model.endpoints import EndpointSet, PodState
from grpcgw.model.route import Destination
from grpcgw.upstream.active_health import HealthChecker
from grpcgw.upstream.outlier import OutlierDetector
from grpcgw.upstream.pod import Pod
from grpcgw.upstream.pool import Pool, usable

MOST_NAMED_PODS = 3
"""In the message of one status."""


@dataclass(frozen=True, slots=True)
class Balancing:
    """What Mappings must agree on to share turns, ejections and health checks over a cluster."""

    load_balancer: LoadBalancer
    outlier_detection: OutlierDetection | None
    health_check: HealthCheck | None

    @classmethod
    def of(cls, destination: Destination) -> Balancing:
        return cls(destination.load_balancer, destination.outlier_detection, destination.health_check)


class Balanced:
    """One way to balance over one cluster: the policy, the picker in force, and the pods it leaves out."""

    __slots__ = ("__weakref__", "_all", "_zone", "balancer", "candidates", "checker", "is_ready", "outliers", "picker")

    def __init__(
        self,
        balancing: Balancing,
        checker: HealthChecker | None,
        take_turn: TakeTurn,
        zone: str,
        note_ejection: Callable[[], None],
    ) -> None:
        """`checker`: of `balancing.health_check`, shared with others that ask for the same. `zone`: the gateway's own;
        empty: unknown."""
        self._zone = zone if balancing.load_balancer.prefer_same_zone else ""
        self.balancer: Balancer = make_balancer(balancing.load_balancer, take_turn)
        settings = balancing.outlier_detection
        self.outliers = None if settings is None else OutlierDetector(settings, note_ejection)
        self.checker = checker
        self._all: tuple[Pod, ...] = ()
        self.candidates: tuple[Pod, ...] = ()
        self.is_ready = False
        """Whether some candidate is, so that an RPC need not wait for a connection."""
        self.picker: Picker = self.balancer.update(())

    def update(self, pods: tuple[Pod, ...], connected: tuple[Pod, ...], hints: ZoneHints) -> None:
        """`pods` are the cluster's, `connected` those of them that are usable."""
        outliers, checker = self.outliers, self.checker
        if pods != self._all:
            self._all = pods
            if outliers is not None:
                outliers.set_pods(pods)
            if checker is not None:
                checker.set_pods(pods)
        if checker is not None:
            healthy = tuple(pod for pod in pods if checker.is_usable(pod))
            if len(healthy) < len(pods):
                connected = usable(healthy)
        if outliers is not None:
            connected = tuple(pod for pod in connected if not outliers.is_ejected(pod)) or connected
        if self._zone:
            connected = prefer_zone(connected, hints, self._zone)
        if connected != self.candidates:
            self.candidates = connected
            self.picker = self.balancer.update(connected)
        self.is_ready = any(pod.is_ready() for pod in connected)

    def refresh(self, now_s: float) -> bool:
        """Take up what time alone changes: ejections that end, weights that grow. Returns whether to `update`."""
        self.picker = self.balancer.refresh(now_s) or self.picker
        return self.outliers is not None and self.outliers.sweep(now_s)

    def explain(self, pod: Pod, now_s: float) -> str:
        """Why `pod` is left out although it may be connected; empty: it is not."""
        reasons = (
            "" if self.checker is None else self.checker.explain(pod),
            "" if self.outliers is None else self.outliers.explain(pod, now_s),
        )
        return "; ".join(filter(None, reasons))

    def why_none(self) -> str:
        """Why there are no candidates although there are pods; empty: there are none."""
        if self.checker is None or not self._all:
            return ""
        return "; ".join(f"{pod.endpoint} {self.checker.explain(pod)}" for pod in self._all[:MOST_NAMED_PODS])


class ClusterState:
    """A cluster while some Mapping uses it: its pods and the balancers over them."""

    __slots__ = ("balanced", "cluster", "endpoints", "hints", "pool", "settled")

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.pool = Pool()
        self.endpoints: EndpointSet | None = None
        self.hints: ZoneHints = {}
        self.balanced: WeakValueDictionary[Balancing, Balanced] = WeakValueDictionary()
        """While a Target has it: one of the snapshot in force, or of an RPC that began under an earlier one."""
        self.settled = True
        """Every pod is connected or has failed to once."""

    def publish(self) -> None:
        """To be called when a pod's state, or who is left out, has changed, and at no other time: most never do."""
        pods = tuple(self.pool.serving.values())
        self.settled = all(pod.is_ready() or pod.state is PodState.FAILING for pod in pods)
        connected = usable(pods)
        for balanced in self.balanced.values():
            balanced.update(pods, connected, self.hints)

    def find_checker(self, check: HealthCheck | None) -> HealthChecker | None:
        """The one that makes `check` already, or a new one; None: nothing is to be checked."""
        if check is None:
            return None
        for balanced in self.balanced.values():
            if balanced.checker is not None and balanced.checker.settings == check:
                return balanced.checker
        return HealthChecker(check)

    def explain(self, pod: Pod, now_s: float) -> str:
        """Why Mappings leave out `pod`."""
        if self.pool.arriving.get(pod.endpoint) is pod:
            return "connecting anew; the connection before it serves meanwhile"
        return "; ".join(sorted({balanced.explain(pod, now_s) for balanced in self.balanced.values()} - {""}))
