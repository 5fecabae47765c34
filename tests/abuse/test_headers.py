"""Header lists that are huge, that unfold to something huge, or that never end."""

from __future__ import annotations

import pytest
from hpack import Encoder

from abuse.gateway import Gateway
from abuse.wire import (
    PREFACE,
    SINK,
    acknowledge,
    block,
    connected,
    data,
    headers_frame,
    message,
    request,
    settings,
)

MAX_FRAME_BYTES = 16_384
HEADERS, CONTINUATION, END_STREAM, END_HEADERS = 1, 9, 1, 4
RESOURCE_EXHAUSTED = ("grpc-status", "8")
ENDED = {9, 11}  # COMPRESSION_ERROR (libnghttp2 reads no value above 64 KiB), ENHANCE_YOUR_CALM


def split(stream: int, encoded: bytes) -> bytes:
    """One header list in as many frames as it needs."""
    parts = [encoded[at : at + MAX_FRAME_BYTES] for at in range(0, len(encoded), MAX_FRAME_BYTES)]
    kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    frames = zip(kinds, parts, strict=True)
    return b"".join(frame(kind, END_HEADERS if part is parts[-1] else 0, stream, part) for kind, part in frames)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def table_filler(value_bytes: int) -> tuple[bytes, int]:
    """A header block that puts one large header into the connection's table, and the index it then has."""
    encoder = Encoder()
    filler = encoder.encode([(name, value, True) for name, value in request(SINK)])
    return bytes(filler + encoder.encode([("x-bomb", "b" * value_bytes)], huffman=False)), 62


def bomb(index: int, references: int) -> bytes:
    """A header block of a few kilobytes: `references` times the header at `index` of the table."""
    return block(request(SINK)) + bytes([0x80 | index]) * references


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize(
    "headers",
    [[(f"x-{number}", "a" * 30_000) for number in range(5)], [(f"x-{number}", "a") for number in range(4_000)]],
    ids=["five of 30 KB", "4,000 small ones"],
)
def test_a_large_header_list_is_refused(gateway: Gateway, headers: list[tuple[str, str]], acknowledged: bool) -> None:
    """Above the limit, the RPC ends, and the others of its connection go on."""
    with connected(gateway.port, PREFACE + settings() + (acknowledge() if acknowledged else b"")) as (wire,):
        wire.ping()
        wire.send(split(1, block([*request(SINK), *headers])))
        assert wire.wait(lambda: 1 in wire.ended())
        assert wire.ping()
        assert RESOURCE_EXHAUSTED in wire.headers(1)


@pytest.mark.parametrize(
    "headers",
    [[("x-large", "a" * 20_000_000)], [(f"x-{number}", "a") for number in range(600_000)]],
    ids=["one of 20 MB", "600,000 small ones"],
)
def test_a_huge_header_list_ends_its_connection(gateway: Gateway, headers: list[tuple[str, str]]) -> None:
    """At four times the limit: nothing of it is kept, and little of it is read."""
    with connected(gateway.port) as (wire,):
        wire.send(split(1, block([*request(SINK), *headers])))
        assert wire.wait_closed()
        goaway = wire.goaway()
        assert goaway is None or goaway.error_code in ENDED


@pytest.mark.memory_mb(250)
@pytest.mark.parametrize("index", [16, 62], ids=["of the static table", "of the dynamic table"])
def test_a_header_bomb_costs_neither_memory_nor_the_others_their_turn(gateway: Gateway, index: int) -> None:
    """HPACK: one byte on the wire stands for a header of up to 4 KB. Here 1.2 MB stand for gigabytes."""
    filler, _ = table_filler(3_900)
    streams = range(3, 163, 2)
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, filler))
        wire.send(b"".join(headers_frame(stream, bomb(index, 15_000)) for stream in streams))
        assert wire.wait_closed()


def test_a_bomb_above_the_limit_counts_as_what_it_unfolds_to(gateway: Gateway) -> None:
    """Some 200 bytes on the wire, 118 KB decoded: that RPC is refused, and its connection goes on."""
    filler, index = table_filler(3_900)
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, filler))
        wire.send(headers_frame(3, bomb(index, 30)) + data(3, message(), end=True))
        assert wire.wait(lambda: 3 in wire.ended())
        assert RESOURCE_EXHAUSTED in wire.headers(3)
        assert wire.ping()


@pytest.mark.memory_mb(150)
def test_bombs_just_below_the_limit_are_ordinary_rpcs(gateway: Gateway) -> None:
    filler, index = table_filler(3_900)
    streams = range(3, 303, 2)
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, filler))
        wire.send(b"".join(headers_frame(stream, bomb(index, 15)) for stream in streams))
        wire.send(b"".join(data(stream, message(), end=True) for stream in streams))
        assert wire.wait(lambda: wire.ended() >= set(streams))


@pytest.mark.parametrize("size", [16_000, 1])
def test_continuation_frames_without_end(gateway: Gateway, size: int) -> None:
    """CVE-2024-27316: what is over the limit is not kept, and the next connection is served."""
    part = block([("x-part", "y" * size)])
    with connected(gateway.port) as (wire,):
        wire.send(frame(HEADERS, 0, 1, block(request(SINK))))
        for _ in range(10):
            if not wire.send(frame(CONTINUATION, 0, 1, part) * 200):
                break
        assert wire.wait_closed()


def test_headers_that_never_end_hold_no_rpc(gateway: Gateway) -> None:
    """Byte by byte, on a hundred connections."""
    encoded = block(request(SINK))
    with connected(gateway.port, PREFACE + settings() + acknowledge(), count=100) as wires:
        for wire in wires:
            wire.send(frame(HEADERS, 0, 1, encoded[:1]))
        for at in range(1, 30):
            for wire in wires:
                wire.push(frame(CONTINUATION, 0, 1, encoded[at : at + 1]))
        assert gateway.rpcs_in_flight() == 0


@pytest.mark.parametrize(
    "encoded",
    [b"\xff\xff\xff\xff\xff\xff", b"\x00\x81\xff\x81\xff", b"\x80", bytes([0xFE]), b"\x3f\xe1\xff\xff\xff\x0f"],
    ids=["endless integer", "bad Huffman code", "index 0", "index beyond the table", "table size beyond the limit"],
)
def test_headers_that_are_no_hpack(gateway: Gateway, encoded: bytes) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, encoded))
        assert wire.wait(lambda: 1 in wire.ended() or wire.closed or wire.goaway() is not None) or wire.closed


@pytest.mark.parametrize(
    "changes",
    [{"method": "GET"}, {"method": "PUT"}, {"te": None}, {"path": None}, {"scheme": None}, {"authority": None}],
    ids=str,
)
def test_a_request_that_is_not_grpc_is_reset(gateway: Gateway, changes: dict[str, str | None]) -> None:
    assert_over(gateway, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "nonsense"},
        {"path": "/a" * 5_000},
        {"path": "/\xff\x01"},
        {"grpc_timeout": "soon"},
        {"grpc_timeout": "0n"},
        {"grpc_timeout": "99999999H"},
        {"grpc_encoding": "brotli"},
        {"content_type": "text/html"},
        {"content_type": None},
        {"x_bin": "not base64!"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_request_with_odd_headers_ends(gateway: Gateway, changes: dict[str, str | None]) -> None:
    assert_over(gateway, changes)


def assert_over(gateway: Gateway, changes: dict[str, str | None]) -> None:
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, block(request(**changes))) + data(1, message(), end=True))
        assert wire.wait(lambda: 1 in wire.ended())
        assert wire.ping()


def test_metadata_below_the_limit_passes(gateway: Gateway) -> None:
    headers = [(f"x-{number}", "a" * 900) for number in range(30)]
    with connected(gateway.port) as (wire,):
        wire.send(split(1, block([*request(SINK), *headers])) + data(1, message(), end=True))
        assert wire.wait(lambda: 1 in wire.ended())
        assert ("grpc-status", "0") in wire.headers(1)


@pytest.mark.log_lines(100)
def test_metadata_that_is_no_text_does_not_fill_the_log(gateway: Gateway) -> None:
    """grpcio writes a traceback for each such value, of which one byte on the wire is enough."""
    value = Encoder().encode([("x-noise", b"\xff" * 3_900)], huffman=False)
    again = block(request(SINK)) + bytes([0x80 | 62]) * 12
    streams = range(3, 603, 2)
    before = gateway.log_file.stat().st_size
    with connected(gateway.port) as (wire,):
        wire.send(headers_frame(1, block(request(SINK)) + value))
        wire.send(b"".join(headers_frame(stream, again) + data(stream, message(), end=True) for stream in streams))
        assert wire.wait(lambda: wire.ended() >= set(streams))
    assert gateway.log_file.stat().st_size - before < 200_000
