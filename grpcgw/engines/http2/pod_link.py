"""One HTTP/2 connection to a pod: the events of its streams go to the tries that are on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, ClassVar

from grpcgw.engines.http2.connection import PeerConnection
from grpcgw.engines.http2.h2 import (
    CANCEL,
    NO_ERROR,
    ConnectionClosed,
    DataReceived,
    Event,
    GoAwayReceived,
    Http2Error,
    PingAcknowledged,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    max_streams,
    open_client,
)
from grpcgw.engines.http2.headers import format_timeout
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.engines.http2.turn import Turn

PING = b"grpcgw!!"


class PodLink(PeerConnection):
    """`ready` is set when the pod's settings are here, and raises ConnectionError where the link is lost before."""

    def __init__(
        self, turn: Turn, max_metadata_bytes: int, tls: TlsLayer | None, on_change: Callable[[PodLink], None]
    ) -> None:
        """`on_change`: called when a stream ended, the pod said GOAWAY, or the link was lost."""
        super().__init__(turn)
        self.http = open_client(max_metadata_bytes)
        self._tls, self._on_change = tls, on_change
        self.streams: dict[int, PodAttempt] = {}
        self._resets: set[int] = set()
        """Streams that the pod has reset; libnghttp2 then closes them."""
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_leaving = False
        """It takes no new streams: the pod said GOAWAY."""
        self.idle_since_s = time.monotonic()
        self.pinged_at_s: float | None = None
        """When a ping went out that is not answered yet."""
        self._max_streams = 0

    # --- the connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._tls is None:
            self.turn.mark(self)
        else:
            self._encrypt = self._tls.send
            self.transport.write(self._tls.handshake(b""))

    def data_received(self, data: bytes) -> None:
        self.heard_at_s = time.monotonic()
        if self._tls is None:
            self.receive(data)
            return
        try:
            data = self._decrypt(self._tls, data)
        except (TlsFailed, TlsClosed) as error:
            if isinstance(error, TlsFailed) and error.to_send:
                self.transport.write(error.to_send)
            self.fail(str(error))
            return
        if data:
            self.receive(data)

    def _decrypt(self, tls: TlsLayer, data: bytes) -> bytes:
        if tls.established:
            return tls.receive(data)
        answer = tls.handshake(data)
        if answer:
            self.transport.write(answer)
        if not tls.established:
            return b""
        if tls.alpn not in ("h2", None):
            self.fail(f"the pod speaks {tls.alpn}, not HTTP/2")
            return b""
        self.turn.mark(self)
        return tls.receive(b"")

    def flush(self) -> None:
        if self._tls is None or self._tls.established:
            super().flush()

    def on_lost(self, why: str) -> None:
        why = f"connection lost: {why}" if why else "the pod closed the connection"
        if not self.ready.done():
            self.ready.set_exception(ConnectionError(why))
            self.ready.exception()  # it may be that nobody waits any more
        for attempt in tuple(self.streams.values()):
            attempt.on_lost(why)
        self.streams.clear()
        self._on_change(self)

    def close(self) -> None:
        """End the connection; what runs on it ends with it."""
        if self.is_lost:
            return
        if not self.streams:
            try:
                self.http.send_goaway(NO_ERROR)
                self.flush()
            except Http2Error:
                pass
        self.lose("the gateway closed it")
        self.transport.close()

    # --- streams

    def has_room(self) -> bool:
        return not self.is_leaving and not self.is_lost and len(self.streams) < self._max_streams

    def open(self, attempt: PodAttempt, now_s: float) -> bool:
        """Send the opening of a try; False: the connection takes no stream any more."""
        left_s, first = attempt.left_s(now_s), attempt.first
        fields = attempt.fields
        if left_s is not None:
            fields = [*fields, (b"grpc-timeout", format_timeout(max(left_s, 1e-6)))]
        try:
            stream_id = self.http.send_request(fields, end_stream=first.half_close and not first.message)
        except Http2Error:
            self.is_leaving = True
            return False
        if first.message:
            self.http.send_data(stream_id, first.message, end_stream=first.half_close)
        self.streams[stream_id] = attempt
        self.turn.mark(self)
        attempt.on_open(self, stream_id)
        return True

    def forget(self, stream_id: int, reset: bool) -> None:
        """The try on this stream is over."""
        if self.streams.pop(stream_id, None) is None:
            return
        if reset:
            self.reset(stream_id, CANCEL)
        if not self.streams:
            self.idle_since_s = time.monotonic()
        self._on_change(self)

    def ping(self, now_s: float) -> None:
        self.pinged_at_s = now_s
        self.http.ping(PING)
        self.turn.mark(self)

    # --- events

    def _on_settings(self, event: SettingsReceived) -> None:
        self._max_streams = max_streams(self.http)
        if not self.ready.done():
            self.ready.set_result(None)
        self._on_change(self)

    def _on_response(self, event: ResponseReceived) -> None:
        attempt = self.streams.get(event.stream_id)
        if attempt is not None:
            attempt.on_response(event)

    def _on_data(self, event: DataReceived) -> None:
        attempt = self.streams.get(event.stream_id)
        if attempt is not None:
            attempt.on_data(event)
        elif event.data:
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
        if attempt is not None:
            attempt.on_closed(event.error_code, by_pod)

    def _on_goaway(self, event: GoAwayReceived) -> None:
        self.is_leaving = True
        self._on_change(self)

    def _on_ping_answered(self, event: PingAcknowledged) -> None:
        self.pinged_at_s = None

    def _on_connection_closed(self, event: ConnectionClosed) -> None:
        if event.error_code:
            self.flush()
            self.fail(f"the pod breaks HTTP/2 (error {event.error_code})")
        else:
            self.is_leaving = True
            self._on_change(self)

    HANDLERS: ClassVar[dict[type[Event], Callable[[Any, Any], None]]] = {
        ResponseReceived: _on_response,
        DataReceived: _on_data,
        TrailersReceived: _on_trailers,
        StreamReset: _on_reset,
        StreamClosed: _on_closed,
        GoAwayReceived: _on_goaway,
        SettingsReceived: _on_settings,
        PingAcknowledged: _on_ping_answered,
        ConnectionClosed: _on_connection_closed,
    }
