"""A defect in one part of the control process ends neither the gateway nor what it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from dataplane.waiting import PATIENCE_S

from gateway.objects import Directory, mapping
from grpcgw.control.control import Control
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.objects import Severity
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import Settings
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.supervisor import HeardPorts


class Stumbling:
    """A data plane that cannot take routes to `/stumble.Service/`, nor any pods."""

    opens_ports = False
    restarts = 0

    def __init__(self) -> None:
        self._configured = asyncio.Event()
        self.ports = HeardPorts()
        self.version = ""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def apply(self, snapshot: Snapshot) -> None:
        if any("stumble" in route.match.value for route in snapshot.routes):
            raise ZeroDivisionError
        self.version = snapshot.version
        self._configured.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        raise ZeroDivisionError

    async def listening(self) -> tuple[int, ...]:
        await self._configured.wait()
        return ()

    async def reports(self) -> tuple[WorkerReport, ...]:
        return ()

    def last_reports(self) -> tuple[WorkerReport, ...]:
        return ()

    async def drain(self, limit_s: float) -> None:
        pass


def test_what_cannot_be_taken_over_is_a_problem_and_the_last_good_configuration_serves(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")

    async def scenario() -> None:
        workers = Stumbling()
        control = Control(Settings(config_dir=directory.path, port=None, tls_port=None, admin_port=0), workers)
        running = asyncio.create_task(control.run())

        async def wait_for(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    assert not running.done(), "the gateway ended"
                    await asyncio.sleep(0.01)

        async def errors() -> list[str]:
            return [str(problem) for problem in (await control.state()).problems if problem.severity is Severity.ERROR]

        await wait_for(lambda: bool(workers.version))
        good = workers.version
        directory.put(mapping("bad", prefix="/stumble.Service/"))
        while not (told := await errors()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert "the configuration cannot be taken over, which is a defect of grpcgw" in told[0]
        assert (workers.version, (await control.state()).snapshot.version) == (good, good)
        directory.put(mapping("bad", prefix="/mended.Service/"))
        await wait_for(lambda: workers.version != good)
        assert await errors() == []
        control.shut_down()
        await running

    asyncio.run(scenario())
