"""The greet scenario through the real gateway: strict turns on one connection and over many, in clear and over TLS."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import grpc
import psutil
import pytest

from gateway.harness import HOST, Gateway, greet, running_gateway
from gateway.objects import Directory
from greet import greet_pb2, greet_pb2_grpc

ENGINES = ("completion-queue", "generic-handler")


def assert_turns(hosts: list[str]) -> None:
    assert all(before != after for before, after in pairwise(hosts)), hosts


def secure_channel(gateway: Gateway) -> grpc.Channel:
    shown = ssl.get_server_certificate((HOST, gateway.tls_port))
    return gateway.secure_channel(shown.encode(), "localhost")


@pytest.mark.parametrize("engine", ENGINES)
def test_pods_take_strict_turns_in_clear_and_over_tls(engine: str, directory: Directory, tmp_path: Path) -> None:
    with running_gateway(
        "--config", str(directory.path), "--engine", engine, folder=tmp_path, workers=1
    ) as gateway, ExitStack() as stack:
        assert [worker["engine"] for worker in gateway.diagnostics("workers")] == [engine]
        for channel in (gateway.channel(), secure_channel(gateway)):
            stack.enter_context(channel)
            assert_turns([greet(channel) for _ in range(6)])
        hosts = []
        for _ in range(6):
            with gateway.channel() as channel:
                hosts.append(greet(channel))
        assert_turns(hosts)


def test_a_long_lived_client_holds_one_port(gateway: Gateway) -> None:
    with gateway.channel() as channel:
        for _ in range(10):
            greet(channel)
        used = [c for c in psutil.Process().net_connections("tcp") if c.raddr and c.raddr.port == gateway.port]
        assert len(used) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_every_kind_of_rpc_passes(engine: str, directory: Directory, tmp_path: Path) -> None:
    request = greet_pb2.GreetRequest(input="a")
    with running_gateway("--config", str(directory.path), "--engine", engine, folder=tmp_path) as gateway:
        with gateway.channel() as channel:
            stub = greet_pb2_grpc.GrpcServiceStub(channel)
            assert stub.GreetAll(iter([request] * 3)).message.startswith("Got input a, a, a server host: pod-")
            repeated = greet_pb2.GreetRepeatedlyRequest(input="a", repetitions=3)
            assert len({reply.message for reply in stub.GreetRepeatedly(repeated)}) == 1
            assert len(list(stub.GreetEach(iter([request] * 3)))) == 3


def test_with_two_workers_each_takes_strict_turns_and_begins_at_another_pod(
    directory: Directory, tmp_path: Path
) -> None:
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        assert len(set(gateway.worker_pids())) == 2
        runs = []
        with ExitStack() as stack:
            for _ in range(12):  # enough that both workers get some
                channel = stack.enter_context(gateway.channel())
                runs.append([greet(channel) for _ in range(4)])
        for run in runs:
            assert_turns(run)
        assert Counter(host for run in runs for host in run) == {"pod-1": 24, "pod-2": 24}


def test_metrics_are_one_set_of_numbers_over_all_workers(directory: Directory, tmp_path: Path) -> None:
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        for _ in range(20):
            with gateway.channel() as channel:
                greet(channel)
        labels = {"mapping": "grpcserver.default", "service": "greet.GrpcService", "method": "Greet"}
        assert gateway.metric("rpcs_total", grpc_status="OK", **labels) == 20
        assert gateway.metric("rpc_duration_seconds_count", **labels) == 20
        assert gateway.metric("pod_rpcs_total") == 20
        assert gateway.metric("rpcs_in_flight") == 0
        assert gateway.metric("workers") == 2


def test_workers_are_pinned_where_each_core_gets_one(directory: Directory, tmp_path: Path) -> None:
    cores = psutil.Process().cpu_affinity()
    assert cores
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=len(cores)) as gateway:
        pinned = [psutil.Process(pid).cpu_affinity() for pid in gateway.worker_pids()]
        assert pinned == [[core] for core in cores]
