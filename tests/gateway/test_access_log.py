"""`grpcgw run --access-log`: lines on the gateway's stdout, of every worker, in the format the Module asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from dataplane.waiting import eventually

from gateway.harness import Gateway, greet, running_gateway, status_of
from gateway.objects import Body, Directory


class Stdout:
    """What the gateway has written to this test's stdout."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture
        self._text = ""

    def lines(self) -> list[str]:
        self._text += self._capture.readouterr().out
        return [line for line in self._text.split("\n")[:-1] if line]


@pytest.fixture
def stdout(capfd: pytest.CaptureFixture[str]) -> Stdout:
    return Stdout(capfd)


def module(**config: Any) -> Body:
    return {
        "apiVersion": "getambassador.io/v2",
        "kind": "Module",
        "metadata": {"name": "ambassador", "namespace": "default"},
        "spec": {"config": config},
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_every_rpc_leaves_one_line_and_the_last_ones_too(
    stdout: Stdout, directory: Directory, tmp_path: Path, workers: int
) -> None:
    arguments = ("--config", str(directory.path), "--access-log", "json")
    with running_gateway(*arguments, folder=tmp_path, workers=workers) as gateway, gateway.channel() as channel:
        for _ in range(6):
            greet(channel)
        status_of(channel, "/none.S/M")
    lines = [json.loads(line) for line in stdout.lines()]
    assert sorted(line["method"] for line in lines) == ["/greet.GrpcService/Greet"] * 6 + ["/none.S/M"]
    greeted = [line for line in lines if line["mapping"] == "grpcserver.default"]
    assert {line["status"] for line in greeted} == {"OK"}
    assert len({line["pod"] for line in greeted}) == 2
    assert [line["reason"] for line in lines if line["mapping"] is None] == ["no-mapping"]


def test_the_module_chooses_the_format_while_the_gateway_runs(
    stdout: Stdout, directory: Directory, tmp_path: Path
) -> None:
    arguments = ("--config", str(directory.path), "--access-log", "json")
    with running_gateway(*arguments, folder=tmp_path) as gateway, gateway.channel() as channel:
        before = gateway.version()
        directory.put(module(envoy_log_format="%GRPC_STATUS(SNAKE_STRING)% of %ROUTE_NAME%"))
        eventually(lambda: gateway.version() != before, gateway.log)

        def is_logged_so() -> bool:
            greet(channel)
            return "OK of grpcserver.default" in stdout.lines()

        eventually(is_logged_so, gateway.log)
        assert gateway.metric("access_log_dropped_total") == 0


def test_without_the_flag_nothing_is_written(stdout: Stdout, gateway: Gateway) -> None:
    with gateway.channel() as channel:
        greet(channel)
    assert stdout.lines() == []
