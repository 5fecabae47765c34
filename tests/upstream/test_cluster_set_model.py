"""Whatever the order of snapshots, endpoint sets and RPCs: no pod is picked after it left, every connection is closed
exactly once in the end, and turns stay fair in between."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grpcgw.model.cluster import DEFAULT_CONNECTION, ConnectionSettings
from grpcgw.model.endpoints import PodState
from grpcgw.routing.targets import Target
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import LINGER_S, Pod
from tests.session.gateway import FakeConnection, destination, endpoints, route, snapshot

CLUSTERS = ("greet", "other")
DRAIN_S = 30.0
HOSTS = st.sets(st.integers(1, 4), max_size=4).map(sorted)


class ServingModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.connections: list[FakeConnection] = []
        self.serving = Serving(self._connect, drain_time_s=DRAIN_S)
        self.now_s = 0.0
        self.versions = 0
        self.mapped: set[str] = set()
        self.connections_to = dict.fromkeys(CLUSTERS, DEFAULT_CONNECTION)
        self.hosts: dict[str, list[int]] = {}
        self.running: list[Pod] = []

    def _connect(self, address: str, settings: ConnectionSettings = DEFAULT_CONNECTION) -> FakeConnection:
        self.connections.append(FakeConnection(address, settings))
        return self.connections[-1]

    def _open(self) -> list[FakeConnection]:
        return [connection for connection in self.connections if not connection.closed]

    @rule(mapped=st.sets(st.sampled_from(CLUSTERS)))
    def snapshot_changes(self, mapped: set[str]) -> None:
        self.versions += 1
        routes = [route(destination(cluster=name), prefix=f"/{name}/") for name in sorted(mapped)]
        wanted = snapshot(*routes, version=str(self.versions))
        clusters = {
            name: replace(cluster, connection=self.connections_to[name]) for name, cluster in wanted.clusters.items()
        }
        self.serving.apply(replace(wanted, clusters=clusters), self.now_s)
        for name in self.mapped - mapped:
            self.hosts.pop(name, None)  # discovery tells again when it is wanted again
        self.mapped = mapped

    @rule(name=st.sampled_from(CLUSTERS), connect_timeout_ms=st.sampled_from((1_000, 2_000)))
    def connection_settings_change(self, name: str, connect_timeout_ms: int) -> None:
        self.connections_to[name] = ConnectionSettings(connect_timeout_ms=connect_timeout_ms)
        self.snapshot_changes(self.mapped)

    @rule(name=st.sampled_from(CLUSTERS), hosts=HOSTS)
    def pods_change(self, name: str, hosts: list[int]) -> None:
        self.serving.set_endpoints(name, endpoints(*hosts), self.now_s)
        self.hosts[name] = hosts

    @precondition(lambda self: self._open())
    @rule(data=st.data(), state=st.sampled_from([PodState.READY, PodState.CONNECTING, PodState.FAILING]))
    def connection_changes(self, data: st.DataObject, state: PodState) -> None:
        data.draw(st.sampled_from(self._open())).connectivity = state

    @rule(name=st.sampled_from(CLUSTERS))
    def rpc_begins(self, name: str) -> None:
        target = self.serving.route(f"/{name}/Method")
        assert isinstance(target, Target) is (name in self.mapped)
        if not isinstance(target, Target):
            return
        pod = target.pick(None)
        assert (pod is None) is not self.hosts.get(name), "an RPC fails only where there is no pod at all"
        if pod is not None:
            self._check_pick(name, pod)
            pod.begin()
            self.running.append(pod)

    def _check_pick(self, name: str, pod: Pod) -> None:
        assert not pod.draining
        assert pod.endpoint in endpoints(*self.hosts[name]).endpoints
        assert isinstance(pod.connection, FakeConnection)
        assert not pod.connection.closed

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def rpc_ends(self, data: st.DataObject) -> None:
        pod = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        pod.end(0.1, "")

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def rpc_cannot_connect(self, data: st.DataObject) -> None:
        self.serving.clusters.note_failure(data.draw(st.sampled_from(self.running)))

    @rule(seconds=st.sampled_from((0.0, 1.0, DRAIN_S)))
    def house_is_kept(self, seconds: float) -> None:
        self.now_s += seconds
        for pod in self.serving.refresh(self.now_s):
            pod.connection.close()
        self._check_that_everything_is_published()

    def _check_that_everything_is_published(self) -> None:
        """Although only what changed was: publishing all of it now changes nothing."""
        before = self._published()
        self.serving.clusters.fill([cluster.name for cluster, _ in self.serving.clusters.in_use()], self.now_s)
        assert self._published() == before

    def _published(self) -> list[object]:
        targets = (self.serving.route(f"/{name}/Method") for name in sorted(self.mapped))
        return [(each.is_connected(), each.can_serve()) for each in targets if isinstance(each, Target)]

    @invariant()
    def settled_is_what_the_pods_say(self) -> None:
        pods = [pod for _, pods in self.serving.clusters.in_use() for pod in pods]
        assert self.serving.clusters.settled() is all(pod.is_ready() or pod.state is PodState.FAILING for pod in pods)

    @rule()
    def connections_that_stand_are_made_as_configured(self) -> None:
        for connection in self._open():
            connection.connectivity = PodState.READY
        self.house_is_kept(0.0)
        for cluster, pods in self.serving.clusters.in_use():
            for pod in pods:
                assert isinstance(pod.connection, FakeConnection)
                assert pod.connection.settings == self.connections_to[cluster.name]

    @invariant()
    def every_open_connection_is_known_once(self) -> None:
        known = [pod.connection for pod in self.serving.clusters.pods()]
        assert sorted(map(id, known)) == sorted(map(id, self._open()))

    @invariant()
    def no_connection_is_closed_twice(self) -> None:
        assert all(connection.closed <= 1 for connection in self.connections)

    @invariant()
    def each_pod_is_connected_to_once(self) -> None:
        serving = [(cluster.name, pod.endpoint) for cluster, pods in self.serving.clusters.in_use() for pod in pods]
        expected = [(name, e) for name in self.mapped for e in endpoints(*self.hosts.get(name, ())).endpoints]
        assert sorted(serving) == sorted(expected)

    @rule(name=st.sampled_from(CLUSTERS))
    def turns_are_strict(self, name: str) -> None:
        target = self.serving.route(f"/{name}/Method")
        if not isinstance(target, Target):
            return
        first = target.pick(None)
        turns = [first]
        while (pod := target.pick(None)) is not first:
            turns.append(pod)
            assert len(set(turns)) == len(turns), "a pod had two turns before another had one"

    def teardown(self) -> None:
        """When nothing is served any more, all is closed, at the drain limit at the latest."""
        self.serving.apply(snapshot(version="last"), self.now_s)
        self.house_is_kept(0.0)
        self.house_is_kept(LINGER_S)
        busy = {pod for pod in self.running if pod in self.serving.clusters.pods()}
        assert len(self._open()) == len(busy)
        self.house_is_kept(DRAIN_S)
        assert self._open() == []
        assert self.serving.clusters.pods() == ()


TestServing = ServingModel.TestCase
