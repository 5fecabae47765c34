"""The gateway's end of a client's connection: its streams are RPCs. Bounds its age, its silence and what it holds."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from grpcgw.engines.contract import REFUSING_S
from grpcgw.engines.http2.client_life import ClientLife, Due
from grpcgw.engines.http2.client_limits import ClientLimits, ControlBudget, count_reset
from grpcgw.engines.http2.client_rpc import ClientRpc, RpcEngine
from grpcgw.engines.http2.client_side import ClientSide
from grpcgw.engines.http2.connection import LINGER_S, close_when_sent
from grpcgw.engines.http2.h2 import (
    CANCEL,
    NO_ERROR,
    PROTOCOL_ERROR,
    ConnectionClosed,
    DataReceived,
    Event,
    Http2Error,
    PingAcknowledged,
    PingReceived,
    PriorityUpdateReceived,
    RequestReceived,
    SettingsAcknowledged,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
    open_server,
)
from grpcgw.engines.http2.headers import NOT_SHOWN, RequestHead, is_grpc, parse_request
from grpcgw.engines.http2.http_answers import answer_http
from grpcgw.engines.http2.last_answer import LastAnswer
from grpcgw.engines.http2.memory_bound import SMALL_BYTES
from grpcgw.engines.http2.part_cutter import PartCutter, PartLimits
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.engines.http2.turn import QUIET_S, Turn
from grpcgw.listeners.open_ports import PortView
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.request import Peer
from grpcgw.telemetry.client_counters import ClientCounters, CloseCause

PING = b"grpcgw!!"
UNREAD_S = 30.0
"""Time for a client to read the rest of an answer after its RPC is over."""
AT_ONCE = PartLimits(8192, frames=64, rpcs=16, block_bytes=8192)
"""More than this is handled in parts."""
PARTS = tuple(
    PartLimits(size_bytes, frames=32, rpcs=1, block_bytes=2048) for size_bytes in (4096, 8192, 16_384, 32_768, 65_536)
)
"""An RPC takes as much time as parts have in one turn, and its header fields up to as much again. Few bytes where they
take long: 64 KiB of DATA may be one message or 13,000."""
LARGE_PART = PartLimits(65_536, frames=512, rpcs=16, block_bytes=16_384)
"""Where nobody waits: each part takes some time of its own."""


class ConnectionEngine(RpcEngine, Protocol):
    """What a connection uses of its engine."""

    turn: Turn
    timers: Timers
    clients: ClientCounters


class ClientConnection(ClientSide):
    def __init__(
        self,
        engine: ConnectionEngine,
        view: PortView,
        limits: ClientLimits,
        tls: TlsLayer | None,
        may_call: Callable[[str], bool] | None,
        note_lost: Callable[[ClientConnection], None],
    ) -> None:
        """`may_call`: whether the client showed what RPCs to an authority demand; None: they demand nothing."""
        super().__init__(engine.turn)
        self._engine, self.view, self._limits, self._note_lost = engine, view, limits, note_lost
        self._may_call = may_call
        self._tls = tls
        if tls is not None:
            self._encrypt = tls.send
        self.streams: dict[int, ClientRpc] = {}
        self._reset_by_client = 0
        """The last stream that the client reset."""
        self._unread: dict[int, float] = {}
        """Streams whose RPC is over and whose answer the client has not read → when it ended."""
        self._cutter = PartCutter()
        self._part = 0
        """The index of its size in PARTS."""
        self._much_at_s = -math.inf
        """Monotonic time when the client sent much at once."""
        self._leaving = self._lingers = False
        """`_lingers`: its client has all answers, as far as the gateway knows, and may still read them."""
        self.close_cause = CloseCause.CLIENT
        """Why it ended, once it is lost."""
        self._check_timer: LoopTimer | None = None
        now_s = time.monotonic()
        self._life = ClientLife(limits, now_s, random.uniform(0.9, 1.1))
        self._control = ControlBudget(now_s)
        self._answers = 0
        """RPCs that are over."""
        self._has_new = False
        """An RPC has come since something was written at once."""

    def begin_http2(self, peer: Peer) -> None:
        """HTTP/2 begins on the connection."""
        limits = self._limits
        self.peer = peer
        self.http = open_server(limits.max_concurrent_streams, limits.max_metadata_bytes)
        self.turn.mark(self)
        self._check_later()

    def data_received(self, data: bytes) -> None:
        self.received_at_s = time.monotonic()
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except TlsFailed as error:
                self.fail(str(error))
                return
            except TlsClosed as error:
                self.fail(str(error), CloseCause.CLIENT)
                return
            if not data:
                return
        self.accept(data)

    def accept(self, data: bytes) -> None:
        """HTTP/2 bytes, after TLS: handle them now or, where they are many, in parts."""
        if self._backlog or len(data) > AT_ONCE.size_bytes:
            self.postpone(data)
            return
        size = self._cutter.cut(data, AT_ONCE)
        if size < len(data):
            self.receive(data[:size])
            self.postpone(data[size:])
            return
        if self.received_at_s >= self._much_at_s + QUIET_S:
            self.turn.small_at_s = self.received_at_s
        self.receive(data)

    def on_queued(self) -> None:
        """With new RPCs it is written before they begin: libnghttp2 reports that it resets a malformed request when the
        reset is written, and such a request must reach no pod (RFC 9113, 8.1.1)."""
        if self._has_new:
            self._has_new = False
            self.flush()
        else:
            self.turn.mark(self)

    def postpone(self, data: bytes) -> None:
        self._much_at_s = self.received_at_s
        super().postpone(data)

    def cut_part(self, waiting: memoryview) -> int:
        return self._cutter.cut(waiting, PARTS[self._part] if self.turn.hurries else LARGE_PART)

    def fit_part(self, took_s: float, limit_s: float) -> None:
        if took_s > limit_s:
            self._part = max(0, self._part - 1)
        elif took_s < limit_s / 2:
            self._part = min(len(PARTS) - 1, self._part + 1)

    def may_read(self) -> bool:
        """Not while the client does not read its answers: it could make the gateway keep any number of them, as resets
        end streams whose answers are still to be sent."""
        return not self._paused and super().may_read()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.steer_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.steer_reading()

    def fail(self, why: str, cause: CloseCause = CloseCause.PROTOCOL_ERROR) -> None:
        self._note_cause(cause)
        super().fail(why)

    def _note_cause(self, cause: CloseCause) -> None:
        """Before it is lost."""
        if not self.is_lost:
            self.close_cause = cause

    def certificate(self) -> ClientCertificate | None:
        return None if self._tls is None else self._tls.peer_certificate()

    def on_lost(self, why: str) -> None:
        if self._check_timer is not None:
            self._check_timer.cancel()
        for rpc in tuple(self.streams.values()):
            rpc.on_gone()
            self.turn.touch(rpc)
        if not self._lingers:
            self._note_lost(self)

    def forget(self, stream_id: int) -> None:
        rpc = self.streams.pop(stream_id, None)
        if rpc is None:
            return
        self._answers += 1
        now_s = time.monotonic()
        if not self.is_lost and (size_bytes := self.http.queued_body_size(stream_id)):
            self._unread[stream_id] = now_s
            if size_bytes > SMALL_BYTES:
                rpc.note_held()
        if not self.streams:
            self._life.idle_since_s = now_s
            if self._leaving:
                self.turn.mark(self)

    def drop(self, stream_id: int) -> None:
        if self._paused:  # not even the reset of a stream reaches the client
            self.cut_off()
        else:
            self.reset(stream_id, CANCEL)

    def flush(self) -> None:
        super().flush()
        if self._leaving and not self.streams and not self.is_lost:
            http = self.http
            if not http.want_write and not http.queued_body_size():
                self._hang_up()

    # --- life

    def drain(self) -> None:
        """Send GOAWAY. New RPCs are refused for a moment, so that none is lost on the way; running ones may finish."""
        if self._leaving or self.is_lost:
            return
        self.http.send_shutdown_notice()
        self.turn.mark(self)
        self._engine.timers.at(time.monotonic() + REFUSING_S, self._go_away)

    def _go_away(self) -> None:
        if not self.is_lost and not self._leaving:
            self._leaving = True
            with suppress(Http2Error):  # it has ended already
                self.http.send_goaway(NO_ERROR)
            self.turn.mark(self)

    def _hang_up(self, cause: CloseCause = CloseCause.GATEWAY) -> None:
        if self.is_lost:
            return
        self.close_cause = cause
        self._lingers = cause is CloseCause.GATEWAY
        self.lose("")
        if self._lingers:
            last = LastAnswer(self.transport, self._engine.timers, LINGER_S, partial(self._note_lost, self))
            last.send(b"" if self._tls is None else self._tls.close())
        else:
            close_when_sent(self.transport)

    def cut_off(self) -> None:
        """Close the connection with whatever runs on it."""
        if not self.is_lost:
            self._note_cause(CloseCause.CUT_OFF if self.streams else CloseCause.GATEWAY)
            self.lose("")
        self.transport.abort()

    def _check_later(self) -> None:
        now_s = time.monotonic()
        pause_s = self._life.wait_s(now_s, bool(self.streams))
        self._check_timer = self._engine.timers.at(now_s + pause_s, self._check)

    def _check(self) -> None:
        now_s = time.monotonic()
        self._check_timer = None
        for due in self._life.look(now_s, bool(self.streams), self.received_at_s):
            self._do(due)
        for stream_id, since_s in tuple(self._unread.items()):
            if now_s - since_s >= UNREAD_S:
                self.reset(stream_id, NO_ERROR)
        if not self.is_lost:
            self._check_later()

    def _do(self, due: Due) -> None:
        if self.is_lost:
            return
        if due is Due.PING:
            self.http.ping(PING)
            self.turn.mark(self)
        elif due is Due.IDLE:
            self._go_away()
        elif due is Due.OLD:
            self.drain()
        elif due is Due.TOO_OLD:
            self.cut_off()
        else:
            asked = "acknowledge the settings" if due is Due.NO_SETTINGS else "answer pings"
            self.fail(f"the client does not {asked}", CloseCause.SILENT)

    # --- events

    def _on_request(self, event: RequestReceived) -> None:
        head = parse_request(event.headers)
        if head.method != b"POST" or not is_grpc(head.content_type):
            self._answer_http(event.stream_id, head)
            return
        if self._may_call is not None and not self._may_call(head.authority):
            head.refusal = NOT_SHOWN
        rpc = ClientRpc(self._engine, self, event.stream_id, head, event.end_stream)
        self.streams[event.stream_id] = rpc
        self._engine.active.add(rpc)
        self._has_new = True
        self.turn.touch(rpc)

    def _answer_http(self, stream_id: int, head: RequestHead) -> None:
        """A request that is no gRPC."""
        answer = answer_http(head, is_healthy=not (self._engine.serving.draining or self.view.closing))
        self._engine.clients.http_requests[int(answer.status)] += 1
        try:
            self.http.send_response(stream_id, answer.fields, end_stream=not answer.body)
            if answer.body:
                self.http.send_data(stream_id, answer.body, end_stream=True)
        except Http2Error:  # the client has reset it meanwhile, which is among the events that follow
            return
        self.reset_when_sent(stream_id)

    def _on_data(self, event: DataReceived) -> None:
        rpc = self.streams.get(event.stream_id)
        if rpc is not None:
            rpc.on_data(event.data, event.end_stream)
            if not rpc.is_ready:
                self.turn.touch(rpc)
        elif event.data:
            self.acknowledge(event.stream_id, len(event.data))

    def _on_trailers(self, event: TrailersReceived) -> None:
        rpc = self.streams.get(event.stream_id)
        if rpc is not None:  # gRPC knows no trailers of a request: they end it
            rpc.on_data(b"", True)
            self.turn.touch(rpc)

    def _on_reset(self, event: StreamReset) -> None:
        """By the client. `StreamClosed` follows at once."""
        self._reset_by_client = event.stream_id

    def _on_closed(self, event: StreamClosed) -> None:
        """Of an RPC that is not over: the client reset it, or libnghttp2 did for what the client sent."""
        self._unread.pop(event.stream_id, None)
        if event.error_code == PROTOCOL_ERROR and event.stream_id != self._reset_by_client:
            self._engine.clients.malformed_requests += 1
        rpc = self.streams.get(event.stream_id)
        if rpc is not None:
            rpc.on_gone()
            self.turn.touch(rpc)
            self._on_control(event, count_reset(rpc.header_bytes()))

    def _on_settings_acknowledged(self, event: SettingsAcknowledged) -> None:
        self._life.is_confirmed = True

    def _on_ping_answered(self, event: PingAcknowledged) -> None:
        self._life.note_answer()
        self._on_control(event)

    def _on_control(self, event: Event, frames: int = 1) -> None:
        if not self._control.count(frames):
            return
        begun = self._answers + len(self.streams)
        if self._control.is_exceeded(begun + self.sent_chunks, time.monotonic()):
            self._engine.timers.at(0.0, self._end_flood)  # later, as RPCs of the same bytes may still begin

    def _end_flood(self) -> None:
        if not self.is_lost:
            self._note_cause(CloseCause.PROTOCOL_ERROR)
            self.reject("the client floods the connection with control frames")

    def _on_connection_closed(self, event: ConnectionClosed) -> None:
        self.flush()
        self._hang_up(CloseCause.PROTOCOL_ERROR if event.error_code else CloseCause.GATEWAY)


ClientConnection.HANDLERS = {
    RequestReceived: ClientConnection._on_request,
    DataReceived: ClientConnection._on_data,
    TrailersReceived: ClientConnection._on_trailers,
    StreamReset: ClientConnection._on_reset,
    StreamClosed: ClientConnection._on_closed,
    SettingsAcknowledged: ClientConnection._on_settings_acknowledged,
    PingAcknowledged: ClientConnection._on_ping_answered,
    PingReceived: ClientConnection._on_control,
    SettingsReceived: ClientConnection._on_control,
    WindowUpdated: ClientConnection._on_control,
    PriorityUpdateReceived: ClientConnection._on_control,
    ConnectionClosed: ClientConnection._on_connection_closed,
}
