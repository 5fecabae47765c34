"""Processes: how the gateway starts, ends, and lives through the death of its parts."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.forked import Grpcgw
from gateway.harness import HOST, Gateway, Stream, greet, running_gateway, status_of, traffic
from gateway.objects import Directory, endpoint_slice, mapping, remove_pod


@pytest.fixture
def double(directory: Directory, tmp_path: Path) -> Iterator[Gateway]:
    """Two workers."""
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        yield gateway


@contextmanager
def connections(gateway: Gateway) -> Iterator[dict[int, grpc.Channel]]:
    """A connection to every worker, by its pid: which worker gets a connection is the system's choice."""
    with ExitStack() as stack:
        found: dict[int, grpc.Channel] = {}
        known = own_ports(gateway)
        wanted = set(gateway.worker_pids())
        while found.keys() != wanted:
            channel = stack.enter_context(gateway.channel())
            greet(channel)
            (port,) = own_ports(gateway) - known
            known.add(port)
            found.setdefault(next(pid for pid in wanted if port in peers_of(pid)), channel)
        yield found


def own_ports(gateway: Gateway) -> set[int]:
    """The ports of this process's connections to the gateway."""
    return {
        c.laddr.port
        for c in psutil.Process().net_connections("tcp")
        if c.raddr and c.raddr.port == gateway.port and c.status == "ESTABLISHED"
    }


def peers_of(pid: int) -> set[int]:
    return {c.raddr.port for c in psutil.Process(pid).net_connections("tcp") if c.raddr}


def is_replaced(gateway: Gateway, pid: int) -> bool:
    pids = gateway.worker_pids()
    return pid not in pids and 0 not in pids


# --- a worker dies


def test_a_killed_worker_is_replaced_and_the_others_fail_nothing(double: Gateway, directory: Directory) -> None:
    with connections(double) as channels:
        victim, survivor = channels
        for channel in channels.values():
            for _ in range(5):
                greet(channel)
        eventually(lambda: double.metric("rpcs_total") >= 10)
        before = double.metric("rpcs_total")
        with Stream(channels[survivor]) as stream:
            host = stream.echo()
            psutil.Process(victim).kill()
            while not is_replaced(double, victim):
                assert greet(channels[survivor])
                assert double.metric("rpcs_total") >= before, "counters never go back"
            assert stream.echo() == host
        assert survivor in double.worker_pids()
    assert double.metric("rpcs_total") >= before
    assert double.metric("worker_restarts_total") == 1
    assert {worker["restarts"] for worker in double.diagnostics("workers")} == {0, 1}
    directory.put(mapping("another", "/another.S/"))
    eventually(lambda: len(double.diagnostics("route_info")) == 2, "a new configuration")
    eventually(lambda: versions(double) == {double.version()}, "every worker serves it")


def test_counters_of_a_pod_outlive_its_absence_and_the_death_of_its_worker(
    directory: Directory, pods: list[Pod], tmp_path: Path
) -> None:
    port = pods[0].port

    def counted() -> float:
        return gateway.metric("pod_rpcs_total", pod=f"{HOST}:{port}")

    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=1) as gateway:
        with gateway.channel() as channel:
            for _ in range(10):
                greet(channel)
        eventually(lambda: counted() == 5)
        remove_pod(directory, port)
        eventually(lambda: counted() == 0, "the pod is gone")
        (pid,) = gateway.worker_pids()
        psutil.Process(pid).kill()
        eventually(lambda: is_replaced(gateway, pid))
        directory.put(endpoint_slice(port))
        eventually(lambda: port in gateway.pod_ports(), "the pod is back")
        eventually(lambda: counted() == 5, "its counter goes on where it was")


def versions(gateway: Gateway) -> set[str]:
    return {worker["configuration_version"] for worker in gateway.diagnostics("workers")}


def test_under_load_only_the_dead_workers_own_connections_notice(double: Gateway) -> None:
    with traffic(double, reconnect=True) as load:
        victim = double.worker_pids()[0]
        psutil.Process(victim).kill()
        eventually(lambda: is_replaced(double, victim), double.log)
        so_far = load.calls
        faults = len(load.faults)
        eventually(lambda: load.calls > so_far + 50, "traffic flows")
        assert len(load.faults) == faults, load.faults
    # Four clients, one RPC each at a time: what they had with the dead worker, and what waited at its door.
    assert len(load.faults) <= 8, load.faults


def test_a_worker_that_is_told_to_end_finishes_its_rpcs_and_is_replaced_meanwhile(double: Gateway) -> None:
    with connections(double) as channels:
        victim = next(iter(channels))
        with Stream(channels[victim]) as stream:
            host = stream.echo()
            psutil.Process(victim).terminate()
            eventually(lambda: is_replaced(double, victim), double.log)
            assert stream.echo() == host
            stream.close()
            assert stream.status() == (grpc.StatusCode.OK, "")
        eventually(lambda: victim not in [process.pid for process in double.processes()], "its last RPC is over")


def test_a_dying_worker_is_replaced_with_growing_pauses(double: Gateway) -> None:
    for deaths in (1, 2, 3):
        pid = double.worker_pids()[0]
        psutil.Process(pid).kill()
        eventually(lambda: is_replaced(double, pid), double.log)  # noqa: B023 - ends in the round
        assert double.metric("worker_restarts_total") == deaths
    pauses = [line.rpartition(" in ")[2] for line in double.log().splitlines() if "it is replaced in" in line]
    assert pauses == ["0.1 s", "0.2 s", "0.4 s"]


def test_a_stopped_worker_holds_up_no_other_and_has_the_latest_snapshot_afterwards(
    double: Gateway, directory: Directory
) -> None:
    victim = double.worker_pids()[0]
    psutil.Process(victim).suspend()
    try:
        for number in range(20):
            directory.put(mapping(f"m{number}", f"/p{number}.S/"))
        eventually(lambda: len(double.diagnostics("route_info")) == 21, "the other worker and the page go on")
        assert len(double.worker_pids()) == 2, "shown with its last report"
    finally:
        psutil.Process(victim).resume()
    eventually(lambda: versions(double) == {double.version()}, "it has caught up")
    assert victim in double.worker_pids()


def test_without_the_control_process_the_workers_end(double: Gateway) -> None:
    with double.channel() as channel, Stream(channel) as stream:
        host = stream.echo()
        double.process.kill()
        double.wait()
        assert stream.echo() == host, "what runs is finished"
        stream.close()
        assert stream.status() == (grpc.StatusCode.OK, "")
    eventually(lambda: not double.processes(), "no orphans")


# --- the gateway ends


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 1), (signal.SIGTERM, 0)])
def test_told_to_end_it_refuses_the_new_and_finishes_what_runs(
    number: signal.Signals, workers: int, directory: Directory, tmp_path: Path
) -> None:
    arguments = ("--config", str(directory.path), "--drain-time", "3")
    with (
        running_gateway(*arguments, folder=tmp_path, workers=workers) as gateway,
        gateway.channel() as channel,
        Stream(channel) as short,
        Stream(channel) as endless,
    ):
        hosts = [short.echo(), endless.echo()]
        gateway.signal(number)
        eventually(lambda: not gateway.is_ready(), "not ready")
        status, text = gateway.get("/ambassador/v0/check_ready")
        assert (status, "draining" in text) == (503, True)
        assert [short.echo(), endless.echo()] == hosts
        short.close()
        assert short.status() == (grpc.StatusCode.OK, "")
        assert end_of(endless) == (grpc.StatusCode.UNAVAILABLE, "the gateway's drain time is over")
        assert gateway.wait() == 0
        eventually(lambda: not gateway.processes(), "no process is left")


def end_of(stream: Stream) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError):
        stream.status()
    return stream.call.code(), stream.call.details()


@pytest.mark.parametrize("engine", ["http2", "generic-handler"])
def test_told_to_end_under_load_no_rpc_that_was_taken_fails(engine: str, directory: Directory, tmp_path: Path) -> None:
    arguments = ("--config", str(directory.path), "--engine", engine)
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway, traffic(gateway) as load:
        gateway.signal(signal.SIGTERM)
        assert gateway.wait() == 0
        load.end()
    # Refused, never broken off: told so, or nobody listens any more. What meets the goodbye on its way grpc core
    # cancels by itself, unseen by any handler: of each connection at most the one RPC that was being sent.
    met = load.faults.count("CANCELLED: CANCELLED")
    refused = [fault for fault in load.faults if fault.startswith("UNAVAILABLE: ")]
    assert met <= 4
    assert met + len(refused) == len(load.faults), load.faults


# --- the gateway does not start


def refusal(*arguments: str) -> tuple[int, str]:
    """Exit code and stderr of a gateway that cannot start."""
    with tempfile.TemporaryFile() as stderr:
        code = Grpcgw(("run", "--address", HOST, "--log-level", "error", *arguments), stderr).wait(PATIENCE_S)
        stderr.seek(0)
        return code, stderr.read().decode()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_second_gateway_on_the_same_ports_is_refused(gateway: Gateway, directory: Directory, workers: str) -> None:
    config = ("--config", str(directory.path), "--workers", workers)
    assert gateway.port != gateway.tls_port
    for ports in (
        ("--port", str(gateway.port), "--tls-port", "0", "--admin-port", "0"),
        ("--port", "0", "--tls-port", str(gateway.tls_port), "--admin-port", "0"),
        ("--port", "0", "--tls-port", "0", "--admin-port", str(gateway.admin_port)),
    ):
        code, said = refusal(*config, *ports)
        assert (code, said.count("\n"), said.startswith("grpcgw: ")) == (1, 1, True), said
        assert "in use" in said
    with gateway.channel() as channel:
        assert status_of(channel)[0] is grpc.StatusCode.OK


def test_one_port_for_clear_text_and_tls_is_refused(gateway: Gateway, directory: Directory) -> None:
    port = str(gateway.port + 1)
    code, said = refusal("--config", str(directory.path), "--port", port, "--tls-port", port, "--admin-port", "0")
    assert (code, said.count("\n")) == (1, 1), said


def test_a_configuration_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    ports = ("--port", "0", "--tls-port", "0", "--admin-port", "0", "--workers", "2")
    code, said = refusal("--config", str(tmp_path / "nowhere"), *ports)
    assert (code, "nowhere" in said) == (2, True), said
    broken = tmp_path / "kubeconfig"
    broken.write_text("clusters: [")
    code, said = refusal("--kubernetes", "--kubeconfig", str(broken), *ports)
    assert (code, said.count("\n"), "kubeconfig" in said) == (1, 1, True), said
