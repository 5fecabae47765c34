"""Problems of Mappings that the engine cannot serve, be it chosen or fallen back to."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc

from gateway.harness import running_gateway, status_of
from gateway.objects import Directory, mapping
from gateway.recording_carrier import RecordingCarrier
from grpcgw.carriers.carrier import CarrierReport
from grpcgw.control.control import Control
from grpcgw.settings import EngineName, Settings
from grpcgw.telemetry.report import WorkerReport

BY_HOST = mapping("by-host", "/host.Only/", rewrite="/greet.GrpcService/", hostname="api.example.com")
PROBLEM = "Mapping by-host.default: serves no call for api.example.com: the generic-handler engine does not know"


def test_a_mapping_by_host_is_an_error_on_the_engine_that_does_not_know_the_host(
    directory: Directory, tmp_path: Path
) -> None:
    directory.put(BY_HOST)
    arguments = ("--config", str(directory.path), "--engine", "generic-handler")
    with running_gateway(*arguments, folder=tmp_path) as gateway, gateway.channel() as channel:
        (error,) = gateway.errors()
        assert "serves no call for api.example.com" in error
        assert status_of(channel, "/host.Only/Greet")[0] is grpc.StatusCode.UNIMPLEMENTED


def on_another_engine() -> RecordingCarrier:
    """Runs on the generic-handler engine, whatever the settings ask for."""
    worker = WorkerReport(0, 1, EngineName.GENERIC_HANDLER, "", 0.0)
    return RecordingCarrier(said=CarrierReport(workers=(worker,)))


def test_an_engine_that_was_fallen_back_to_is_a_problem_of_the_mappings_too(directory: Directory) -> None:
    directory.put(BY_HOST)

    async def wait_for_problem() -> list[str]:
        settings = Settings(config_dir=directory.path, admin_port=0)
        control = Control(settings, [on_another_engine()])
        running = asyncio.create_task(control.run())
        async with asyncio.timeout(30):
            while not (problems := (await control.state()).problems):  # noqa: ASYNC110 - nothing tells of problems
                await asyncio.sleep(0.01)
        control.shut_down()
        await running
        return [str(problem) for problem in problems]

    (problem,) = asyncio.run(wait_for_problem())
    assert PROBLEM in problem
