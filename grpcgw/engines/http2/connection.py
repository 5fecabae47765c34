"""One TCP connection that speaks HTTP/2: bytes in, events out, and writing with back-pressure. The base of both ends.

What is kept for a peer is bounded: it may send no more than its windows allow before a reader took it, and a chunk that
is sent to it waits in a queue of at most QUEUE_BYTES a stream before its sender is stopped.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Protocol, cast

from grpcgw.engines.http2.h2 import GOAWAY_CALM, Event, Http2, Http2Error
from grpcgw.engines.http2.memory_bound import SMALL_BYTES
from grpcgw.engines.http2.tls_layer import TlsFailed
from grpcgw.engines.http2.turn import Turn

QUEUE_BYTES = 65_536
"""A stream's sender goes on while less than this waits to be written."""
LINGER_S = 5.0
"""Time for the other end to read the last bytes of a connection."""
FLUSH_BYTES = 262_144
"""At most so much is taken from libnghttp2 at a time; the socket's buffer holds about as much before it says stop."""
MUCH_BYTES = 65_536
"""The other end is not read while more of what it sent waits to be handled."""
NOTHING = memoryview(b"")

FEW_CHUNKS, SMALL_CHUNK_BYTES = 16, 4096
"""Where more chunks wait, they are joined up to this size: a frame of one byte would occupy forty."""


def pile(inbox: deque[bytes], data: bytes) -> None:
    """Add a chunk to those that wait already."""
    if len(inbox) > FEW_CHUNKS and len(inbox[-1]) + len(data) <= SMALL_CHUNK_BYTES:
        inbox[-1] += data
    else:
        inbox.append(data)


def take(inbox: deque[bytes]) -> bytes:
    """All chunks that wait, of several, as one: a session's step costs more than to copy a window."""
    whole = b"".join(inbox)
    inbox.clear()
    return whole


class Writer(Protocol):
    """Waits until what it sent on a stream was written."""

    def on_written(self) -> None: ...
    def note_held(self) -> None:
        """Much waits to be written on its stream."""
        ...


def close_when_sent(transport: asyncio.Transport) -> None:
    """Close a socket once what was written is sent. An end that does not read has LINGER_S for it."""
    transport.close()
    if transport.get_write_buffer_size():
        asyncio.get_running_loop().call_later(LINGER_S, transport.abort)


class PeerConnection:
    """Subclasses say what events mean (`HANDLERS`) and what the end of the connection does (`on_lost`).

    An `asyncio.Protocol` by its methods, not by its base: mypyc compiles no class with a base that is not compiled.
    """

    HANDLERS: ClassVar[dict[type[Event], Callable[[Any, Any], None]]] = {}

    http: Http2
    transport: asyncio.Transport

    def __init__(self, turn: Turn) -> None:
        self.turn = turn
        self.is_dirty = self.is_lost = False
        self.received_at_s = 0.0
        """Monotonic time of the last bytes from the other end."""
        self.sent_chunks = 0
        """Parts of messages that were sent."""
        self._paused = False
        self._reads = True
        self._backlog = NOTHING
        """What came and has not been handled."""
        self._blocked: dict[int, Writer] = {}
        """By stream: who waits for its queue to become shorter."""
        self._reset_when_sent: list[int] = []
        self._encrypt: Callable[[bytes], bytes] | None = None

    # --- reading

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        self.transport.set_write_buffer_limits(FLUSH_BYTES)
        self.received_at_s = time.monotonic()

    def as_protocol(self) -> asyncio.Protocol:
        return cast(asyncio.Protocol, self)

    def data_received(self, data: bytes) -> None:
        self.received_at_s = time.monotonic()
        self.receive(data)

    def eof_received(self) -> None:
        """The transport closes itself."""

    def receive(self, data: bytes | memoryview) -> None:
        """HTTP/2 bytes, after TLS."""
        try:
            self.http.receive_data(data)
        except Http2Error as error:
            self.reject(str(error))
            return
        self._handle_events()
        if self.http.want_write:
            self.on_queued()

    # --- much at once

    def postpone(self, data: bytes) -> None:
        """Handle `data` in parts, by turns with those of other connections, after what waits already."""
        if self._backlog:
            self._backlog = memoryview(b"".join((self._backlog, data)))
        else:
            self._backlog = memoryview(data)
            self.turn.postpone(self)
        self.steer_reading()

    def handle_part(self) -> None:
        size = self.cut_part(self._backlog)
        part, self._backlog = self._backlog[:size], self._backlog[size:]
        if not self.is_lost:
            self.receive(part)
        if self.is_lost or not self._backlog:
            self._backlog = NOTHING  # an empty view would keep what it is a view of
        else:
            self.turn.postpone(self)
        self.steer_reading()

    def fit_part(self, took_s: float, limit_s: float) -> None:
        """Of one size, unless a subclass says otherwise."""

    def cut_part(self, waiting: memoryview) -> int:
        """The size of the next part."""
        raise NotImplementedError

    def may_read(self) -> bool:
        """Whether the other end should be read."""
        return len(self._backlog) < MUCH_BYTES

    def steer_reading(self) -> None:
        reads = self.may_read()
        if not self.is_lost and reads is not self._reads:
            self._reads = reads
            (self.transport.resume_reading if reads else self.transport.pause_reading)()

    # --- what was received

    def on_queued(self) -> None:
        """libnghttp2 has an answer of its own to what was received."""
        self.turn.mark(self)

    def _handle_events(self) -> None:
        handlers = self.HANDLERS
        for event in self.http.events():
            handle = handlers.get(type(event))
            if handle is not None:
                handle(self, event)

    def reject(self, why: str) -> None:
        """The other end exceeds a limit of HTTP/2: it gets GOAWAY, which libnghttp2 then no longer sends."""
        if not self.is_lost and not self._paused:
            with suppress(TlsFailed):
                self.transport.write(GOAWAY_CALM if self._encrypt is None else self._encrypt(GOAWAY_CALM))
        self.lose(why)
        close_when_sent(self.transport)

    def fail(self, why: str) -> None:
        """The connection is of no use any more."""
        self.lose(why)
        self.transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self.lose("" if error is None else str(error))

    def lose(self, why: str) -> None:
        if not self.is_lost:
            self.is_lost = True
            self._blocked.clear()
            self.on_lost(why)

    def on_lost(self, why: str) -> None:
        """Called once, when nothing more can be sent or received."""
        raise NotImplementedError

    # --- writing

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.turn.mark(self)

    def flush(self) -> None:
        """Write what libnghttp2 has to send, as far as the socket takes it."""
        if self.is_lost:
            return
        sent, http = False, self.http
        while not self._paused:
            is_last = http.queued_body_size() <= FLUSH_BYTES  # without a limit, the binding copies once less
            data = http.data_to_send(None if is_last else FLUSH_BYTES)
            if not data:
                break
            sent = True
            try:
                self.transport.write(data if self._encrypt is None else self._encrypt(data))
            except TlsFailed as error:  # by a record after those that were read
                self.fail(str(error))
                return
            if is_last:
                break
        self._handle_events()  # libnghttp2 ends streams when it sends, or finds that it cannot: after GOAWAY
        if self.is_lost:
            return
        if self._reset_when_sent and not self._paused:
            self._reset_sent()
        if sent and self._blocked:
            self._unblock()

    def _unblock(self) -> None:
        http = self.http
        for stream_id, writer in tuple(self._blocked.items()):
            if http.queued_body_size(stream_id) < QUEUE_BYTES:
                del self._blocked[stream_id]
                writer.on_written()

    def _reset_sent(self) -> None:
        """End streams whose answer is out, but whose request is not: the rest of it is not wanted (RFC 9113, 8.1).

        Not while the socket takes nothing: of an answer without a body nothing is known to wait, and libnghttp2 sends
        no headers any more on a stream that it is to reset, so that the status would be lost.
        """
        http, waiting = self.http, []
        for stream_id in self._reset_when_sent:
            if http.queued_body_size(stream_id):
                waiting.append(stream_id)
            else:
                self.reset(stream_id, 0)
        self._reset_when_sent = waiting

    def reset_when_sent(self, stream_id: int) -> None:
        self._reset_when_sent.append(stream_id)

    def reset(self, stream_id: int, code: int) -> None:
        """Does nothing where the stream is closed."""
        try:
            self.http.reset_stream(stream_id, code)
        except Http2Error:
            return
        self.turn.mark(self)

    def is_written(self, stream_id: int, writer: Writer) -> bool:
        """Whether the sender on a stream may go on; if not, `writer` is called when it may."""
        self.sent_chunks += 1
        size_bytes = self.http.queued_body_size(stream_id)
        if size_bytes <= SMALL_BYTES:
            return True
        writer.note_held()
        if size_bytes < QUEUE_BYTES:
            return True
        self._blocked[stream_id] = writer
        return False

    def queued_bytes(self, stream_id: int) -> int:
        """What waits to be written on a stream."""
        return 0 if self.is_lost else self.http.queued_body_size(stream_id)

    def acknowledge(self, stream_id: int, size_bytes: int) -> None:
        """The reader took so much of what the stream's sender sent: it may send as much again."""
        if self.is_lost:
            return
        try:
            self.http.acknowledge_received_data(size_bytes, stream_id)
        except (Http2Error, ValueError):  # the connection ends
            return
        if self.http.want_write:  # windows are updated by the half
            self.turn.mark(self)
