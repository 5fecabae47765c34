"""The admin port of the real gateway, under clients that mean no good."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

import httpx
import psutil

from gateway.harness import BASE, HOST, running_gateway
from gateway.objects import Directory

PROBE_S = 2.0


def test_a_gateway_with_few_descriptors_answers_its_probes_whoever_holds_connections(
    directory: Directory, tmp_path: Path
) -> None:
    with (
        running_gateway("--config", str(directory.path), folder=tmp_path, workers=1) as gateway,
        contextlib.ExitStack() as held,
    ):
        control = psutil.Process(gateway.process.pid)
        few = control.num_fds() + 60
        resource.prlimit(control.pid, resource.RLIMIT_NOFILE, (few, few))
        for _ in range(400):
            held.enter_context(socket.create_connection((HOST, gateway.admin_port)))
        for path in ("check_alive", "check_ready"):
            answer = httpx.get(f"http://{HOST}:{gateway.admin_port}{BASE}/{path}", timeout=PROBE_S)
            assert answer.status_code == 200
        assert "out of system resource" not in gateway.log()
