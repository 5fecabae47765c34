"""A connection of raw HTTP/2 frames, as cheap as Python allows: headers, data within the windows, no more.

Both ends of the stream measurements use it, so that they are faster than the proxies between them.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from struct import Struct
from typing import cast

from hpack import Decoder, Encoder

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM = ACK = 1
END_HEADERS, PADDED, PRIORITY = 4, 8, 32
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE = 1, 4, 5
MAX_WINDOW_BYTES, FIRST_WINDOW_BYTES = 2**31 - 1, 65_535
RENEW_BYTES = 1 << 28
"""Received bytes after which a window is opened again; far below its size, so that no sender ever waits for it."""
FRAME_HEADER = Struct(">IBI")
SETTING = Struct(">HI")

Headers = Sequence[tuple[str, str]]


def make_frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    return FRAME_HEADER.pack(len(payload) << 8 | kind, flags, stream) + payload


def renew_window(stream: int, by: int) -> bytes:
    return make_frame(WINDOW_UPDATE, 0, stream, by.to_bytes(4, "big"))


class FrameConnection(asyncio.Protocol):
    """Subclasses override `on_headers`, `on_data` and `on_lost`. The receive windows are as large as HTTP/2 allows."""

    def __init__(self, is_client: bool) -> None:
        self._is_client = is_client
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._preface_bytes = 0 if is_client else len(PREFACE)
        """Still to be skipped."""
        self._out: list[bytes] = []
        self._encoder, self._decoder = Encoder(), Decoder()
        self._max_frame_bytes = 16_384
        self._initial_bytes = FIRST_WINDOW_BYTES
        self._windows = {0: FIRST_WINDOW_BYTES}
        """What the peer still takes, by stream; 0: on the connection."""
        self._received: defaultdict[int, int] = defaultdict(int)
        """Bytes since the windows were last opened, by stream; `_received_bytes`: all of them."""
        self._received_bytes = 0
        self._waiting: defaultdict[int, deque[memoryview]] = defaultdict(deque)
        self._trailers: dict[int, Headers] = {}
        """To follow the data that waits."""

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        raise NotImplementedError

    def on_data(self, stream: int, data: memoryview, ended: bool) -> None:
        raise NotImplementedError

    def on_lost(self, reason: str) -> None:
        """The connection, or a stream of it, ended before its time."""
        raise NotImplementedError

    # ---- sending; `flush` writes it

    def send_headers(self, stream: int, headers: Headers, end: bool = False) -> None:
        block = self._encoder.encode(headers, huffman=False)
        self._out.append(make_frame(HEADERS, END_HEADERS | (END_STREAM if end else 0), stream, block))

    def send_data(self, stream: int, data: memoryview) -> None:
        """Sent as the peer's windows allow."""
        waiting, windows, count = self._waiting[stream], self._windows, len(data)
        left = windows.get(stream, self._initial_bytes)
        if not waiting and count <= left and count <= windows[0] and count <= self._max_frame_bytes:
            windows[stream] = left - count
            windows[0] -= count
            self._out.append(make_frame(DATA, 0, stream, data))
            return
        waiting.append(data)
        if len(waiting) == 1:
            self._send_waiting(stream)

    def send_trailers(self, stream: int, headers: Headers) -> None:
        """Sent after the data that waits."""
        if self._waiting[stream]:
            self._trailers[stream] = headers
        else:
            self.send_headers(stream, headers, end=True)

    def end_stream(self, stream: int) -> None:
        self._out.append(make_frame(DATA, END_STREAM, stream))

    def flush(self) -> None:
        if self._out and self._transport is not None:
            self._transport.write(b"".join(self._out))
            self._out.clear()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send_waiting(self, stream: int) -> None:
        waiting, windows = self._waiting[stream], self._windows
        left = windows.setdefault(stream, self._initial_bytes)
        while waiting and (allowed := min(left, windows[0], self._max_frame_bytes)) > 0:
            data = waiting[0]
            part = data[:allowed]
            self._out.append(make_frame(DATA, 0, stream, part))
            left -= len(part)
            windows[0] -= len(part)
            if len(part) == len(data):
                waiting.popleft()
            else:
                waiting[0] = data[allowed:]
        windows[stream] = left
        if not waiting and stream in self._trailers:
            self.send_headers(stream, self._trailers.pop(stream), end=True)

    # ---- receiving

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = opened_transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        settings = make_frame(SETTINGS, 0, 0, SETTING.pack(INITIAL_WINDOW_SIZE, MAX_WINDOW_BYTES))
        opened = renew_window(0, MAX_WINDOW_BYTES - FIRST_WINDOW_BYTES)
        opened_transport.write((PREFACE if self._is_client else b"") + settings + opened)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self.on_lost(f"the connection ended: {error}")

    def data_received(self, data: bytes) -> None:
        buffer = self._rest + data if self._rest else data
        view, at, end = memoryview(buffer), self._preface_bytes, len(buffer)
        while end - at >= FRAME_HEADER.size:
            word, flags, stream = FRAME_HEADER.unpack_from(buffer, at)
            stop = at + FRAME_HEADER.size + (word >> 8)
            if stop > end:
                break
            self._on_frame(word & 255, flags, stream, view[at + FRAME_HEADER.size : stop])
            at = stop
        if at > self._preface_bytes:
            self._preface_bytes = 0
            buffer = buffer[at:]
        self._rest = buffer
        self.flush()

    def _on_frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if kind == DATA:
            self._received[stream] += len(payload)
            self._received_bytes += len(payload)
            if self._received_bytes >= RENEW_BYTES:
                self._renew_windows()
            self.on_data(stream, _without_padding(payload) if flags & PADDED else payload, flags & END_STREAM != 0)
        elif kind == HEADERS:
            self._on_headers_frame(flags, stream, payload)
        elif kind == WINDOW_UPDATE:
            self._on_window(stream, int.from_bytes(payload, "big"))
        elif kind == SETTINGS and not flags & ACK:
            self._on_settings(payload)
        elif kind == PING and not flags & ACK:
            self._out.append(make_frame(PING, ACK, 0, payload))
        elif kind == RST_STREAM:
            self.on_lost(f"stream {stream} was reset with code {int.from_bytes(payload, 'big')}")
        elif kind == GOAWAY and (code := int.from_bytes(payload[4:8], "big")):
            self.on_lost(f"GOAWAY with code {code}: {bytes(payload[8:])!r}")

    def _on_headers_frame(self, flags: int, stream: int, payload: memoryview) -> None:
        if not flags & END_HEADERS:
            self.on_lost("a header block in several frames")
            return
        block = _without_padding(payload) if flags & PADDED else payload
        block = block[5 if flags & PRIORITY else 0 :]
        headers = [(str(name), str(value)) for name, value in self._decoder.decode(bytes(block))]
        self.on_headers(stream, headers, bool(flags & END_STREAM))

    def _renew_windows(self) -> None:
        self._received[0] = self._received_bytes
        self._out += (renew_window(stream, count) for stream, count in self._received.items())
        self._received.clear()
        self._received_bytes = 0

    def _on_window(self, stream: int, by: int) -> None:
        self._windows[stream] = self._windows.get(stream, self._initial_bytes) + by
        for waiting in list(self._waiting) if stream == 0 else (stream,):
            self._send_waiting(waiting)

    def _on_settings(self, payload: memoryview) -> None:
        for name, value in SETTING.iter_unpack(payload):
            if name == HEADER_TABLE_SIZE:
                self._encoder.header_table_size = min(value, self._encoder.header_table_size)
            elif name == MAX_FRAME_SIZE:
                self._max_frame_bytes = value
            elif name == INITIAL_WINDOW_SIZE:
                grown, self._initial_bytes = value - self._initial_bytes, value
                for stream in self._windows.keys() - {0}:
                    self._windows[stream] += grown
        self._out.append(make_frame(SETTINGS, ACK, 0))
        for stream in list(self._waiting):
            self._send_waiting(stream)


def _without_padding(payload: memoryview) -> memoryview:
    return payload[1 : len(payload) - payload[0]]
