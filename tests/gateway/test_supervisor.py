"""The supervisor by itself: what it owes a slow worker, and a configuration far larger than usual."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from dataplane.waiting import PATIENCE_S
from hypothesis import given
from hypothesis import strategies as st

from gateway.objects import mapping
from grpcgw.control.control import make_plan
from grpcgw.control.dialects import compile_snapshot
from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.listeners.open_ports import OpenPort
from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.objects import KubeObject, ObjectKey, Source
from grpcgw.model.route_source import CompileOptions
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.settings import Settings
from grpcgw.workers.messages import FRAME, Command, Listening, Refused, SetEndpoints, decode
from grpcgw.workers.supervisor import News, Update, WorkerProcesses, make_update

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


def take(news: News) -> tuple[list[Command], Update | None]:
    endpoints, update = news.take()
    return [decode(frame[FRAME.size :]) for frame in endpoints], update  # type: ignore[misc]


def with_clusters(names: frozenset[str]) -> Snapshot:
    cluster = next(iter(compiled(1).clusters.values()))
    return replace(EMPTY_SNAPSHOT, clusters={name: replace(cluster, name=name) for name in names})


changes = st.one_of(
    st.builds(with_clusters, st.frozensets(st.sampled_from(CLUSTERS))),
    st.tuples(st.sampled_from(CLUSTERS), st.integers(1, 3)),
)


@given(st.lists(changes, max_size=30))
def test_however_much_happened_only_the_newest_of_each_thing_is_told(
    happened: list[Snapshot | tuple[str, int]],
) -> None:
    news, snapshot, endpoints = News(), None, dict[str, EndpointSet]()
    for change in happened:
        if isinstance(change, Snapshot):
            news.apply(make_update(EMPTY_SNAPSHOT, change, {}))
            snapshot, endpoints = change, {name: e for name, e in endpoints.items() if name in change.clusters}
        else:
            name, port = change
            news.set_endpoints(name, pods(port))
            endpoints[name] = pods(port)
    copy = news.copy()
    told, update = take(news)
    assert {m.cluster: m.endpoints for m in told if isinstance(m, SetEndpoints)} == endpoints
    assert len(told) == len(endpoints)
    assert (None if update is None else update.snapshot) == snapshot
    assert take(news) == ([], None), "nothing is told twice"
    assert take(copy) == (told, update)


async def wait_for_version(workers: WorkerProcesses, version: str) -> None:
    async with asyncio.timeout(PATIENCE_S):
        await workers.listening()
        while [report.snapshot_version for report in await workers.reports()] != [version]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running_workers() -> AsyncIterator[WorkerProcesses]:
    """One worker."""
    workers = WorkerProcesses(make_plan(Settings(address="127.0.0.1")), 1, [0, 1])
    running = asyncio.create_task(workers.run())
    try:
        yield workers
        await workers.drain(0.0)
    finally:
        running.cancel()
        await asyncio.wait((running,))


def test_ten_thousand_mappings_reach_a_worker_and_then_what_changes() -> None:
    snapshot = compiled(10_000)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.apply(snapshot)
            for name in snapshot.clusters:
                workers.set_endpoints(name, EndpointSet(()))
            await wait_for_version(workers, snapshot.version)
            for version in ("one less", "two less", "three less"):  # faster than the worker may be told
                snapshot_less = replace(snapshot, version=version, routes=snapshot.routes[: -len(version)])
                await workers.apply(snapshot_less)
            await wait_for_version(workers, "three less")

    asyncio.run(scenario())


def test_a_worker_that_lacks_what_a_change_begins_with_is_told_everything() -> None:
    snapshot = compiled(3)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.apply(snapshot)
            await wait_for_version(workers, snapshot.version)
            forged = replace(snapshot, version="never told")
            workers._newest = workers._children[0]._held = forged  # as a defect would have it
            await workers.apply(replace(snapshot, version="next"))
            await wait_for_version(workers, "next")

    asyncio.run(scenario())


def test_the_ports_of_a_worker_that_died_are_open_again_only_when_its_replacement_says_so() -> None:
    async def scenario() -> None:
        held = HeldPorts("127.0.0.1")
        port = Listener("web", held.hold(0), Transport.CLEAR, SecurityModel.XFP)
        async with running_workers() as workers, asyncio.timeout(PATIENCE_S):
            await workers.apply(replace(compiled(1), listeners=(port,)))
            assert await workers.listening() == (port.port,)
            said = Listening((OpenPort("web", port.port, Transport.CLEAR),))
            assert workers.ports.by_worker == {0: said}
            workers.ports.changed.clear()
            (report,) = await workers.reports()
            os.kill(report.pid, signal.SIGKILL)
            for heard in ({}, {0: said}):
                await workers.ports.changed.wait()
                workers.ports.changed.clear()
                assert workers.ports.by_worker == heard
        held.release()

    asyncio.run(scenario())


def unfit(snapshot: Snapshot) -> Snapshot:
    """What no compiler makes and no worker can serve: a policy that does not exist."""
    (route,) = snapshot.routes
    broken = replace(route.destinations[0], load_balancer=LoadBalancer("fastest"))
    return replace(snapshot, version="unfit", routes=(replace(route, destinations=(broken,)),))


async def wait_for_refusal(workers: WorkerProcesses) -> Refused:
    async with asyncio.timeout(PATIENCE_S):
        while not (refused := [s.refused for s in workers.ports.by_worker.values() if s.refused]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return refused[0]


def test_a_configuration_that_no_worker_can_serve_ends_none_and_the_last_good_one_is_served() -> None:
    good, better = compiled(1), compiled(2)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.apply(good)
            await wait_for_version(workers, good.version)
            await workers.apply(unfit(good))
            refused = await wait_for_refusal(workers)
            assert (refused.mapping, refused.why) == (good.routes[0].destinations[0].mapping, "KeyError: 'fastest'")
            await wait_for_version(workers, good.version)
            (before,) = await workers.reports()
            os.kill(before.pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                while (await workers.reports())[0].pid in (0, before.pid):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await wait_for_version(workers, good.version)  # its successor serves what it served
            assert await wait_for_refusal(workers) == refused
            await workers.apply(better)
            await wait_for_version(workers, better.version)
            assert [said.refused for said in workers.ports.by_worker.values()] == [None]
            assert workers.restarts == 1

    asyncio.run(scenario())


def test_a_first_configuration_that_no_worker_can_serve_is_followed_by_the_next() -> None:
    good = compiled(1)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.apply(unfit(good))
            await wait_for_refusal(workers)
            await workers.apply(good)
            await wait_for_version(workers, good.version)
            assert workers.restarts == 0

    asyncio.run(scenario())
