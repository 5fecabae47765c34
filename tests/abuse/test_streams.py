"""Streams: more than allowed, and windows that are closed, overrun, or opened for nobody who reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import grpc
import pytest
from hyperframe.frame import SettingsFrame

from abuse.gateway import Gateway, eventually
from abuse.wire import (
    ECHO,
    FLOOD,
    HOST,
    PREFACE,
    SINK,
    STUCK,
    Wire,
    acknowledge,
    block,
    connected,
    data,
    headers_frame,
    message,
    open_rpc,
    request,
    reset,
    settings,
    window_update,
)

LIMIT = 1000
"""--max-concurrent-streams, as it is without the flag."""
LARGEST_WINDOW = 2**31 - 1
WATCH_S = 1.5
"""How long the memory is watched while a flood goes on: without bounds it would be gigabytes by then."""
REFUSED = {7, 11}  # REFUSED_STREAM, ENHANCE_YOUR_CALM
NO_WINDOW = PREFACE + settings({SettingsFrame.INITIAL_WINDOW_SIZE: 0})
WIDE_WINDOW = PREFACE + settings({SettingsFrame.INITIAL_WINDOW_SIZE: LARGEST_WINDOW}) + window_update(0, 2**30)


def ask_for_flood(streams: range) -> bytes:
    return b"".join(open_rpc(stream, FLOOD) + data(stream, message(), end=True) for stream in streams)


def test_streams_beyond_the_limit_are_refused_and_the_others_go_on(gateway: Gateway) -> None:
    """Of a client that opened them before it knew the limit."""
    asked, allowed = range(1, 2 * (LIMIT + 500), 2), range(1, 2 * LIMIT, 2)
    with connected(gateway.port, PREFACE + settings()) as (wire,):
        assert wire.ping()
        wire.send(b"".join(open_rpc(stream, ECHO) for stream in asked))
        assert wire.wait(lambda: len(wire.resets()) >= len(asked) - len(allowed))
        assert {reset.error_code for reset in wire.resets()} <= REFUSED
        kept = sorted(set(asked) - wire.ended())
        assert len(kept) <= LIMIT
        wire.send(b"".join(data(stream, message(), end=True) for stream in kept))
        assert wire.wait(lambda: wire.ended() >= set(kept))


def test_a_client_that_exceeds_the_limit_that_it_acknowledged_is_sent_away(gateway: Gateway) -> None:
    with connected(gateway.port, PREFACE + settings() + acknowledge()) as (wire,):
        assert wire.ping()
        wire.send(b"".join(open_rpc(stream, ECHO) for stream in range(1, 2 * (LIMIT + 500), 2)))
        assert wire.wait_closed()
        assert wire.goaway() is not None


@pytest.mark.memory_mb(200)
def test_a_client_with_a_window_of_zero_keeps_little(gateway: Gateway) -> None:
    """Three hundred replies without end, none of which the client takes (CVE-2019-9511, CVE-2019-9517)."""
    before_mb = gateway.memory_mb()
    streams = range(1, 601, 2)
    with connected(gateway.port, NO_WINDOW) as (wire,):
        wire.send(ask_for_flood(streams))
        assert eventually(lambda: gateway.rpcs_in_flight() == len(streams))
        assert wire.wait(lambda: {frame.stream_id for frame in wire.frames} >= set(streams))
        assert not eventually(lambda: gateway.memory_mb() > before_mb + 200, WATCH_S)


@pytest.mark.memory_mb(200)
def test_a_client_that_opens_its_windows_and_never_reads_keeps_little(gateway: Gateway) -> None:
    before_mb = gateway.memory_mb()
    streams = range(1, 401, 2)
    with connected(gateway.port, WIDE_WINDOW) as (wire,):
        wire.push(ask_for_flood(streams))
        assert eventually(lambda: gateway.rpcs_in_flight() == len(streams))
        assert not eventually(lambda: gateway.memory_mb() > before_mb + 200, WATCH_S)


@pytest.mark.memory_mb(80)
def test_a_pod_that_stands_still_makes_the_gateway_keep_little(gateway: Gateway) -> None:
    """The clients' requests have nowhere to go: their windows close, one after the other."""
    before_mb = gateway.memory_mb()
    sent_bytes = itertools.count(step=16_000)
    reached = [0]

    def pour() -> Iterator[bytes]:
        for _ in range(200):
            reached[0] = next(sent_bytes)
            yield bytes(16_000)

    with grpc.insecure_channel(f"{HOST}:{gateway.port}") as channel:
        method = channel.stream_unary(STUCK)
        gateway.pod.suspend()
        try:
            calls = [method.future(pour()) for _ in range(50)]
            assert eventually(lambda: reached[0] > 5_000_000)
            assert not eventually(lambda: gateway.memory_mb() > before_mb + 80, WATCH_S)
        finally:
            gateway.pod.resume()
        for call in calls:
            call.cancel()


def test_a_body_that_stops_is_ended_by_the_idle_timeout(gateway: Gateway) -> None:
    streams = range(1, 101, 2)
    body = message(bytes(100_000))
    with connected(gateway.port) as (wire,):
        wire.send(b"".join(open_rpc(stream, "/abuse.Quick/Sink") + data(stream, body[:9]) for stream in streams))
        assert wire.wait(lambda: wire.ended() >= set(streams))
        assert ("grpc-status", "4") in wire.headers(1)


@pytest.mark.parametrize("method", [SINK, ECHO, FLOOD])
def test_clients_that_vanish_in_the_middle_leave_nothing(gateway: Gateway, method: str) -> None:
    streams = range(1, 101, 2)
    with connected(gateway.port, count=10) as wires:
        for wire in wires:
            wire.send(b"".join(open_rpc(stream, method) + data(stream, message()[:7]) for stream in streams))
        assert eventually(lambda: gateway.rpcs_in_flight() == len(wires) * len(streams))


@pytest.mark.parametrize("stream", [0, 1])
@pytest.mark.parametrize("increment", [0, LARGEST_WINDOW])
def test_a_window_update_that_makes_no_sense_harms_nobody(gateway: Gateway, stream: int, increment: int) -> None:
    """RFC 9113, 6.9: an increment of zero, or a window beyond 2**31-1."""
    update = window_update(stream, 1)[:9] + increment.to_bytes(4, "big")
    with connected(gateway.port) as (wire,):
        wire.send(open_rpc(1, SINK) + update * 3)
        assert wire.ping() or wire.closed


def test_streams_that_reset_themselves_and_reuse_their_numbers(gateway: Gateway) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(open_rpc(1, SINK) + open_rpc(1, SINK) + open_rpc(5, SINK) + open_rpc(3, SINK) + open_rpc(2, SINK))
        assert over_or_served(wire)


@pytest.mark.parametrize("changes", [{"method": "GET"}, {"content_type": "text/html"}, {"path": "//"}], ids=str)
def test_a_request_that_is_refused_and_reset_in_one_piece_ends_alone(
    gateway: Gateway, changes: dict[str, str | None]
) -> None:
    """The stream is closed before the gateway answers."""
    with connected(gateway.port) as (wire,):
        wire.send(b"".join(headers_frame(s, block(request(**changes))) + reset(s) for s in range(1, 21, 2)))
        wire.send(open_rpc(21, ECHO) + data(21, message(), end=True))
        assert wire.wait(lambda: 21 in wire.ended())
        assert ("grpc-status", "0") in wire.headers(21)


def over_or_served(wire: Wire) -> bool:
    return wire.ping() or wire.closed
