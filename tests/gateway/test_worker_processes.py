"""The carrier of worker processes by itself: replaced workers, refused snapshots, and a very large configuration."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

from dataplane.waiting import PATIENCE_S

from gateway.objects import mapping
from grpcgw.carriers.carrier import CarrierReport, ServedPort
from grpcgw.control.dialects import compile_snapshot
from grpcgw.control.factories import make_data_ports, make_plan
from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.model.balancing import LoadBalancer
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.listener import Listener, SecurityModel, Transport
from grpcgw.model.objects import KubeObject, ObjectKey, Source
from grpcgw.model.route_source import CompileOptions
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import Settings
from grpcgw.workers.processes import WorkerProcesses

HOST = "127.0.0.1"


def compiled(count: int) -> Snapshot:
    bodies = [mapping(f"m{number}", f"/p{number}.S/", f"s{number}", resolver="endpoint") for number in range(count)]
    objects = [
        KubeObject(body["apiVersion"], ObjectKey("Mapping", "default", body["metadata"]["name"]), body, Source("test"))
        for body in bodies
    ]
    return compile_snapshot(objects, {}, CompileOptions(now=None)).snapshot


class RunningWorkers:
    """One worker process, and an event for each change of its report."""

    def __init__(self) -> None:
        settings = Settings(address=HOST, port=None, tls_port=None)
        self.carrier = WorkerProcesses(make_plan(settings), 1, [0, 1], make_data_ports(settings))
        self.changed = asyncio.Event()

    async def until(self, holds: Callable[[CarrierReport], bool]) -> CarrierReport:
        """The first report, with fresh counters, that `holds`."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(report := await self.carrier.collect()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return report

    async def until_serves(self, version: str) -> CarrierReport:
        def serves(report: CarrierReport) -> bool:
            return report.version == version and [w.snapshot_version for w in report.workers] == [version]

        return await self.until(serves)


@asynccontextmanager
async def running_workers() -> AsyncIterator[RunningWorkers]:
    workers = RunningWorkers()
    running = asyncio.create_task(workers.carrier.run(workers.changed.set, lambda _: None))
    try:
        yield workers
        await workers.carrier.drain(0.0)
    finally:
        running.cancel()
        await asyncio.wait((running,))
        workers.carrier.close()


def test_ten_thousand_mappings_reach_a_worker_and_then_what_changes() -> None:
    snapshot = compiled(10_000)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.carrier.apply(snapshot)
            for name in snapshot.clusters:
                workers.carrier.set_endpoints(name, EndpointSet(()))
            await workers.until_serves(snapshot.version)
            for version in ("one less", "two less", "three less"):  # faster than the worker may take them
                snapshot_less = replace(snapshot, version=version, routes=snapshot.routes[: -len(version)])
                await workers.carrier.apply(snapshot_less)
            await workers.until_serves("three less")

    asyncio.run(scenario())


def test_a_worker_that_lacks_the_base_of_a_difference_gets_the_whole_snapshot() -> None:
    snapshot = compiled(3)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.carrier.apply(snapshot)
            await workers.until_serves(snapshot.version)
            forged = replace(snapshot, version="never sent")
            workers.carrier._newest = workers.carrier._slots[0].delivery._sent = forged  # as a defect would have it
            await workers.carrier.apply(replace(snapshot, version="next"))
            await workers.until_serves("next")

    asyncio.run(scenario())


def test_the_ports_of_a_worker_that_died_are_open_again_only_when_its_replacement_says_so() -> None:
    async def scenario() -> None:
        held = HeldPorts(HOST)
        port = Listener("web", held.hold(0), Transport.CLEAR, SecurityModel.XFP)
        held.release()
        async with running_workers() as workers:
            await workers.carrier.apply(replace(compiled(1), listeners=(port,)))
            open_port = (ServedPort("web", HOST, port.port, Transport.CLEAR),)
            report = await workers.until(lambda report: report.started and bool(report.workers))
            assert (report.ports, report.ready) == (open_port, True)
            workers.changed.clear()
            os.kill(report.workers[0].pid, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                for ports in ((), open_port):
                    await workers.changed.wait()
                    workers.changed.clear()
                    report = workers.carrier.report()
                    assert (report.ports, report.ready, report.started) == (ports, bool(ports), True)

    asyncio.run(scenario())


def test_a_port_that_another_program_has_is_in_the_report_and_is_opened_later() -> None:
    async def scenario() -> None:
        other_program = HeldPorts(HOST)
        port = Listener("web", other_program.hold(0), Transport.CLEAR, SecurityModel.XFP)
        snapshot = replace(compiled(1), listeners=(port,))
        async with running_workers() as workers:
            workers.carrier._retry_ports_s = 0.01
            await workers.carrier.apply(snapshot)
            report = await workers.until_serves(snapshot.version)
            (fault,) = report.port_faults
            assert (fault.listener, report.ready) == ("web", False)
            assert f"cannot listen on {HOST}:{port.port}" in fault.why
            other_program.release()
            report = await workers.until(lambda report: report.ready)
            assert ([each.number for each in report.ports], report.port_faults) == ([port.port], ())
            assert report.version == snapshot.version, "the same snapshot"

    asyncio.run(scenario())


def unfit(snapshot: Snapshot) -> Snapshot:
    """What no compiler makes and no worker can serve: a policy that does not exist."""
    (route,) = snapshot.routes
    good = route.destinations[0]
    broken = replace(good, balancing=replace(good.balancing, load_balancer=LoadBalancer("fastest")))
    return replace(snapshot, version="unfit", routes=(replace(route, destinations=(broken,)),))


def refuses(report: CarrierReport) -> bool:
    return bool(report.refused)


def test_a_snapshot_that_no_worker_can_serve_ends_none_and_the_last_good_one_is_served() -> None:
    good, better = compiled(1), compiled(2)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.carrier.apply(good)
            await workers.until_serves(good.version)
            await workers.carrier.apply(unfit(good))
            (refused,) = (await workers.until(refuses)).refused
            assert (refused.key, refused.why) == (good.routes[0].destinations[0].key, "KeyError: 'fastest'")
            assert refused.by == "worker 0"
            (before,) = (await workers.until_serves(good.version)).workers
            os.kill(before.pid, signal.SIGKILL)
            await workers.until(lambda report: report.workers[0].pid not in (0, before.pid))
            await workers.until_serves(good.version)  # the replacement serves what its predecessor served
            assert (await workers.until(refuses)).refused == (refused,)
            await workers.carrier.apply(better)
            report = await workers.until_serves(better.version)
            assert (report.refused, report.restarts) == ((), 1)

    asyncio.run(scenario())


def test_a_first_snapshot_that_no_worker_can_serve_is_followed_by_the_next() -> None:
    good = compiled(1)

    async def scenario() -> None:
        async with running_workers() as workers:
            await workers.carrier.apply(unfit(good))
            await workers.until(refuses)
            await workers.carrier.apply(good)
            report = await workers.until_serves(good.version)
            assert report.restarts == 0

    asyncio.run(scenario())
