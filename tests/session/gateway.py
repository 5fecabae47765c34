"""A gateway without sockets: a real `Serving`, whose connections to pods are values that a test sets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpcgw.balancer.base import Outcome
from grpcgw.listeners.open_ports import SOME_PORT, PortView
from grpcgw.model.balancing import Balancing, HealthCheck
from grpcgw.model.cluster import DEFAULT_CONNECTION, Cluster, ConnectionSettings, ResolverKind, ServiceRef
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, Route, WeightedCluster
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod

SERVICE = "/greet.GrpcService/"
LABEL = "grpcserver.default"


class FakeConnection:
    """A channel whose state the test decides."""

    def __init__(self, address: str, settings: ConnectionSettings = DEFAULT_CONNECTION) -> None:
        self.address, self.settings = address, settings
        self.connectivity = PodState.READY
        self.closed = 0
        self.checks: list[tuple[HealthCheck, Callable[[str], None]]] = []

    def state(self) -> PodState:
        assert not self.closed, "a closed connection was looked at"
        return self.connectivity

    def set_other_address(self, address: str) -> None: ...

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        assert not self.closed, "a closed connection was checked"
        self.checks.append((check, report))

    def close(self) -> None:
        self.closed += 1


BALANCING_FIELDS = {"load_balancer", "health_check", "outlier_detection"}


def cluster(name: str = "greet") -> Cluster:
    return Cluster(name, ResolverKind.KUBERNETES_ENDPOINT, "resolver", ServiceRef(name, "default", 50051))


def destination(name: str = "grpcserver", **fields: Any) -> Destination:
    """Fields of `Balancing` may be given as if they were the destination's, and `cluster` for its only one."""
    balancing = {one: fields.pop(one) for one in BALANCING_FIELDS & fields.keys()}
    clusters = fields.pop("clusters", (WeightedCluster(fields.pop("cluster", "greet")),))
    values = {"key": ObjectKey("Mapping", "default", name), "clusters": clusters, "balancing": Balancing(**balancing)}
    return Destination(**{**values, **fields})


def route(*destinations: Destination, prefix: str = SERVICE, kind: MatchKind = MatchKind.PREFIX) -> Route:
    """Weights are percent, as those of Mappings."""
    served = destinations or (destination(),)
    unrouted = 100 - sum(one.weight for one in served)
    return Route(f"Mapping {prefix}", PathMatch(kind, prefix), 0, served, unrouted_weight=unrouted)


def snapshot(*routes: Route, version: str = "1") -> Snapshot:
    used = [each for route in routes for each in (*route.all_destinations(), *route.policy_upstreams())]
    names = sorted({one.cluster for destination in used for one in destination.clusters})
    return Snapshot(version, routes, {name: cluster(name) for name in names})


def endpoints(*hosts: int) -> EndpointSet:
    """`endpoints(1, 2)`: 10.0.0.1:50051 and 10.0.0.2:50051."""
    return EndpointSet(tuple(Endpoint(f"10.0.0.{host}", 50051) for host in hosts))


class WatchedTarget:
    """A `Target` that notes what was picked and what was done, to be compared."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.picked: list[Pod] = []
        self.done_with: list[tuple[Pod, Outcome]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)

    def pick(self, avoid: Pod | None, key: int | None = None) -> Pod | None:
        pod = self._target.pick(avoid, key)
        if pod is not None:
            self.picked.append(pod)
        return pod

    def done(self, pod: Pod, outcome: Outcome, now_s: float) -> None:
        self.done_with.append((pod, outcome))
        self._target.done(pod, outcome, now_s)


class Gateway(Serving):
    """Serves one Mapping over pods `10.0.0.1`, `10.0.0.2`, …, all connected."""

    def __init__(self, pods: int = 1, catalogue: Catalogue = CATALOGUE, **mapping: Any) -> None:
        super().__init__(FakeConnection, catalogue=catalogue)
        self.targets: list[WatchedTarget] = []
        self.apply(snapshot(route(destination(**mapping))), 0.0)
        self.set_endpoints("greet", endpoints(*range(1, pods + 1)), 0.0)
        self.refresh(0.0)

    def route(
        self, path: str, authority: str = "", metadata: Metadata = (), port: PortView = SOME_PORT
    ) -> Target | Deny:
        target = super().route(path, authority, metadata, port)
        if isinstance(target, Deny):
            return target
        watched = WatchedTarget(target)
        self.targets.append(watched)
        return watched  # type: ignore[return-value]  # stands in for the target it wraps

    def pods(self) -> tuple[Pod, ...]:
        return self.clusters.pods()

    def pod(self, host: int) -> Pod:
        return next(pod for pod in self.pods() if pod.endpoint.address == f"10.0.0.{host}")
