"""The supervisor by itself: what it owes a slow worker, and a configuration far larger than usual."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from dataplane.waiting import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from gateway.objects import mapping
from grpcgw.app import make_plan
from grpcgw.config.compile import CompileOptions, compile_snapshot
from grpcgw.config.endpoint import Endpoint, EndpointSet
from grpcgw.config.objects import KubeObject, ObjectKey, Source
from grpcgw.config.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.ports import HeldPorts
from grpcgw.settings import Settings
from grpcgw.workers.messages import FRAME, ApplySnapshot, Command, SetEndpoints, decode, encode
from grpcgw.workers.supervisor import News, WorkerProcesses

CLUSTERS = ("a", "b", "c")


def compiled(count: int) -> Snapshot:
    bodies = [mapping(f"m{number}", f"/p{number}.S/", f"s{number}", resolver="endpoint") for number in range(count)]
    objects = [
        KubeObject(body["apiVersion"], ObjectKey("Mapping", "default", body["metadata"]["name"]), body, Source("test"))
        for body in bodies
    ]
    return compile_snapshot(objects, {}, CompileOptions(now=None)).snapshot


def pods(port: int) -> EndpointSet:
    return EndpointSet((Endpoint("127.0.0.1", port),))


def messages(news: News) -> list[Command]:
    return [decode(frame[FRAME.size :]) for frame in news.take()]  # type: ignore[misc]


def with_clusters(names: frozenset[str]) -> Snapshot:
    cluster = next(iter(compiled(1).clusters.values()))
    return replace(EMPTY_SNAPSHOT, clusters={name: replace(cluster, name=name) for name in names})


changes = st.one_of(
    st.builds(with_clusters, st.frozensets(st.sampled_from(CLUSTERS))),
    st.tuples(st.sampled_from(CLUSTERS), st.integers(1, 3)),
)


@given(st.lists(changes, max_size=30))
def test_however_much_happened_only_the_newest_of_each_thing_is_told_and_pods_before_routes(
    happened: list[Snapshot | tuple[str, int]],
) -> None:
    news, snapshot, endpoints = News(), None, dict[str, EndpointSet]()
    for change in happened:
        if isinstance(change, Snapshot):
            news.apply(change, encode(ApplySnapshot(change)))
            snapshot, endpoints = change, {name: e for name, e in endpoints.items() if name in change.clusters}
        else:
            name, port = change
            news.set_endpoints(name, pods(port))
            endpoints[name] = pods(port)
    copy = news.copy()
    told = messages(news)
    assert {m.cluster: m.endpoints for m in told if isinstance(m, SetEndpoints)} == endpoints
    assert [m.snapshot for m in told if isinstance(m, ApplySnapshot)] == ([] if snapshot is None else [snapshot])
    assert len(told) == len(endpoints) + (snapshot is not None)
    assert snapshot is None or isinstance(told[-1], ApplySnapshot)
    assert messages(news) == [], "nothing is told twice"
    assert messages(copy) == told


def test_ten_thousand_mappings_reach_a_worker() -> None:
    snapshot = compiled(10_000)

    async def scenario() -> None:
        settings = Settings(address="127.0.0.1", port=0, tls_port=None)
        held = HeldPorts(settings.address, settings.port, settings.tls_port)
        workers = WorkerProcesses(make_plan(settings, *held.numbers), 1, [0, 1])
        running = asyncio.create_task(workers.run())
        await workers.apply(snapshot)
        for name in snapshot.clusters:
            workers.set_endpoints(name, EndpointSet(()))
        async with asyncio.timeout(PATIENCE_S):
            assert await workers.listening() == held.numbers[:1]
            while [report.snapshot_version for report in await workers.reports()] != [snapshot.version]:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await workers.drain(0.0)
        running.cancel()
        await asyncio.wait((running,))
        held.release()

    asyncio.run(scenario())
