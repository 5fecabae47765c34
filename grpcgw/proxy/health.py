"""The gateway's own `grpc.health.v1.Health`, answered without a pod: SERVING until the gateway drains.

Speaks for the gateway as a whole (the empty service name); other names are unknown to it.
Rules: grpc `doc/health-checking.md`.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from grpcgw.proxy.serving import Serving
from grpcgw.proxy.session import Call, Request
from grpcgw.proxy.status import Code, Metadata, Status

HEALTH_PREFIX = "/grpc.health.v1.Health/"

_Response = health_pb2.HealthCheckResponse
_SERVING: bytes = _Response(status=_Response.SERVING).SerializeToString()
_NOT_SERVING: bytes = _Response(status=_Response.NOT_SERVING).SerializeToString()
_SERVICE_UNKNOWN: bytes = _Response(status=_Response.SERVICE_UNKNOWN).SerializeToString()


class HealthExchange:
    """One Check or Watch. A Watch is told of a change at the next sweep."""

    def __init__(self, serving: Serving, call: Call, request: Request, now_s: float) -> None:
        self._serving, self._call = serving, call
        self._method = request.path.removeprefix(HEALTH_PREFIX)
        self._counters = serving.counters.of("", request.path if self._method in ("Check", "Watch") else "")
        self._since_s = now_s
        self._service: str | None = None
        self._last = b""
        self._headers_sent = self._sending = self._finished = False

    def start(self, now_s: float) -> None:
        self._counters.begin()
        if self._method in ("Check", "Watch"):
            self._call.read()
        else:
            self._finish(Status(Code.UNIMPLEMENTED, f"grpc.health.v1.Health has no method {self._method}"), now_s)

    def on_request_message(self, message: bytes | None, now_s: float) -> None:
        if self._finished or self._service is not None:
            return
        try:
            self._service = health_pb2.HealthCheckRequest.FromString(message or b"").service
        except DecodeError:
            self._finish(Status(Code.INTERNAL, "the request is no HealthCheckRequest"), now_s)
            return
        if self._method == "Watch":
            self._tell()
        elif self._service:
            self._finish(Status(Code.NOT_FOUND, f"the gateway knows no service {self._service!r}"), now_s)
        else:
            self._finish(Status(Code.OK, ""), now_s, self._answer())

    def _answer(self) -> bytes:
        if self._service:
            return _SERVICE_UNKNOWN
        return _NOT_SERVING if self._serving.draining else _SERVING

    def _tell(self) -> None:
        answer = self._answer()
        if self._sending or answer == self._last:
            return
        self._last = answer
        headers: Metadata | None = None if self._headers_sent else ()
        self._sending = self._headers_sent = True
        self._call.send(headers, answer)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        self._sending = False
        if ok and not self._finished:
            self._tell()

    def on_sweep(self, now_s: float) -> None:
        if not self._finished and self._service is not None and self._method == "Watch":
            self._tell()

    def on_client_closed(self, now_s: float) -> None:
        self._record(Code.CANCELLED, now_s)

    def on_drained(self, now_s: float) -> None:
        self._finish(Status(Code.UNAVAILABLE, "the gateway's drain time is over"), now_s)

    def on_defect(self, now_s: float) -> None:
        self._finish(Status(Code.INTERNAL, "a defect in the gateway, see its log"), now_s)

    def _finish(self, status: Status, now_s: float, message: bytes | None = None) -> None:
        if self._record(status.code, now_s):
            if self._sending:
                self._call.abort(status)
            else:
                self._call.finish((), message, status, self._headers_sent)

    def _record(self, code: int, now_s: float) -> bool:
        if self._finished:
            return False
        self._finished = True
        self._counters.end(code, now_s - self._since_s)
        return True

    # Nothing here is sent to a pod.
    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None: ...
    def on_join_expired(self, now_s: float) -> None: ...
