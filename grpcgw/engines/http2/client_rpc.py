"""The client's side of one RPC on an HTTP/2 stream: the session's `Call`.

Events of the stream only change its state; `pump` reports them to the session until nothing is due. What arrives in one
turn so goes on in one turn, and `coalesce` needs no clock: it expires at the end of the turn.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.engines.http2.client_side import ClientSide
from grpcgw.engines.http2.connection import pile, take
from grpcgw.engines.http2.h2 import ACKNOWLEDGE_BYTES, CANCEL, INTERNAL_ERROR
from grpcgw.engines.http2.headers import CONTENT_TYPE, Field, RequestHead, encode_metadata
from grpcgw.engines.http2.memory_bound import SMALL_BYTES
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_connection import PodConnection
from grpcgw.engines.http2.policy_replies import PolicyReplies
from grpcgw.engines.http2.responses import STATUS_200, encode_status
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.request import Request
from grpcgw.session.call import Attempt, Opening, PolicyRpcEvents, Timer, TryEvents
from grpcgw.session.message_reader import frame
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod

log = logging.getLogger(__name__)

# A global, because access to a member of an enum costs ten times as much: 0.1 us.
COALESCE = Timer.COALESCE
LARGE_BYTES = 4096
"""Header lists that some pod may refuse for their size, with what a Mapping adds: grpc-java takes 8 KiB."""


class RpcEngine(Protocol):
    """What an RPC uses of its engine."""

    serving: Serving
    timers: Timers
    active: set[ClientRpc]

    def run_coroutine(self, work: CoroutineWork, on_result: Callable[[object], None]) -> RunningWork: ...


class ClientRpc:
    carries_frames = True

    __slots__ = (
        "_asks",
        "_begun",
        "_client",
        "_coalescing",
        "_ended",
        "_engine",
        "_gone",
        "_head",
        "_inbox",
        "_metadata_bytes",
        "_request",
        "_sent",
        "_stream_id",
        "_timer",
        "_unacknowledged_bytes",
        "_wanted",
        "attempt",
        "is_over",
        "is_ready",
        "session",
        "view",
    )

    session: Exchange
    _request: Request

    def __init__(self, engine: RpcEngine, client: ClientSide, stream_id: int, head: RequestHead, ended: bool) -> None:
        """`ended`: the request has no messages."""
        self._engine, self._client, self._stream_id, self._head = engine, client, stream_id, head
        self.view = client.view
        self._inbox: deque[bytes] = deque()
        self._unacknowledged_bytes = self._metadata_bytes = 0
        self._ended = ended
        """The client half-closed."""
        self._wanted = self._sent = self._coalescing = self._gone = self._begun = False
        """`_gone`: the client has reset the stream, or its connection is lost."""
        self._timer: LoopTimer | None = None
        self.attempt: PodAttempt | None = None
        self._asks: list[PodAttempt] | None = None
        """RPCs of policies."""
        self.is_over = self.is_ready = False

    # --- the stream

    def on_data(self, data: bytes, ended: bool) -> None:
        if data:
            if self._inbox:
                pile(self._inbox, data)
                self.note_held()
            else:
                self._inbox.append(data)
        self._ended |= ended

    def on_gone(self) -> None:
        """The client reset the stream, or its connection is lost."""
        self._gone = True

    def header_bytes(self) -> int:
        """Of the request, as limits count them."""
        return self._head.size_bytes

    def on_written(self) -> None:
        self._sent = True
        self._client.turn.touch(self)

    # --- memory

    def note_held(self) -> None:
        self._client.turn.memory.note(self)

    def held_bytes(self) -> int:
        size_bytes = self._client.queued_bytes(self._stream_id)
        if not self.is_over:
            size_bytes += self._metadata_bytes + sum(map(len, self._inbox))
            if self.attempt is not None:
                size_bytes += self.attempt.held_bytes()
        return size_bytes

    def free(self, now_s: float) -> None:
        if self.is_over:
            self._client.drop(self._stream_id)
        else:
            self._tell(self.session.on_too_much_held, now_s)

    # --- events to the session

    def pump(self, now_s: float) -> None:
        try:
            if not self._begun:
                self._begin(now_s)
            self._deliver(now_s)
        except Exception:  # a defect in one RPC must not end the loop that serves all
            was_over = self.is_over
            self.end_for_defect()
            if not was_over:  # once more in this turn, for the end of its try
                self.is_ready = False
                self._client.turn.touch(self)

    def _begin(self, now_s: float) -> None:
        self._begun = True
        head, client, serving = self._head, self._client, self._engine.serving
        deadline_s = None if head.timeout_s is None else now_s + head.timeout_s
        request = Request(head.path, head.authority, head.metadata, deadline_s, client.peer, time.time(), client.view)
        request.refusal, request.message_encoding = head.refusal, head.encoding
        request.has_own_keys, request.metadata_bytes = head.has_own_keys, head.size_bytes
        self._request = request
        if serving.wants_certificate(client.view):
            request.certificate = client.certificate()
        self.session = begin_exchange(serving, self, request, now_s)
        self.session.start(now_s, self._gone)
        self._metadata_bytes = request.metadata_bytes
        if self._metadata_bytes > SMALL_BYTES:
            self.note_held()

    def _deliver(self, now_s: float) -> None:
        """Report what is due, until nothing is."""
        session = self.session
        while True:
            attempt = self.attempt
            if self._gone:
                self._gone = False
                self._leave(now_s)
            elif self._sent:
                self._sent = False
                session.on_client_sent(True, now_s)
            elif self._wanted and (self._inbox or self._ended):
                self._deliver_message(now_s)
            elif attempt is not None and attempt.is_due:
                attempt.deliver(now_s)
            elif self._asks is not None and self._deliver_asks(self._asks, now_s):
                pass
            elif self._coalescing:
                self._coalescing = False
                session.on_timer(COALESCE, now_s)
            else:
                return

    def _deliver_asks(self, asks: list[PodAttempt], now_s: float) -> bool:
        due = [ask for ask in asks if ask.is_due]
        for ask in due:
            ask.deliver(now_s)
        if due and self._asks is not None:  # what was delivered may have asked again
            self._asks = [ask for ask in self._asks if not ask.is_over] or None
        return bool(due)

    def _deliver_message(self, now_s: float) -> None:
        self._wanted = False
        if not self._inbox:
            self.session.on_request_message(None, now_s)
            return
        inbox = self._inbox
        first = self.attempt is None  # another try may be sent the first chunk again: it is taken alone
        message = inbox.popleft() if first or len(inbox) == 1 else take(inbox)
        self._unacknowledged_bytes += len(message)
        if last := self._ended and not inbox:
            self._acknowledge()
        self.session.on_request_message(message, now_s, last)

    def _acknowledge(self) -> None:
        size_bytes, self._unacknowledged_bytes = self._unacknowledged_bytes, 0
        self._client.acknowledge(self._stream_id, size_bytes)

    def _leave(self, now_s: float) -> None:
        if not self.is_over:
            self._close()
            self.session.on_client_closed(now_s, by_client=True)

    def _close(self) -> None:
        """The client gets no more of this RPC."""
        self.is_over = True
        self._wanted = False
        self._engine.active.discard(self)
        self._client.forget(self._stream_id)
        if self._inbox:
            self._unacknowledged_bytes += sum(map(len, self._inbox))
            self._inbox.clear()
        if self._unacknowledged_bytes:
            self._acknowledge()
        if not self._client.queued_bytes(self._stream_id):
            self._client.turn.memory.forget(self)

    def sweep(self, now_s: float) -> None:
        if self._begun:
            self._tell(self.session.on_sweep, now_s)

    def end_for_drain(self, now_s: float) -> None:
        if self._begun:
            self._tell(self.session.on_drained, now_s)

    def _tell(self, event: Callable[[float], None], now_s: float) -> None:
        try:
            event(now_s)
        except Exception:  # as in `pump`
            self.end_for_defect()
        self._client.turn.touch(self)

    def end_for_defect(self) -> None:
        """For an exception that is being handled."""
        log.exception("defect: an event of an RPC could not be handled")
        try:
            self.session.on_defect(time.monotonic())
        except Exception:  # two defects in one RPC: the others must go on
            log.exception("defect: an RPC could not be ended")
            self._client.reset(self._stream_id, INTERNAL_ERROR)
            self._close()
            if self.attempt is not None:
                self.attempt.cancel()

    # --- the session's port

    def read(self) -> None:
        self._wanted = True
        if self._unacknowledged_bytes >= ACKNOWLEDGE_BYTES:
            self._acknowledge()

    def send(self, headers: Metadata | None, message: bytes | None) -> bool:
        if self._gone:  # the stream is closed, which is reported to the session next
            return False
        client, stream_id = self._client, self._stream_id
        if headers is not None:
            client.http.send_response(stream_id, self._response_fields(headers))
        if message:
            client.http.send_data(stream_id, message)
        if not client.is_dirty:
            client.turn.mark(client)
        return client.is_written(stream_id, self)

    def _response_fields(self, headers: Metadata) -> list[Field]:
        attempt = self.attempt
        described = (CONTENT_TYPE,) if attempt is None else attempt.message_fields or (CONTENT_TYPE,)
        return [STATUS_200, *described, *encode_metadata(headers)]

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        if self._gone:
            self._close()
            return
        client, stream_id = self._client, self._stream_id
        http, trailers = client.http, encode_status(status)
        if headers_sent or headers or message is not None:
            if not headers_sent:
                http.send_response(stream_id, self._response_fields(headers or ()))
            if message:
                http.send_data(stream_id, message)
            http.send_trailers(stream_id, trailers)
        else:
            http.send_response(stream_id, [*self._response_fields(()), *trailers], end_stream=True)
        if not self._ended:
            client.reset_when_sent(stream_id)
        client.turn.mark(client)
        self._close()

    def abort(self, status: Status) -> None:
        client = self._client
        if client.http.queued_body_size(self._stream_id):
            client.reset(self._stream_id, CANCEL)
            self._close()
        else:
            self.finish(None, None, status, True)

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        self.cancel_timer()
        self._timer = self._engine.timers.at(time.monotonic() + delay_s, partial(self._expire, timer))

    def coalesce(self) -> None:
        if self._timer is not None:
            self.cancel_timer()
        self._coalescing = True

    def cancel_timer(self) -> None:
        self._coalescing = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, timer: Timer) -> None:
        self._timer = None
        self._tell(partial(self.session.on_timer, timer), time.monotonic())

    def open(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float | None,
        first: Opening,
        copy: TryEvents | None = None,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, PodConnection)
        fields = connection.request_fields(path, authority)
        fields += self._head.message_fields
        fields += encode_metadata(metadata)
        is_large = self._request.metadata_bytes > LARGE_BYTES
        if copy is not None:
            return connection.begin(None, copy, fields, first, deadline_s, is_large)
        self._coalescing = False  # the window for the request, which is sent on now
        self.attempt = attempt = connection.begin(self, self.session, fields, first, deadline_s, is_large)
        return attempt

    def ask(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float,
        message: bytes,
        events: PolicyRpcEvents,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, PodConnection)
        fields = [*connection.request_fields(path, authority), CONTENT_TYPE, *encode_metadata(metadata)]
        replies = PolicyReplies(events)
        attempt = connection.begin(self, replies, fields, Opening(frame(message), True), deadline_s, is_large=True)
        replies.attempt = attempt
        self._asks = [*(self._asks or ()), attempt]
        return attempt

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        return self._engine.run_coroutine(work, partial(self._on_coroutine, on_result))

    def _on_coroutine(self, on_result: Callable[[object, float], None], result: object) -> None:
        self._tell(partial(on_result, result), time.monotonic())
