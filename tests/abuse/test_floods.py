"""Frames that cost a client nothing, by the ten thousand: the connection is ended, or it goes on being served."""

from __future__ import annotations

import pytest
from hyperframe.frame import PingFrame, PriorityFrame

from abuse.gateway import Gateway, eventually
from abuse.wire import (
    ECHO,
    SINK,
    Wire,
    connected,
    data,
    headers_frame,
    message,
    open_rpc,
    raw_frame,
    request,
    reset,
    settings,
    window_update,
)
from abuse.wire import block as encode

COUNT = 20_000
CONTINUATION, END_HEADERS, UNKNOWN = 9, 4, 0xBB

FLOODS = {
    "SETTINGS": settings({3: 100}) * COUNT,
    "PING": PingFrame(0, b"flooding").serialize() * COUNT,
    "PRIORITY": PriorityFrame(1, depends_on=3, stream_weight=1).serialize() * COUNT,
    "unknown frames": raw_frame(UNKNOWN, 0, 0, b"flooding") * COUNT,
    "WINDOW_UPDATE of the connection": window_update(0, 1) * COUNT,
    "WINDOW_UPDATE of a stream": open_rpc(1, SINK) + window_update(1, 1) * COUNT,
    "empty DATA": open_rpc(1, SINK) + data(1, b"") * COUNT,
    "empty CONTINUATION": raw_frame(1, 0, 1, encode(request())) + raw_frame(CONTINUATION, 0, 1, b"") * COUNT,
    "RST_STREAM of no stream": reset(1) * COUNT,
    "GOAWAY": raw_frame(7, 0, 0, bytes(8)) * COUNT,
}


def over_or_served(wire: Wire) -> bool:
    return wire.ping() or wire.closed


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_frames_that_is_read(gateway: Gateway, flood: bytes) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(flood)
        assert over_or_served(wire)


CONTROL_FLOODS = ("SETTINGS", "PING", "WINDOW_UPDATE of the connection", "WINDOW_UPDATE of a stream")
ENHANCE_YOUR_CALM = 11


@pytest.mark.parametrize("name", CONTROL_FLOODS)
def test_control_frames_out_of_proportion_end_the_connection(gateway: Gateway, name: str) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(FLOODS[name])
        assert wire.wait_closed()
        goaway = wire.goaway()
        assert goaway is None or goaway.error_code == ENHANCE_YOUR_CALM


def test_a_client_may_ping_and_update_windows_with_each_answer(gateway: Gateway) -> None:
    """As clients do that measure the bandwidth: many more frames than a client may send without any answer."""
    rpcs, at_once = 1000, 50
    with connected(gateway.port) as (wire,):
        for first in range(1, 2 * rpcs, 2 * at_once):
            streams = range(first, first + 2 * at_once, 2)
            for stream in streams:
                wire.send(open_rpc(stream) + PingFrame(0, b"measure!").serialize() * 2)
                wire.send(window_update(0, 1) + window_update(stream, 1) + data(stream, message(), end=True))
            assert wire.wait(lambda streams=streams: wire.ended() >= set(streams))  # type: ignore[misc]
        assert not wire.resets()
        assert wire.ping()


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_of_frames_whose_answers_are_never_read(gateway: Gateway, flood: bytes) -> None:
    """What the gateway would answer has nowhere to go: it must not be kept without end."""
    with connected(gateway.port) as (wire,):
        for _ in range(5):
            if not wire.push(flood):
                break


@pytest.mark.parametrize("stage", ["headers", "message", "whole request"])
def test_rapid_reset(gateway: Gateway, stage: str) -> None:
    """Each RPC is cancelled as soon as it was opened (CVE-2023-44487): never more than the limit run at once."""
    bodies = {"headers": (b"", False), "message": (message(), False), "whole request": (message(), True)}
    payload, end = bodies[stage]
    opening = encode(request(ECHO))
    streams = range(1, 2 * COUNT, 2)
    body = [data(stream, payload, end) if payload else b"" for stream in streams]
    with connected(gateway.port) as (wire,):
        wire.send(b"".join(headers_frame(s, opening) + b + reset(s) for s, b in zip(streams, body, strict=True)))
        assert over_or_served(wire)


@pytest.mark.memory_mb(150)
def test_rapid_reset_on_many_connections(gateway: Gateway) -> None:
    """More RPCs than grpc core would let wait by itself: it cancelled the ordinary client's among them."""
    opening = encode(request(ECHO))
    attack = b"".join(headers_frame(s, opening) + data(s, message()) + reset(s) for s in range(1, 500, 2))
    with connected(gateway.port, count=20) as wires:
        for wire in wires:
            wire.push(attack)
        assert all(over_or_served(wire) for wire in wires)
        assert eventually(lambda: gateway.rpcs_in_flight() == 0)
