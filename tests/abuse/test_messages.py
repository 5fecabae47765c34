"""Messages that lie about their length, come in crumbs, or are no messages; and frames that are no frames."""

from __future__ import annotations

import zlib

import pytest

from abuse.gateway import Gateway
from abuse.wire import (
    ECHO,
    PREFACE,
    SINK,
    acknowledge,
    block,
    connected,
    data,
    headers_frame,
    message,
    open_rpc,
    raw_frame,
    request,
    settings,
)

RESOURCE_EXHAUSTED = ("grpc-status", "8")
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

BAD_FRAMES = {
    "DATA of the connection": raw_frame(DATA, 0, 0, b"abc"),
    "DATA of no stream": raw_frame(DATA, 0, 7, b"abc"),
    "DATA after the end": open_rpc(1, SINK, end=True) + data(1, b"abc"),
    "padding longer than the frame": open_rpc(1, SINK) + raw_frame(DATA, 8, 1, b"\xffabc"),
    "a frame larger than allowed": open_rpc(1, SINK) + raw_frame(DATA, 0, 1, bytes(17_000)),
    "HEADERS of the connection": raw_frame(HEADERS, 4, 0, block(request())),
    "HEADERS of an even stream": raw_frame(HEADERS, 4, 2, block(request())),
    "HEADERS that depend on themselves": raw_frame(HEADERS, 0x24, 1, b"\0\0\0\1\0" + block(request())),
    "CONTINUATION alone": raw_frame(CONTINUATION, 4, 1, b"abc"),
    "CONTINUATION of another stream": raw_frame(HEADERS, 0, 1, block(request())) + raw_frame(CONTINUATION, 4, 3, b""),
    "a frame between the headers": raw_frame(HEADERS, 0, 1, block(request())) + data(1, b"abc"),
    "RST_STREAM too short": raw_frame(RST_STREAM, 0, 1, b"abc"),
    "SETTINGS of five bytes": raw_frame(SETTINGS, 0, 0, b"12345"),
    "SETTINGS acknowledged with content": raw_frame(SETTINGS, 1, 0, b"123456"),
    "SETTINGS of a stream": raw_frame(SETTINGS, 0, 1, b""),
    "a window beyond 2**31-1": raw_frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff"),
    "a largest frame of one byte": settings({5: 1}),
    "PUSH_PROMISE": raw_frame(PUSH_PROMISE, 4, 1, b"\0\0\0\2" + block(request())),
    "PING of seven bytes": raw_frame(PING, 0, 0, b"1234567"),
    "GOAWAY too short": raw_frame(GOAWAY, 0, 0, b"1"),
    "WINDOW_UPDATE of five bytes": raw_frame(WINDOW_UPDATE, 0, 0, b"12345"),
    "PRIORITY too short": raw_frame(PRIORITY, 0, 1, b"1"),
    "another preface": PREFACE,
    "noise": bytes(range(256)) * 64,
}


@pytest.mark.parametrize("frames", BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_a_bad_frame_ends_its_connection_or_is_overlooked(gateway: Gateway, frames: bytes) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(frames)
        assert wire.ping() or wire.closed or wire.goaway() is not None


@pytest.mark.parametrize("announced_bytes", [2**32 - 1, 1 << 30, 256 << 20, (128 << 20) + 1])
def test_a_message_that_announces_too_much_is_refused_and_not_waited_for(
    gateway: Gateway, announced_bytes: int
) -> None:
    streams = range(1, 201, 2)
    with connected(gateway.port) as (wire,):
        lie = message(b"abc", announced_bytes)
        wire.send(b"".join(open_rpc(stream, ECHO) + data(stream, lie) for stream in streams))
        assert wire.wait(lambda: wire.ended() >= set(streams))
        assert RESOURCE_EXHAUSTED in wire.headers(1)


def test_a_gzip_bomb_is_not_unfolded(gateway: Gateway) -> None:
    """200 KB on the wire, within a window, for 200 MiB, on four streams at once: compressed messages pass as they are,
    and the pod refuses what it unfolds beyond its own limit."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    body = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    streams = range(1, 9, 2)
    opening = block(request(ECHO, grpc_encoding="gzip"))
    with connected(gateway.port, PREFACE + settings() + acknowledge()) as (wire,):  # else the window is 64 KiB
        wire.send(b"".join(headers_frame(stream, opening) for stream in streams))
        for at in range(0, len(body), 16_384):
            wire.send(b"".join(data(stream, body[at : at + 16_384]) for stream in streams))
        assert wire.wait(lambda: wire.ended() >= set(streams))
        assert RESOURCE_EXHAUSTED in wire.headers(1)


def test_a_message_in_frames_of_one_byte_arrives(gateway: Gateway) -> None:
    body = message(bytes(10_000))
    with connected(gateway.port) as (wire,):
        wire.send(open_rpc(1, ECHO) + b"".join(data(1, body[at : at + 1]) for at in range(len(body))))
        wire.send(data(1, b"", end=True))
        assert wire.wait(lambda: 1 in wire.ended())
        assert ("grpc-status", "0") in wire.headers(1)


@pytest.mark.parametrize(
    "body",
    [b"\2" + message()[1:], b"\1" + message()[1:], b"\0\0\0", b"\0" * 5 + b"\xff" * 100],
    ids=["unknown flag", "compressed without encoding", "half a prefix", "noise"],
)
def test_a_body_that_is_no_message_ends_its_rpc(gateway: Gateway, body: bytes) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(open_rpc(1, ECHO) + data(1, body, end=True))
        assert wire.wait(lambda: 1 in wire.ended())
        assert wire.ping()
