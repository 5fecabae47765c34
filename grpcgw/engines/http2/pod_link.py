"""One HTTP/2 connection to a pod: the events of its streams go to the tries that are on them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from grpcgw.engines.http2.connection import NOTHING, PeerConnection
from grpcgw.engines.http2.h2 import (
    CANCEL,
    NO_ERROR,
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    Http2Error,
    NeverIndexed,
    PingAcknowledged,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    max_fields_bytes,
    max_streams,
    open_client,
)
from grpcgw.engines.http2.handshake import Handshake, HandshakeQueue
from grpcgw.engines.http2.headers import format_timeout, size_of
from grpcgw.engines.http2.owed_resets import OwedResets
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_handshake import PodHandshake
from grpcgw.engines.http2.reset_budget import BURST, ResetBudget
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.engines.http2.turn import Turn
from grpcgw.errors import GrpcgwError
from grpcgw.logs import DefectLog

_defects = DefectLog(logging.getLogger(__name__))

PING = b"grpcgw!!"
STUCK_BYTES, MOST_UNSENT = 16 << 20, 256
"""A connection takes no new streams while its pod reads nothing and so many bytes, or requests, wait for it: not
even the resets of RPCs that ended get through, so libnghttp2 keeps their headers and data."""

PART_BYTES = 65_536
"""More at once is handled in parts, if there are clients that should not wait long: this takes 0.1 ms."""

LITTLE_BYTES = 8192
"""Below this a pod's limit may refuse headers that are not large to other pods: grpc-java takes so much."""


class LinkEvents(Protocol):
    """What a connection calls."""

    timers: Timers

    def on_room(self) -> None:
        """A stream ended, or the pod allows more of them."""
        ...

    def on_change(self, link: PodLink) -> None:
        """The pod sent GOAWAY, the last stream of a connection that is leaving or worn ended, or it is lost."""
        ...


class PodLink(PeerConnection):
    """`ready` is set when the pod's settings are here, and raises ConnectionError where the link is lost before."""

    def __init__(
        self,
        turn: Turn,
        max_metadata_bytes: int,
        secure: tuple[HandshakeQueue, PodHandshake] | None,
        events: LinkEvents,
    ) -> None:
        """`secure`: who runs the handshake, and what begins it; None: clear text."""
        super().__init__(turn)
        self.http = open_client(max_metadata_bytes)
        self._events = events
        self._handshake = None if secure is None else Handshake(*secure, self)
        """None: it is over, or there is none."""
        self._tls: TlsLayer | None = None
        self._feed: Callable[[bytes], object] = self._accept if self._handshake is None else self._handshake.feed
        self._is_connected = False
        self.streams: dict[int, PodAttempt] = {}
        self._resets: set[int] = set()
        """Streams that the pod has reset; libnghttp2 then closes them."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._newest_id = self._written_id = 0
        """The last stream that was opened, and the last one that may be written."""
        self._budget = ResetBudget(time.monotonic())
        self.most_streams = BURST
        """New RPCs should go to another connection where as many run on this one: as each may be reset, its pod might
        end it. As of the last reset, or `rest`."""
        self._owed = OwedResets(self._budget, events.timers, self, events.on_room)
        self.is_leaving = False
        """It takes no new streams: the pod sent GOAWAY."""
        self.has_answered = False
        """The pod has answered some RPC on it."""
        self.idle_since_s = time.monotonic()
        self.pinged_at_s: float | None = None
        """When a ping went out that is not answered yet."""
        self.lost_why = ""
        self._max_streams = self._max_fields_bytes = 0
        self._takes_little = False
        """Of headers: those of each RPC must be measured."""
        self._unsent = 0
        """Requests since the pod stopped reading."""

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._is_connected = True
        if self.is_lost:
            self.transport.abort()
        elif self._handshake is None:
            self.turn.mark(self)
        else:
            self._handshake.feed(b"")

    def data_received(self, data: bytes) -> None:
        self.received_at_s = time.monotonic()
        self._feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._backlog and not self.is_lost:  # it came before the end
            rest, self._backlog = self._backlog, NOTHING
            self.receive(rest)
        super().connection_lost(error)

    def _accept(self, data: bytes) -> None:
        if self._backlog or (len(data) > PART_BYTES and self.turn.must_hurry(self.received_at_s)):
            self.postpone(data)
        else:
            self.receive(data)

    def cut_part(self, waiting: memoryview) -> int:
        return PART_BYTES

    def may_read(self) -> bool:
        """Not while anything waits, so that the end of the connection is not seen before it is handled."""
        return not self._backlog

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unsent = 0
        self._events.on_room()

    def flush(self) -> None:
        if self._handshake is None:
            super().flush()
            self._written_id = self._newest_id

    # --- TLS

    def on_answer(self, data: bytes) -> None:
        if data:
            self.transport.write(data)

    def on_established(self, tls: TlsLayer, held: bytes) -> None:
        if tls.alpn not in ("h2", None):
            self.fail(f"the pod speaks {tls.alpn}, not HTTP/2")
            return
        self._handshake, self._tls = None, tls
        self._encrypt, self._feed = tls.send, self._receive_tls
        self.turn.mark(self)
        self._receive_tls(b"")
        if held and not self.is_lost:
            self._receive_tls(held)

    def on_failed(self, error: GrpcgwError) -> None:
        if isinstance(error, TlsFailed) and error.to_send and not self.is_lost:
            self.transport.write(error.to_send)
        self.fail(str(error))

    def _receive_tls(self, data: bytes) -> None:
        assert self._tls is not None
        try:
            plain = self._tls.receive(data)
        except (TlsFailed, TlsClosed) as error:
            self.on_failed(error)
            return
        if plain:
            self._accept(plain)

    # --- the end

    def lose(self, why: str) -> None:
        if self._handshake is not None:
            self._handshake.cancel()
        super().lose(why)

    def abandon(self, why: str) -> None:
        """Give up connecting, wherever it stands."""
        self.lose(why)
        if self._is_connected:
            self.transport.abort()

    def on_lost(self, why: str) -> None:
        why = why or "the pod closed the connection"
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(why))
            self.ready.exception()  # it may be that nobody waits any more
        self.lost_why = why
        self._owed.stop()
        for attempt in tuple(self.streams.values()):
            attempt.on_lost(f"connection lost: {why}")
        self.streams.clear()
        self._events.on_change(self)

    def close(self) -> None:
        """End the connection; what runs on it ends with it."""
        if self.is_lost:
            return
        if not self.streams:
            self._send_goaway()
        self.lose("the gateway closed it")
        if self.transport.get_write_buffer_size():
            self.transport.abort()  # a pod that does not read would keep the socket open
        else:
            self.transport.close()

    def _send_goaway(self) -> None:
        with suppress(Http2Error):
            self.http.send_goaway(NO_ERROR)
            self.flush()
        if self._tls is not None:
            self.transport.write(self._tls.close())

    # --- streams

    def has_room(self) -> bool:
        if self._paused and (self._unsent >= MOST_UNSENT or self.http.queued_body_size() > STUCK_BYTES):
            return False
        return (
            not self.is_leaving and not self.is_lost and len(self.streams) + len(self._owed.streams) < self._max_streams
        )

    def open(self, attempt: PodAttempt, now_s: float) -> bool:
        """Send the opening of a try, or end it if its deadline has passed or the pod does not take its headers; False:
        the connection takes no stream any more."""
        left_s, first = attempt.left_s(now_s), attempt.first
        fields = attempt.fields
        if left_s is not None:
            if left_s <= 0:
                attempt.on_expired()
                return True
            timeout = format_timeout(max(left_s, 1e-6))
            fields = [*fields, NeverIndexed(b"grpc-timeout", timeout)]  # none is the same as another
        if (attempt.is_large or self._takes_little) and size_of(fields) > self._max_fields_bytes:
            attempt.on_too_large(self._max_fields_bytes)
            return True
        try:
            stream_id = self.http.send_request(fields, end_stream=first.half_close and not first.message)
        except Http2Error:
            self.is_leaving = True
            self._events.on_change(self)
            return False
        if first.message:
            self.http.send_data(stream_id, first.message, end_stream=first.half_close)
        self.streams[stream_id] = attempt
        self._newest_id = stream_id
        if self._paused:
            self._unsent += 1
        self.turn.mark(self)
        attempt.on_open(self, stream_id)
        return True

    def forget(self, stream_id: int, reset: bool) -> None:
        """The try on this stream is over."""
        if self.streams.pop(stream_id, None) is None:
            return
        if reset:
            self._cancel(stream_id)
        if not self.streams:
            self.idle_since_s = time.monotonic()
            if self._owed.streams:
                self.close()  # which cancels all of them
            elif self.is_leaving or self.is_worn:
                self._events.on_change(self)
        self._events.on_room()

    # --- resets

    def _cancel(self, stream_id: int) -> None:
        """Reset a stream, now or when the budget allows it. One that is not written yet takes none: libnghttp2 then
        sends neither the request nor the reset."""
        if stream_id > self._written_id or self._take_reset(time.monotonic()):
            self.reset(stream_id, CANCEL)
        else:
            self._owed.add(stream_id)

    def _take_reset(self, now_s: float) -> bool:
        may = not self._owed.streams and self._budget.take(now_s)
        self.rest(now_s)
        return may

    def _note_reset(self, now_s: float) -> None:
        """libnghttp2 has sent one by itself."""
        self._budget.count(now_s)
        self.rest(now_s)

    def rest(self, now_s: float) -> None:
        """Find out how many RPCs should run on it now."""
        opened = (self._newest_id + 1) // 2
        self.most_streams = self._budget.room(now_s, opened - len(self.streams))

    @property
    def is_worn(self) -> bool:
        """It has sent so many resets that another should take its place."""
        return not self.most_streams

    def resets_left(self, now_s: float) -> float:
        """Beyond these the resets of RPCs that run on it now would have to wait. May be negative."""
        return self._budget.left(now_s) - len(self.streams) - len(self._owed.streams)

    def ping(self, now_s: float) -> None:
        self.pinged_at_s = now_s
        self.http.ping(PING)
        self.turn.mark(self)

    # --- events

    def _on_settings(self, event: SettingsReceived) -> None:
        if self.is_lost:  # by an event before it
            return
        self._max_streams, self._max_fields_bytes = max_streams(self.http), max_fields_bytes(self.http)
        self._takes_little = self._max_fields_bytes < LITTLE_BYTES
        if not self.ready.done():
            self.ready.set_result(None)
        self._events.on_room()

    def _on_response(self, event: ResponseReceived) -> None:
        attempt = self.streams.get(event.stream_id)
        self.has_answered = True
        if attempt is not None:
            attempt.on_response(event)

    def _on_data(self, event: DataReceived) -> None:
        attempt = self.streams.get(event.stream_id)
        if attempt is not None:
            attempt.on_data(event)
        elif event.data and not self._owed.note_data(event.stream_id, len(event.data)):
            self.acknowledge(event.stream_id, len(event.data))

    def _on_trailers(self, event: TrailersReceived) -> None:
        attempt = self.streams.get(event.stream_id)
        if attempt is not None:
            attempt.on_trailers(event)

    def _on_reset(self, event: StreamReset) -> None:
        if event.stream_id in self.streams:
            self._resets.add(event.stream_id)

    def _on_closed(self, event: StreamClosed) -> None:
        attempt = self.streams.get(event.stream_id)
        by_pod = event.stream_id in self._resets
        self._resets.discard(event.stream_id)
        if self._owed.streams:
            self._owed.forget(event.stream_id)
        if attempt is not None:
            if not by_pod and event.error_code:  # libnghttp2 resets it, over what the pod sent
                self._note_reset(time.monotonic())
            attempt.on_closed(event.error_code, by_pod)

    def _on_goaway(self, event: GoAwayReceived) -> None:
        self.is_leaving = True
        self._events.on_change(self)

    def _on_ping_answered(self, event: PingAcknowledged) -> None:
        self.pinged_at_s = None

    def _on_connection_closed(self, event: ConnectionClosed) -> None:
        if event.error_code:
            self.flush()
            self.fail(f"the pod breaks HTTP/2 (error {event.error_code})")
        else:
            self.is_leaving = True
            self._events.on_change(self)


PodLink.HANDLERS = {
    ResponseReceived: PodLink._on_response,
    DataReceived: PodLink._on_data,
    TrailersReceived: PodLink._on_trailers,
    StreamReset: PodLink._on_reset,
    StreamClosed: PodLink._on_closed,
    GoAwayReceived: PodLink._on_goaway,
    SettingsReceived: PodLink._on_settings,
    PingAcknowledged: PodLink._on_ping_answered,
    ConnectionClosed: PodLink._on_connection_closed,
}
