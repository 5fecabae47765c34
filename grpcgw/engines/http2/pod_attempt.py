"""One try of an RPC on a stream to a pod: the session's `Attempt`.

Events of the stream only change its state; `deliver` reports them to the session (or the copy, or the policy), one at a
time. Why a stream ended is known from frames alone.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Protocol

from grpcgw.engines.http2.connection import QUEUE_BYTES, pile, take
from grpcgw.engines.http2.h2 import (
    ACKNOWLEDGE_BYTES,
    CANCEL,
    REFUSED_STREAM,
    DataReceived,
    Http2,
    ResponseReceived,
    TrailersReceived,
)
from grpcgw.engines.http2.headers import BadField, Field
from grpcgw.engines.http2.responses import parse_response, parse_trailers
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.turn import Flushed, Pumped, Turn
from grpcgw.model.codes import Code, code_of_reset
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status
from grpcgw.session.call import Opening, TryEvents

log = logging.getLogger(__name__)

DEADLINE_SLACK_S = 0.005
"""A pod that watches the same deadline may reset the stream so much before the gateway's timer expires."""


_SENT = Opening(None, False)
_NO_STATUS = Status(Code.UNKNOWN, "the pod ended the stream without a status", cause=Reason.NO_STATUS)
"""UNKNOWN: grpc `http-grpc-status-mapping` for HTTP 200, and `statuses` for one that cannot be read."""
_TRAILERS_WITHOUT_STATUS = Status(Code.UNKNOWN, "the pod's trailers have no status", cause=Reason.NO_STATUS)


class Link(Flushed, Protocol):
    """The HTTP/2 connection that a try has a stream on."""

    http: Http2
    turn: Turn
    is_lost: bool

    def is_written(self, stream_id: int, writer: PodAttempt) -> bool: ...
    def acknowledge(self, stream_id: int, size_bytes: int) -> None: ...
    def queued_bytes(self, stream_id: int) -> int: ...
    def forget(self, stream_id: int, reset: bool) -> None:
        """The try is over; `reset`: its stream may still be open."""
        ...


class OwnRpc(Pumped, Protocol):
    """The RPC that a try belongs to."""

    def note_held(self) -> None:
        """Much waits for a reader."""
        ...


class Owner(Protocol):
    """The pod that a try is sent to."""

    timers: Timers
    turn: Turn

    def is_too_large(self, fields_bytes: int) -> bool: ...
    def give_up(self, attempt: PodAttempt) -> None:
        """The try does not wait for a stream any more."""
        ...


class PodAttempt:
    __slots__ = (
        "_connection",
        "_deadline_s",
        "_ended",
        "_half_closed",
        "_headers",
        "_headers_reported",
        "_inbox",
        "_link",
        "_sent",
        "_status",
        "_stream_id",
        "_timer",
        "_unacknowledged_bytes",
        "_wanted",
        "events",
        "fields",
        "first",
        "is_due",
        "is_large",
        "is_over",
        "is_ready",
        "message_fields",
        "rpc",
    )

    def __init__(
        self,
        connection: Owner,
        rpc: OwnRpc | None,
        events: TryEvents,
        fields: list[Field],
        first: Opening,
        deadline_s: float | None,
        is_large: bool,
    ) -> None:
        """`rpc`: pumps this try with the RPC that it belongs to; None: it is pumped alone. `fields`: of the request,
        without `grpc-timeout`. `deadline_s`: on the monotonic clock. `is_large`: some pod may refuse `fields` for
        their size."""
        self._connection, self.rpc, self.events = connection, rpc, events
        self.fields, self.first, self._deadline_s = fields, first, deadline_s
        self._half_closed = first.half_close
        """The half-close was sent, or goes out with the opening."""
        self._link: Link | None = None
        self._stream_id = 0
        self._timer: LoopTimer | None = None
        self._inbox: deque[bytes] = deque()
        self._unacknowledged_bytes = 0
        self._wanted = True
        self._sent = False
        """What was sent is written, and that is to be reported."""
        self._headers: Metadata | None = None
        """The pod's initial metadata; None: it has not come."""
        self._headers_reported = False
        self._ended = False
        """Nothing more comes from the pod."""
        self._status: Status | None = None
        self.is_over = self.is_ready = self.is_due = False
        self.message_fields: tuple[Field, ...] = ()
        """`content-type` and encoding of the pod's answer."""
        self.is_large = is_large
        if deadline_s is not None:
            self._timer = connection.timers.at(deadline_s, self._expire)

    # --- the session's port

    def read(self) -> None:
        self._wanted = True
        if self._inbox or self._status is not None:
            self.is_due = True
        if self._unacknowledged_bytes >= ACKNOWLEDGE_BYTES:
            self._acknowledge()

    def send(self, message: bytes | None, half_close: bool) -> bool:
        link = self._link
        if link is None or self._status is not None:  # the status follows
            return False
        self._half_closed = half_close
        if message:
            link.http.send_data(self._stream_id, message, end_stream=half_close)
        elif half_close:
            link.http.end_stream(self._stream_id)
        if not link.is_dirty:
            link.turn.mark(link)
        return link.is_written(self._stream_id, self)

    def on_written(self) -> None:
        self._sent = True
        self.touch()

    def note_held(self) -> None:
        if self.rpc is not None:
            self.rpc.note_held()

    def held_bytes(self) -> int:
        """Data that waits for the client or the pod."""
        link = self._link
        size_bytes = sum(map(len, self._inbox))
        return size_bytes if link is None else size_bytes + link.queued_bytes(self._stream_id)

    def cancel(self) -> None:
        self.fail(Status(Code.CANCELLED, "the RPC ended on the client's side"))

    def fail(self, status: Status) -> None:
        """End the try with `status`, unless the pod has ended it. What it has read is of no use any more."""
        self._end(status)
        self._drop_inbox()
        if not self.is_over:  # a status that was here already has waited for the messages
            self.touch()

    def message_encoding(self) -> str:
        """The pod's `grpc-encoding`."""
        found = dict(self.message_fields).get(b"grpc-encoding", b"identity")
        return found.decode("latin-1")

    # --- the connection

    def left_s(self, now_s: float) -> float | None:
        """Time until the deadline; None: there is none."""
        return None if self._deadline_s is None else self._deadline_s - now_s

    def on_open(self, link: Link, stream_id: int) -> None:
        """The opening was sent."""
        self._link, self._stream_id = link, stream_id
        message = self.first.message
        self.fields, self.first = [], _SENT
        if message is None or len(message) < QUEUE_BYTES or link.is_written(stream_id, self):
            self._sent = True
            if not self._half_closed or self.rpc is None:  # else nothing follows: it is reported with the answer
                self.touch()

    def on_response(self, event: ResponseReceived) -> None:
        head = parse_response(event.headers)
        if self._connection.is_too_large(head.size_bytes):
            self._reject("the pod's headers are larger than the gateway takes")
            return
        status = head.fault
        if event.end_stream:
            try:
                status = parse_trailers(event.headers).status or status or _NO_STATUS
            except BadField as bad:
                self._end(Status(Code.UNKNOWN, str(bad), cause=Reason.NO_STATUS))
                return
        if status is None:
            self._headers, self.message_fields = head.metadata, head.message_fields
            self.touch()
        else:
            self._headers = ()
            self._end(status, self._is_unsent(event.end_stream))

    def on_data(self, event: DataReceived) -> None:
        data = event.data
        if self._status is not None:
            if data:
                self._link_acknowledge(len(data))
            return
        if data:
            if self._inbox:
                pile(self._inbox, data)
                self.note_held()
            else:
                self._inbox.append(data)
        if event.end_stream:
            self._end(_NO_STATUS, self._is_unsent(True))
        self.touch()

    def on_trailers(self, event: TrailersReceived) -> None:
        try:
            trailers = parse_trailers(event.headers)
        except BadField as bad:
            self._end(Status(Code.UNKNOWN, str(bad), cause=Reason.NO_STATUS))
            return
        if self._connection.is_too_large(trailers.size_bytes):
            self._reject("the pod's trailers are larger than the gateway takes")
            return
        self._end(trailers.status or _TRAILERS_WITHOUT_STATUS, self._is_unsent(True))

    def _is_unsent(self, pod_ended: bool) -> bool:
        """Whether the stream stays open where the pod has ended its side: something of the request was not sent."""
        if not pod_ended or not self._half_closed or self._link is None:
            return True
        return self._link.http.queued_body_size(self._stream_id) > 0

    def on_closed(self, code: int, by_pod: bool) -> None:
        """The stream is closed. `by_pod`: the pod reset it; else libnghttp2 did, over a response that breaks HTTP/2,
        or GOAWAY excluded it."""
        if self._status is not None:
            return
        if code == REFUSED_STREAM and self._headers is None:  # a pod that answers has the RPC
            self._end(Status(Code.UNAVAILABLE, "the pod refused the stream", cause=Reason.STREAM_REFUSED), reset=False)
        elif by_pod and code == CANCEL and self._is_due():
            self._end(Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", cause=Reason.TIMEOUT), reset=False)
        elif by_pod or code == REFUSED_STREAM:
            what = f"the pod reset the stream (HTTP/2 error {code})" if by_pod else "GOAWAY gave up an answered stream"
            self._end(Status(code_of_reset(code), what, cause=Reason.STREAM_RESET), reset=False)
        else:
            what = f"the pod's response breaks HTTP/2 (error {code})"
            self._end(Status(Code.INTERNAL, what, cause=Reason.BAD_RESPONSE), reset=False)

    def on_lost(self, why: str) -> None:
        """The connection is lost after the opening was sent."""
        self._end(Status(Code.UNAVAILABLE, why, cause=Reason.CONNECTION_LOST), reset=False)

    def on_unsent(self, why: str) -> None:
        """There is no connection: nothing was sent."""
        self._end(Status(Code.UNAVAILABLE, why, cause=Reason.CONNECT_FAILED))

    def on_expired(self) -> None:
        self._end(Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", cause=Reason.TIMEOUT))

    def on_too_large(self, limit_bytes: int) -> None:
        """Nothing was sent: over headers that are too large, pods end the connection with the RPCs of other clients."""
        what = f"the pod takes at most {limit_bytes} bytes of headers"
        self._end(Status(Code.RESOURCE_EXHAUSTED, what, cause=Reason.METADATA_TOO_LARGE))

    def _reject(self, why: str) -> None:
        """For headers that are too large; INTERNAL, because it counts against the pod."""
        self._end(Status(Code.INTERNAL, why, cause=Reason.METADATA_TOO_LARGE))

    # --- the end

    def _is_due(self) -> bool:
        return self._deadline_s is not None and time.monotonic() >= self._deadline_s - DEADLINE_SLACK_S

    def _expire(self) -> None:
        self._timer = None
        self.on_expired()

    def _end(self, status: Status, reset: bool = True) -> None:
        """The try ends with `status`, the first of them. `reset`: unless the pod has closed the stream, reset it."""
        if self._status is not None:
            return
        self._status, self._ended = status, True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        link = self._link
        if link is not None:
            link.forget(self._stream_id, reset)
        else:
            self._connection.give_up(self)
        if status.code != Code.OK and status.cause is not None:
            self._drop_inbox()
        elif self._unacknowledged_bytes:  # it may be that nothing more is read
            self._acknowledge()
        self.touch()

    def _drop_inbox(self) -> None:
        size_bytes = sum(map(len, self._inbox)) + self._unacknowledged_bytes
        self._inbox.clear()
        self._unacknowledged_bytes = 0
        if size_bytes:
            self._link_acknowledge(size_bytes)

    def _acknowledge(self) -> None:
        size_bytes, self._unacknowledged_bytes = self._unacknowledged_bytes, 0
        self._link_acknowledge(size_bytes)

    def _link_acknowledge(self, size_bytes: int) -> None:
        if self._link is not None:
            self._link.acknowledge(self._stream_id, size_bytes)

    # --- events

    def touch(self) -> None:
        """Something is to be delivered."""
        if self.is_due:
            return
        self.is_due = True
        rpc = self if self.rpc is None else self.rpc
        if not rpc.is_ready:
            self._connection.turn.touch(rpc)

    def pump(self, now_s: float) -> None:
        """For a try that is pumped alone."""
        while self.is_due:  # also after a defect, for the status
            try:
                self.deliver(now_s)
            except Exception:
                log.exception("defect: an event of a copy could not be handled")
                self._contain(now_s)

    def _contain(self, now_s: float) -> None:
        try:
            self.events.on_defect(now_s)
        except Exception:
            log.exception("defect: a copy could not be ended")

    def deliver(self, now_s: float) -> None:
        """Report what is due."""
        self.is_due = False
        if self.is_over:
            return
        events = self.events
        if self._sent:
            self._sent = False
            events.on_pod_sent(True, now_s)
        if self._headers is not None and not self._headers_reported:
            self._headers_reported = True
            events.on_pod_headers(self._headers, now_s)
        if self._wanted and self._inbox:
            self._deliver_message(events, now_s)
        if self._status is not None and not self._inbox:
            self._deliver_end(events, self._status, now_s)

    def _deliver_message(self, events: TryEvents, now_s: float) -> None:
        inbox = self._inbox
        message = inbox.popleft() if len(inbox) == 1 else take(inbox)
        self._wanted = False
        if self._ended:
            self._link_acknowledge(len(message) + self._unacknowledged_bytes)
            self._unacknowledged_bytes = 0
        else:
            self._unacknowledged_bytes += len(message)
        events.on_pod_message(message, now_s)

    def _deliver_end(self, events: TryEvents, status: Status, now_s: float) -> None:
        self.is_over = True
        if not self._headers_reported:
            if self._link is None:
                events.on_pod_sent(False, now_s)
            events.on_pod_headers(None if self._link is None else (), now_s)
        if self._wanted:
            self._wanted = False
            events.on_pod_message(None, now_s)
        events.on_pod_status(status, now_s)
        self.rpc = None  # it leads back here: the objects of every RPC would wait for the garbage collector
