"""The gateway's own `grpc.health.v1.Health`, answered without a pod.

The empty service name is the gateway as a whole: SERVING until it drains. `pkg.Service` is SERVING while a Mapping
routes `/pkg.Service/` and has a pod for it; without a pod it is not, and without a Mapping the service is unknown.
Rules: grpc `doc/health-checking.md`.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from grpcgw.model.codes import Code
from grpcgw.model.status import Status
from grpcgw.policy.request import Request
from grpcgw.services.local import LocalExchange, ServiceCall
from grpcgw.session.serving import Serving

HEALTH_PREFIX = "/grpc.health.v1.Health/"

_Response = health_pb2.HealthCheckResponse
_SERVING: bytes = _Response(status=_Response.SERVING).SerializeToString()
_NOT_SERVING: bytes = _Response(status=_Response.NOT_SERVING).SerializeToString()
_SERVICE_UNKNOWN: bytes = _Response(status=_Response.SERVICE_UNKNOWN).SerializeToString()


class HealthExchange(LocalExchange):
    """One Check or Watch. A Watch gets a change at the next sweep."""

    def __init__(self, serving: Serving, call: ServiceCall, request: Request, now_s: float) -> None:
        self._method = request.path.removeprefix(HEALTH_PREFIX)
        self._is_known = self._method in ("Check", "Watch")
        super().__init__(serving, call, request, now_s, request.path if self._is_known else "")
        self._service: str | None = None
        self._last = b""

    def start(self, now_s: float, client_left: bool = False) -> None:
        super().start(now_s, client_left)
        if not self._is_known:
            self.finish(Status(Code.UNIMPLEMENTED, f"grpc.health.v1.Health has no method {self._method}"), now_s)

    def answer(self, message: bytes | None, now_s: float) -> None:
        if self._service is not None:
            return
        try:
            self._service = health_pb2.HealthCheckRequest.FromString(message or b"").service
        except DecodeError:
            self.finish(Status(Code.INTERNAL, "the request is no HealthCheckRequest"), now_s)
            return
        if self._method == "Watch":
            self._tell()
        elif self._health() == _SERVICE_UNKNOWN:
            self.finish(Status(Code.NOT_FOUND, f"no Mapping routes the service {self._service!r}"), now_s)
        else:
            self.finish(Status(Code.OK, ""), now_s, self._health())

    def _health(self) -> bytes:
        serves: bool | None = True
        if self._service:
            serves = self.serving.can_serve(f"/{self._service}/", self.request.authority, self.request.metadata)
        if serves is None:
            return _SERVICE_UNKNOWN
        return _SERVING if serves and not self.serving.draining else _NOT_SERVING

    def _tell(self) -> None:
        health = self._health()
        if not self.sending and health != self._last:
            self._last = health
            self.send(health)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        super().on_client_sent(ok, now_s)
        if ok:
            self.on_sweep(now_s)

    def waits_for_client(self) -> bool:
        return self.sending or self._service is None or self._method != "Watch"

    def on_sweep(self, now_s: float) -> None:
        super().on_sweep(now_s)
        if not self.finished and self._service is not None and self._method == "Watch":
            self._tell()
