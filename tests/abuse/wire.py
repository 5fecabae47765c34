"""A client made of raw HTTP/2 frames: it sends what it is told to send, allowed or not, and keeps what comes back.

Knows frames and sockets, nothing of the gateway. Every method is bounded in time.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from hpack import Decoder, Encoder
from hyperframe.frame import (
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

HOST = "127.0.0.1"
LIMIT_S = 20.0
"""How long a method waits for the gateway, on a machine that is busy with other things."""
CHUNK_BYTES = 65_536
FRAME_HEADER_BYTES = 9

ECHO, SINK, FLOOD, STUCK = (f"/abuse.Pod/{method}" for method in ("Echo", "Sink", "Flood", "Stuck"))
LARGE_SINK = "/abuse.Large/Sink"
"""Of a pod that takes messages of any length."""
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def settings(values: dict[int, int] | None = None) -> bytes:
    return SettingsFrame(0, settings=values or {}).serialize()


def acknowledge() -> bytes:
    """The acknowledgement of the gateway's SETTINGS."""
    return SettingsFrame(0, flags=["ACK"]).serialize()


def block(headers: Iterable[tuple[str, str]]) -> bytes:
    """Headers compressed without the dynamic table: the same bytes fit any connection."""
    return bytes(Encoder().encode([(name, value, True) for name, value in headers], huffman=False))


def request(path: str = ECHO, **changes: str | None) -> list[tuple[str, str]]:
    """The headers of an ordinary gRPC client; `changes` (`content_type="…"`) replaces one, or leaves it out (None)."""
    headers: dict[str, str | None] = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "abuse.test",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changes.items():
        headers[f":{name}" if f":{name}" in headers else name.replace("_", "-")] = value
    return [(name, value) for name, value in headers.items() if value is not None]


def open_rpc(stream: int, path: str = ECHO, end: bool = False) -> bytes:
    """The HEADERS that open an RPC."""
    return headers_frame(stream, block(request(path)), end)


def headers_frame(stream: int, encoded: bytes, end: bool = False) -> bytes:
    return HeadersFrame(stream, encoded, flags=["END_HEADERS", *(["END_STREAM"] if end else [])]).serialize()


def message(payload: bytes = b"\n\x03abc", announced_bytes: int | None = None) -> bytes:
    """A gRPC message as it stands in DATA frames; `announced_bytes` lies about its length."""
    length = len(payload) if announced_bytes is None else announced_bytes
    return b"\0" + length.to_bytes(4, "big") + payload


def data(stream: int, payload: bytes, end: bool = False) -> bytes:
    return DataFrame(stream, payload, flags=["END_STREAM"] if end else []).serialize()


def reset(stream: int, code: int = 8) -> bytes:
    return RstStreamFrame(stream, code).serialize()


def window_update(stream: int, by: int) -> bytes:
    return WindowUpdateFrame(stream, window_increment=by).serialize()


def raw_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of any type, also one that no library would build."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def split_frames(received: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames, and the rest."""
    frames: list[Frame] = []
    whole, at = memoryview(received), 0
    while len(whole) >= at + FRAME_HEADER_BYTES:
        frame, length = Frame.parse_frame_header(whole[at : at + FRAME_HEADER_BYTES])
        end = at + FRAME_HEADER_BYTES + length
        if len(whole) < end:
            break
        frame.parse_body(whole[at + FRAME_HEADER_BYTES : end])
        frames.append(frame)
        at = end
    return frames, bytes(whole[at:])


OPENING = PREFACE + settings() + acknowledge()
"""Without the acknowledgement the gateway closes a connection after 10 s, which tests take on a busy machine."""


class Wire:
    """One connection."""

    def __init__(self, port: int, opening: bytes = OPENING) -> None:
        self.received = b""
        """What came and is not part of `frames`: no frame, or not all of one yet."""
        self.frames: list[Frame] = []
        self.closed = False
        self._socket = socket.create_connection((HOST, port), LIMIT_S)
        self._socket.setblocking(False)
        if opening:
            self.send(opening)

    def close(self) -> None:
        self._socket.close()

    def send(self, payload: bytes, limit_s: float = LIMIT_S) -> bool:
        """Send and read at once, until all is sent. False: the gateway closed, or did not take all within `limit_s`."""
        return self._converse(payload, lambda: False, limit_s)

    def push(self, payload: bytes, limit_s: float = 1.0) -> bool:
        """Send without ever reading. False as for `send`."""
        rest, until_s = memoryview(payload), time.monotonic() + limit_s
        while rest:
            if not select.select([], [self._socket], [], max(0.0, until_s - time.monotonic()))[1]:
                return False
            try:
                rest = rest[self._socket.send(rest[:CHUNK_BYTES]) :]
            except ConnectionError:
                self.closed = True
                return False
        return True

    def wait(self, until: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
        """Read until it holds, the gateway closed, or the limit passed; whether it holds."""
        return self._converse(b"", until, limit_s)

    def wait_closed(self, limit_s: float = LIMIT_S) -> bool:
        self.wait(lambda: self.closed, limit_s)
        return self.closed

    def ping(self, limit_s: float = LIMIT_S) -> bool:
        """Whether the gateway still answers on this connection."""
        self.send(PingFrame(0, b"grpcgw??").serialize(), limit_s)
        return self.wait(lambda: any(isinstance(f, PingFrame) and "ACK" in f.flags for f in self.frames), limit_s)

    def goaway(self) -> GoAwayFrame | None:
        return next((frame for frame in self.frames if isinstance(frame, GoAwayFrame)), None)

    def resets(self) -> list[RstStreamFrame]:
        return [frame for frame in self.frames if isinstance(frame, RstStreamFrame)]

    def ended(self) -> set[int]:
        """Streams the gateway ended, with a status or a reset."""
        return {f.stream_id for f in self.frames if isinstance(f, RstStreamFrame) or "END_STREAM" in f.flags}

    def headers(self, stream: int) -> list[tuple[str, str]]:
        """What the gateway answered on `stream`, headers and trailers. Asked once a connection: they share a table."""
        decoder = Decoder(max_header_list_size=1_000_000)
        found: list[tuple[str, str]] = []
        for frame in self.frames:
            if isinstance(frame, HeadersFrame):
                fields = decoder.decode(frame.data)
                found += fields if frame.stream_id == stream else []
        return found

    def _converse(self, payload: bytes, until: Callable[[], bool], limit_s: float) -> bool:
        rest, until_s = memoryview(payload), time.monotonic() + limit_s
        while (rest or not payload) and not until():
            left_s = until_s - time.monotonic()
            if self.closed or left_s <= 0:
                return False
            readable, writable, _ = select.select([self._socket], [self._socket] if rest else [], [], left_s)
            try:
                if writable:
                    rest = rest[self._socket.send(rest[:CHUNK_BYTES]) :]
                if readable:
                    self._receive()
            except ConnectionError:
                self.closed = True
        return True

    def _receive(self) -> None:
        came = self._socket.recv(CHUNK_BYTES)
        self.closed = not came
        frames, self.received = split_frames(self.received + came)
        self.frames += frames


@contextmanager
def connected(port: int, opening: bytes = OPENING, count: int = 1) -> Iterator[list[Wire]]:
    wires: list[Wire] = []
    try:
        for _ in range(count):
            wires.append(Wire(port, opening))
        yield wires
    finally:
        for wire in wires:
            wire.close()
