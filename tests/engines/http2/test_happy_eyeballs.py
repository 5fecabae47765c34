"""Pods with an address of each IP family: which is tried when, and that the first one that answers counts."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvloop
from dataplane.lab import Lab
from dataplane.scripted_pod import ScriptedPod, refusing
from dataplane.waiting import PATIENCE_S, eventually

from grpcgw.engines.http2.happy_eyeballs import DELAY_S, Race, connect_first
from grpcgw.model.endpoints import Endpoint, EndpointSet

SIX = "::1"


def test_attempts_begin_one_after_the_other_while_none_answers() -> None:
    race = Race(3, 10.0)
    assert (race.begin(10.0), race.begin(10.0)) == (0, None)
    assert race.wait_s(10.0) == DELAY_S
    assert race.begin(10.0 + DELAY_S) == 1
    assert race.wait_s(10.1 + DELAY_S) == pytest.approx(DELAY_S - 0.1)
    assert race.begin(10.0 + 2 * DELAY_S) == 2
    assert (race.begin(20.0), race.wait_s(20.0)) == (None, None)


def test_the_next_attempt_begins_at_once_where_all_before_it_have_failed() -> None:
    race = Race(3, 0.0)
    assert race.begin(0.0) == 0
    race.fail()
    assert race.begin(0.01) == 1
    assert race.begin(0.02) is None
    assert race.begin(0.01 + DELAY_S) == 2, "the delay counts from the second"


def connect(*addresses: str, port: int) -> tuple[str, float]:
    """The address that was connected to, and the seconds that took."""
    began_s = time.monotonic()

    async def run() -> str:
        async with asyncio.timeout(PATIENCE_S):
            with await connect_first(asyncio.get_running_loop(), addresses, port) as made:
                return str(made.getpeername()[0])

    return uvloop.run(run()), time.monotonic() - began_s


@contextmanager
def listening(host: str, port: int = 0, backlog: int = 8) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=backlog) as listener:
        yield listener


@contextmanager
def refused() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections, and that nobody else gets."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that takes no further connections, and refuses none: its queue is full."""
    with listening("127.0.0.1", backlog=0) as listener:
        host, port = listener.getsockname()
        held = []
        for _ in range(8):
            held.append(socket.socket())
            held[-1].setblocking(False)
            held[-1].connect_ex((host, port))
        yield host, port
        for each in held:
            each.close()


def test_the_first_address_is_taken_where_it_answers() -> None:
    with listening("127.0.0.1") as listener, listening(SIX, listener.getsockname()[1]) as six:
        address, _ = connect("127.0.0.1", SIX, port=listener.getsockname()[1])
        assert address == "127.0.0.1"
        six.setblocking(False)
        with pytest.raises(BlockingIOError):
            six.accept()


def test_the_second_address_is_taken_at_once_where_the_first_refuses() -> None:
    with refused() as port, listening(SIX, port):
        address, took_s = connect("127.0.0.1", SIX, port=port)
    assert address == SIX
    assert took_s < DELAY_S


def test_the_second_address_is_taken_after_a_moment_where_the_first_is_silent() -> None:
    with black_hole() as (host, port), listening(SIX, port):
        address, took_s = connect(host, SIX, port=port)
    assert address == SIX
    assert took_s >= DELAY_S


def test_where_no_address_answers_the_error_names_each() -> None:
    with refused() as port, pytest.raises(OSError, match=r"127\.0\.0\.1: .*; ::1: "):
        connect("127.0.0.1", SIX, port=port)


def test_an_attempt_that_is_given_up_leaves_nothing_behind(recwarn: pytest.WarningsRecorder) -> None:
    gc.collect()
    recwarn.clear()  # what earlier tests left
    with black_hole() as (host, port):

        async def run() -> None:
            attempt = asyncio.ensure_future(connect_first(asyncio.get_running_loop(), (host, "127.0.0.9"), port))
            await asyncio.sleep(0)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            assert asyncio.all_tasks() == {asyncio.current_task()}

        uvloop.run(run())
    gc.collect()
    assert not [str(one.message) for one in recwarn]


# In a gateway


@pytest.fixture
def six_only(http2: Lab) -> Iterator[ScriptedPod]:
    """Its port refuses connections at 127.0.0.1."""
    with refused() as port:
        yield http2.scripted_pod(refusing(0), port, host=SIX)


def test_a_pod_is_served_by_its_other_address_and_counts_once(http2: Lab, six_only: ScriptedPod) -> None:
    pod = http2.scripted_pod(refusing(0))
    gateway = http2.gateway(pod)
    name = next(iter(gateway.serving.snapshot.clusters))
    first = Endpoint("127.0.0.1", six_only.port)
    endpoints = EndpointSet((first, pod.endpoint), other_addresses=(SIX, ""))
    gateway.serving.set_endpoints(name, endpoints, time.monotonic())
    client = http2.raw_client(gateway)
    eventually(lambda: [report.state for report in gateway.serving.clusters.pod_reports()] == ["ready", "ready"])
    assert [client.call("Unary").status for _ in range(10)] == [0] * 10
    assert (len(six_only.streams), len(pod.streams)) == (5, 5)


def test_an_address_that_is_known_later_is_tried_with_the_next_connection(http2: Lab, six_only: ScriptedPod) -> None:
    gateway = http2.gateway()
    name = next(iter(gateway.serving.snapshot.clusters))
    first = Endpoint("127.0.0.1", six_only.port)
    gateway.serving.set_endpoints(name, EndpointSet((first,)), time.monotonic())
    eventually(lambda: [report.state for report in gateway.serving.clusters.pod_reports()] == ["failing"])
    gateway.serving.set_endpoints(name, EndpointSet((first,), other_addresses=(SIX,)), time.monotonic())
    eventually(lambda: [report.state for report in gateway.serving.clusters.pod_reports()] == ["ready"])
    assert http2.raw_client(gateway).call("Unary").status == 0
