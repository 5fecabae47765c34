"""The greet scenario through the real gateway: strict turns on one connection and over many, in clear and over TLS."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from gateway.harness import HOST, Gateway, greet, running_gateway, running_pods
from gateway.objects import Directory, put_greet
from greet import greet_pb2, greet_pb2_grpc


def assert_turns(hosts: list[str]) -> None:
    assert all(before != after for before, after in pairwise(hosts)), hosts


@pytest.fixture(scope="module", params=["http2", "generic-handler"])
def single(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One worker process, on each engine."""
    with gateway_of(tmp_path_factory.mktemp("single"), 1, "--engine", request.param) as gateway:
        assert [worker["engine"] for worker in gateway.diagnostics("workers")] == [request.param]
        yield gateway


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two worker processes."""
    with gateway_of(tmp_path_factory.mktemp("double"), 2) as gateway:
        assert len(set(gateway.worker_pids())) == 2
        yield gateway


@contextmanager
def gateway_of(folder: Path, workers: int, *arguments: str) -> Iterator[Gateway]:
    directory = Directory(folder / "config")
    with running_pods("pod-1", "pod-2") as pods:
        put_greet(directory, [pod.port for pod in pods])
        arguments = ("--config", str(directory.path), *arguments)
        with running_gateway(*arguments, folder=folder, workers=workers) as gateway:
            yield gateway


def test_pods_take_strict_turns_in_clear_and_over_tls(single: Gateway) -> None:
    trust = ssl.get_server_certificate((HOST, single.tls_port)).encode()
    with single.channel() as clear, single.secure_channel(trust, "localhost") as secure:
        assert_turns([greet(clear) for _ in range(6)] + [greet(secure) for _ in range(6)])


def test_pods_take_strict_turns_for_clients_that_connect_for_each_call(single: Gateway) -> None:
    hosts = []
    for _ in range(6):
        with single.channel() as channel:
            hosts.append(greet(channel))
    assert_turns(hosts)


def test_a_long_lived_client_holds_one_port(single: Gateway) -> None:
    with single.channel() as channel:
        for _ in range(10):
            greet(channel)
        used = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == single.port]
        assert len([connection for connection in used if connection.status == "ESTABLISHED"]) == 1


def test_every_kind_of_rpc_passes(single: Gateway) -> None:
    request = greet_pb2.GreetRequest(input="a")
    with single.channel() as channel:
        stub = greet_pb2_grpc.GrpcServiceStub(channel)
        assert stub.GreetAll(iter([request] * 3)).message.startswith("Got input a, a, a server host: pod-")
        repeated = greet_pb2.GreetRepeatedlyRequest(input="a", repetitions=3)
        assert len({reply.message for reply in stub.GreetRepeatedly(repeated)}) == 1
        assert len(list(stub.GreetEach(iter([request] * 3)))) == 3


def test_two_workers_share_the_turn_of_a_client_that_connects_for_each_call(double: Gateway) -> None:
    command = ["-m", "examples.greet.client_short", "--target", f"127.0.0.1:{double.port}", "--calls", "16"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert_turns(re.findall(r"server host: (\S+)", done.stdout))


def test_two_workers_share_the_turn_of_clients_that_keep_their_connections(double: Gateway) -> None:
    with ExitStack() as stack:
        channels = [stack.enter_context(double.channel()) for _ in range(12)]  # enough that both workers get some
        assert_turns([greet(channel) for _ in range(4) for channel in channels])


def test_a_worker_that_dies_leaves_the_turn_to_the_others_and_its_successor(double: Gateway) -> None:
    before = double.worker_pids()
    psutil.Process(before[0]).kill()
    eventually(lambda: len({*double.worker_pids()} - {0, *before}) == 1, double.log)
    hosts = []
    for _ in range(16):
        with double.channel() as channel:
            hosts.append(greet(channel, wait=True))
    assert_turns(hosts)


def test_metrics_are_one_set_of_numbers_over_all_workers(double: Gateway) -> None:
    method = {"mapping": "grpcserver.default", "service": "greet.GrpcService", "method": "Greet"}

    def numbers() -> list[float]:
        return [
            double.metric("rpcs_total", grpc_status="OK", **method),
            double.metric("rpc_duration_seconds_count", **method),
            double.metric("pod_rpcs_total"),
        ]

    eventually(lambda: double.metric("rpcs_in_flight") == 0)
    before = numbers()
    for _ in range(20):
        with double.channel() as channel:
            greet(channel)
    after = [number + 20 for number in before]
    eventually(lambda: numbers() == after, lambda: f"{before} became {numbers()}")
    eventually(lambda: double.metric("rpcs_in_flight") == 0)
    assert double.metric("workers") == 2


def test_workers_are_pinned_where_each_core_gets_one(double: Gateway) -> None:
    cores = cores_of(psutil.Process())
    pinned = [cores_of(psutil.Process(pid)) for pid in double.worker_pids()]
    assert pinned == ([[core] for core in cores] if len(cores) == 2 else [cores, cores])


def test_only_workers_with_several_busy_threads_are_batch(single: Gateway) -> None:
    (worker,) = single.diagnostics("workers")
    usual = os.sched_getscheduler(0)
    expected = os.SCHED_BATCH if worker["engine"] == "generic-handler" else usual
    assert policies_of(*single.worker_pids()) == {expected}
    assert policies_of(single.process.pid) == {usual}


def policies_of(pid: int) -> set[int]:
    return {os.sched_getscheduler(thread.id) for thread in psutil.Process(pid).threads()}


def cores_of(process: psutil.Process) -> list[int]:
    return process.cpu_affinity() or []
