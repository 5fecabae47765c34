"""Base of the gateway's own services: ends, counts and logs RPCs that the gateway answers itself.

No pod is involved, so an engine's pod events do nothing here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status, make_status, reason_of
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.request import Request
from grpcgw.session.call import Timer
from grpcgw.session.ending import client_left, ended_by
from grpcgw.session.serving import Serving
from grpcgw.telemetry.access_log import RpcRecord, StatusFrom, is_logged
from grpcgw.telemetry.counters import CLIENT_CANCELLED, LOCAL

IDLE_TIMEOUT_S = 300.0
"""As the default of Mappings."""


class ServiceCall(Protocol):
    """What a service uses of an RPC's client side: as in `Call`, with whole messages."""

    def read(self) -> None: ...
    def send(self, headers: Metadata | None, message: bytes | None) -> object:
        """Answered by `on_client_sent` in any case."""
        ...

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None: ...
    def abort(self, status: Status) -> None: ...
    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork: ...


class LocalExchange:
    """One RPC. Subclasses handle requests in `answer`; `start` reads the first one."""

    def __init__(self, serving: Serving, call: ServiceCall, request: Request, now_s: float, counted_path: str) -> None:
        """`counted_path`: the path for metrics; bounded, whatever paths clients send."""
        self.serving, self.call, self.request = serving, call, request
        self.sending = self.finished = False
        self._counters = serving.counters.name(serving.counters.unmatched, counted_path)
        self._logged = serving.rpc_log is not None and is_logged(serving.rpc_log.share_percent)
        self._since_s = self._last_active_s = now_s
        self._headers_sent = False
        self._requests = self._replies = 0
        self._request_bytes = self._response_bytes = 0

    def start(self, now_s: float, client_left: bool = False) -> None:
        """`client_left`: `on_client_closed` follows."""
        self._counters.begin()
        self.call.read()

    def answer(self, message: bytes | None, now_s: float) -> None:
        """The client sent `message`, or None: it half-closed."""
        raise NotImplementedError

    def send(self, message: bytes) -> None:
        """Send an answer, and the headers before the first. Not while one is being sent."""
        headers: Metadata | None = None if self._headers_sent else ()
        self.sending = self._headers_sent = True
        self._count_reply(message)
        self.call.send(headers, message)

    def finish(self, status: Status, now_s: float, message: bytes | None = None) -> None:
        """End the RPC, with a last answer if there is one. Does nothing if it is over."""
        if self.finished:
            return
        self._last_active_s = now_s
        if message is not None:
            self._count_reply(message)
        self._record(status, StatusFrom.GATEWAY, now_s)
        if self.sending:
            self.call.abort(status)
        else:
            self.call.finish((), message, status, self._headers_sent)

    def on_request_message(self, message: bytes | None, now_s: float, last: bool = False) -> None:
        """`last` is of no interest: who passes whole messages reports the half-close apart."""
        if self.finished:
            return
        if message is not None:
            self._requests += 1
            self._request_bytes += len(message)
        self.answer(message, now_s)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        self.sending = False
        self._last_active_s = now_s

    def on_client_closed(self, now_s: float, by_client: bool = False) -> None:
        if not self.finished:
            status = client_left(now_s - self._since_s, by_client or self._requests > 0)
            self._record(status, StatusFrom.NOBODY, now_s)

    def on_drained(self, now_s: float) -> None:
        self.finish(Status(Code.UNAVAILABLE, "the gateway's drain time is over"), now_s)

    def on_too_much_held(self, now_s: float) -> None:
        self.finish(Status(Code.RESOURCE_EXHAUSTED, "the gateway holds too much data that nobody takes"), now_s)

    def on_defect(self, now_s: float) -> None:
        self.finish(Status(Code.INTERNAL, "a defect in the gateway, see its log"), now_s)

    def _count_reply(self, message: bytes) -> None:
        self._replies += 1
        self._response_bytes += len(message)

    def _record(self, status: Status, status_from: StatusFrom, now_s: float) -> None:
        self.finished = True
        left = status_from is StatusFrom.NOBODY
        reason = reason_of(status) if left else ""
        counted = (reason or CLIENT_CANCELLED) if left else LOCAL
        self._counters.end(status.code, now_s - self._since_s, counted, self._request_bytes, self._response_bytes)
        request = self.request
        if not self._logged or self.serving.rpc_log is None:
            return
        deadline_s = request.deadline_s
        self.serving.rpc_log.put(
            RpcRecord(
                path=request.path,
                code=status.code,
                status_from=status_from,
                duration_s=now_s - self._since_s,
                authority=request.authority,
                peer=request.peer.address,
                peer_port=request.peer.port,
                metadata=request.metadata,
                message=status.details,
                request_messages=self._requests,
                request_bytes=self._request_bytes,
                response_messages=self._replies,
                response_bytes=self._response_bytes,
                timeout_s=None if deadline_s is None else deadline_s - self._since_s,
                deadline_left_s=None if deadline_s is None else deadline_s - now_s,
                reason=reason,
                cancelled_by=ended_by(status_from, reason),
            )
        )

    def on_sweep(self, now_s: float) -> None:
        """Called from time to time: ends an RPC whose client has been idle for too long on its turn."""
        if not self.finished and self.waits_for_client() and now_s - self._last_active_s >= IDLE_TIMEOUT_S:
            message = f"nothing came or could be sent for {IDLE_TIMEOUT_S:.0f} s"
            self.finish(make_status(Reason.IDLE_TIMEOUT, message), now_s)

    def waits_for_client(self) -> bool:
        """Whether it is the client's turn; if not, the RPC may be idle for any time."""
        return True

    # Nothing here is sent to a pod.
    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None: ...
    def on_timer(self, timer: Timer, now_s: float) -> None: ...
