"""Rate limits of whole gateways: exact over worker processes, and over two gateways with Redis."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from dataplane.waiting import PATIENCE_S, eventually

from gateway.harness import Gateway, greet, running_gateway
from gateway.objects import Directory, mapping
from greet import greet_pb2, greet_pb2_grpc
from tests.redis_server import RedisServer

RATE = 100


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    made = RedisServer(tmp_path, "secret-of-redis")
    yield made
    made.kill()


BURST = "a busy machine stands still for some of the time, which a burst makes up for; it counts once"


def load(
    gateways: Sequence[Gateway], per_s: float, seconds: float, meanwhile: Callable[[], None] | None = None
) -> tuple[float, float]:
    """RPCs at a steady rate over 8 connections to each gateway; returns how many were allowed, per second: of the time
    they took, which is longer on a busy machine, and of `seconds`."""
    with ExitStack() as stack:
        channels = [stack.enter_context(one.channel()) for one in gateways for _ in range(8)]
        calls = [greet_pb2_grpc.GrpcServiceStub(channel).Greet.future for channel in channels]
        for channel in channels:
            grpc.channel_ready_future(channel).result(PATIENCE_S)
        began_s, pending = time.monotonic(), []
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            while len(pending) < per_s * elapsed_s:
                call = calls[len(pending) % len(calls)]
                pending.append(call(greet_pb2.GreetRequest(input="x"), timeout=PATIENCE_S))
            if meanwhile is not None and elapsed_s > seconds / 3:
                meanwhile()
                meanwhile = None
            time.sleep(0.002)
        codes = [one.code() for one in pending]
        took_s = time.monotonic() - began_s
    unexpected = set(codes) - {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
    assert not unexpected
    allowed = codes.count(grpc.StatusCode.OK)
    return allowed / took_s, allowed / seconds


def test_four_workers_together_allow_the_rate(directory: Directory, tmp_path: Path) -> None:
    directory.put(mapping(rate_limit={"rate": RATE, "burst": RATE}))
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=4) as gateway:
        least, most = load([gateway], 2 * RATE, 4.0)
        assert least <= 1.05 * RATE + RATE / 4.0, BURST
        assert most >= 0.95 * RATE


def test_a_worker_that_is_killed_changes_little(directory: Directory, tmp_path: Path) -> None:
    directory.put(mapping(rate_limit={"rate": RATE, "burst": RATE}))
    with running_gateway("--config", str(directory.path), folder=tmp_path, workers=2) as gateway:
        victim = next(one for one in gateway.processes() if one.pid == gateway.worker_pids()[0])
        least, most = load([gateway], 2 * RATE, 4.0, lambda: victim.send_signal(signal.SIGKILL))
        assert least <= 1.05 * RATE + RATE / 4.0, BURST
        assert most >= 0.8 * RATE


def test_two_gateways_share_a_rate_by_redis_and_go_on_without_it(
    directory: Directory, server: RedisServer, tmp_path: Path
) -> None:
    burst = RATE // 2
    directory.put(mapping(rate_limit={"rate": RATE, "burst": burst}))
    password = tmp_path / "password"
    password.write_text("secret-of-redis\n")
    arguments = (
        *("--config", str(directory.path), "--rate-limit-redis", server.url),
        *("--rate-limit-redis-password-file", str(password)),
    )
    with ExitStack() as stack:
        gateways = [stack.enter_context(running_gateway(*arguments, folder=tmp_path, workers=1)) for _ in range(2)]
        for one in gateways:
            with one.channel() as channel:
                greet(channel)
        least, most = load(gateways, 2 * RATE, 3.0)
        if not any("on this machine alone" in one.log() for one in gateways):  # as where the machine is very busy
            assert least <= 1.1 * RATE + burst / 3.0, BURST
            assert most >= 0.9 * RATE
        server.kill()
        assert load(gateways, 4 * RATE, 3.0)[0] <= 2 * (1.1 * RATE + burst / 3.0), "each counts for itself"
        for one in gateways:
            eventually(lambda one=one: one.metric("rate_limit_redis_up") == 0, one.log)  # type: ignore[misc]
            eventually(lambda one=one: any("Redis is away" in error for error in one.errors()), one.log)  # type: ignore[misc]
        server.start()
        for one in gateways:
            eventually(lambda one=one: one.metric("rate_limit_redis_up") == 1, one.log)  # type: ignore[misc]
            eventually(lambda one=one: not one.errors(), one.log)  # type: ignore[misc]
            assert "secret-of-redis" not in one.log()
        assert load(gateways, 2 * RATE, 2.0)[0] <= 1.15 * RATE + burst / 2.0
