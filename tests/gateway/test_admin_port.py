"""The admin port of the real gateway, under clients that mean no good."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

import grpc
import httpx
import psutil
import pytest

from examples.greet.server import Pod
from gateway.harness import BASE, HOST, eventually, greet, running_gateway
from gateway.objects import Directory

PROBE_S = 4.0
"""Less than connections that say nothing may stay."""


@pytest.mark.parametrize("engine", ["http2", "generic-handler"])
def test_metrics_tell_what_clients_pods_and_processes_do(
    engine: str, directory: Directory, pods: list[Pod], tmp_path: Path
) -> None:
    with (
        running_gateway("--config", str(directory.path), "--engine", engine, folder=tmp_path, workers=2) as gateway,
        gateway.channel() as channel,
    ):
        greet(channel)
        with pytest.raises(grpc.RpcError):
            channel.unary_unary("/made.Up/Name")(b"")
        assert gateway.metric("rpcs_total", method="Greet", grpc_status="OK", reason="") == 1
        assert gateway.metric("rpcs_total", method="other", grpc_status="UNIMPLEMENTED", reason="no-mapping") == 1
        assert gateway.metric("rpc_response_bytes_total", method="Greet") > 0
        assert gateway.metric("client_connections", port=str(gateway.port)) == 1
        for process in ("control", "worker-0", "worker-1"):
            assert gateway.metric("process_cpu_seconds_total", process=process) > 0
            assert gateway.metric("process_resident_memory_bytes", process=process) > 10_000_000


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


def test_the_token_is_replaced_as_kubelets_replace_a_mounted_secret(directory: Directory, tmp_path: Path) -> None:
    """The file is a link through `..data`, which is swapped. What is no token is refused and said."""
    volume = tmp_path / "secret"
    volume.mkdir()

    def write(version: str, token: str) -> None:
        (volume / version).mkdir()
        (volume / version / "token").write_text(token)
        (volume / "..next").symlink_to(version)
        (volume / "..next").rename(volume / "..data")

    write("1", "first-0123456789")
    (volume / "token").symlink_to("..data/token")
    flags = ("--config", str(directory.path), "--admin-token-file", str(volume / "token"))
    with running_gateway(*flags, folder=tmp_path, ready=False) as gateway:
        gateway.wait_for_admin()

        def ask(token: str) -> httpx.Response:
            url = f"http://{HOST}:{gateway.admin_port}{BASE}/diag/?json=true&filter=errors"
            return httpx.get(url, headers={"authorization": f"Bearer {token}"})

        assert ask("first-0123456789").status_code == 200
        write("2", "second-0123456789")
        eventually(lambda: ask("second-0123456789").status_code == 200, gateway.log)
        assert ask("first-0123456789").status_code == 401
        write("3", "short")
        eventually(lambda: "what was there before stays in use" in ask("second-0123456789").text, gateway.log)
        assert ask("short").status_code == 401
        assert "second" not in gateway.log()
