"""A gateway with a second carrier beside its workers: both serve the same configuration, each has its own problems."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dataplane.waiting import PATIENCE_S

from gateway.objects import Directory, mapping
from gateway.recording_carrier import RecordingCarrier
from grpcgw.admin.state import GatewayState
from grpcgw.carriers.carrier import CarrierReport, UncarriedRoute
from grpcgw.control.control import Control
from grpcgw.control.factories import make_plan, make_workers
from grpcgw.model.objects import ObjectKey
from grpcgw.settings import Settings

HOST = "127.0.0.1"


async def until(control: Control, holds: Callable[[GatewayState], object]) -> GatewayState:
    """The first state in which it `holds`."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds(state := await control.state()):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return state


def test_a_second_carrier_gets_what_the_workers_get_and_says_which_routes_it_cannot_carry(
    directory: Directory,
) -> None:
    settings = Settings(config_dir=directory.path, address=HOST, port=0, tls_port=None, admin_port=0)

    async def scenario() -> None:
        recorder = RecordingCarrier("recorder")
        control = Control(settings, [make_workers(settings, make_plan(settings)), recorder])
        running = asyncio.create_task(control.run())
        try:
            assert len(await control.listening()) == 1
            state = await until(control, lambda state: state.ready)
            served = recorder.snapshots()
            assert [one.version for one in served] == [state.snapshot.version]
            assert served[0].listeners is None, "as compiled: each carrier decides itself which ports it opens"
            assert [dict(recorder.endpoints()), recorder.events[-1]] == [state.endpoints, served[0]]
            assert state.problems == ()

            directory.put(mapping("other", "/other.Service/"))
            await until(control, lambda state: state.snapshot.version == recorder.version != served[0].version)
            recorder.said = CarrierReport(uncarried=(UncarriedRoute(ObjectKey("Mapping", "default", "other"), "why"),))
            recorder.changed()
            state = await until(control, lambda state: state.problems)
            carried = await until(control, lambda state: state.workers[0].snapshot_version == recorder.version)
            assert carried.problems == state.problems, "the workers carry the route"
            (problem,) = state.problems
            assert str(problem).startswith(str(directory.file("Mapping", "default", "other")))
            assert "Mapping other.default: recorder cannot carry it: why" in str(problem)
        finally:
            control.shut_down()
            await running
        assert (recorder.drained_s, recorder.closed) == (settings.drain_time_s, 1)

    asyncio.run(scenario())
