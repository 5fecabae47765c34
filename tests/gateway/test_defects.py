"""A defect in one part of the control process ends neither the gateway nor what it serves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest
from dataplane.waiting import PATIENCE_S

from gateway.objects import Directory, mapping
from gateway.recording_carrier import RecordingCarrier
from grpcgw.control.control import Control
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.objects import Severity
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import Settings


class FailingCarrier(RecordingCarrier):
    """Cannot take routes to `/fail.Service/`, nor any endpoints."""

    async def apply(self, snapshot: Snapshot) -> None:
        if any("fail" in route.match.value for route in snapshot.routes):
            raise ZeroDivisionError
        await super().apply(snapshot)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        raise ZeroDivisionError


def test_a_snapshot_that_the_carrier_cannot_take_is_a_problem_and_the_last_good_one_serves(
    directory: Directory, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")

    async def scenario() -> None:
        carrier = FailingCarrier()
        control = Control(Settings(config_dir=directory.path, admin_port=0), [carrier])
        running = asyncio.create_task(control.run())

        async def wait_for(condition: Callable[[], bool]) -> None:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    assert not running.done(), "the gateway ended"
                    await asyncio.sleep(0.01)

        async def errors() -> list[str]:
            return [str(problem) for problem in (await control.state()).problems if problem.severity is Severity.ERROR]

        await wait_for(lambda: bool(carrier.version))
        good = carrier.version
        directory.put(mapping("bad", prefix="/fail.Service/"))
        while not (found := await errors()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        assert "recorder: the configuration" in found[0]
        assert "cannot be served, which is a defect of grpcgw" in found[0]
        assert (carrier.version, (await control.state()).snapshot.version) == (good, good)
        directory.put(mapping("bad", prefix="/mended.Service/"))
        await wait_for(lambda: carrier.version != good)
        await asyncio.sleep(0)
        assert await errors() == []
        control.shut_down()
        await running
        assert carrier.closed == 1

    asyncio.run(scenario())
