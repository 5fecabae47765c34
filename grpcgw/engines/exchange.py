"""The RPC that an engine drives: forwarded to a pod, or answered by the gateway itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status
from grpcgw.policy.request import Request
from grpcgw.policy.verdicts import Deny
from grpcgw.services.framed_service import FramedService
from grpcgw.services.health_service import HEALTH_PREFIX, HealthExchange
from grpcgw.services.local import LocalExchange, ServiceCall
from grpcgw.services.rate_limit_server import COUNT_PATH, RateLimitExchange
from grpcgw.services.reflection import REFLECTION_PATHS, ReflectionExchange
from grpcgw.session.admission import admit, is_too_large
from grpcgw.session.call import Call, Timer
from grpcgw.session.serving import Serving
from grpcgw.session.session import Session


class Exchange(Protocol):
    """Events of one RPC; `Session` says what each means. Called one at a time, never from inside a `Call` method."""

    def start(self, now_s: float, client_left: bool = False) -> None: ...
    def on_request_message(self, message: bytes | None, now_s: float, last: bool = False) -> None: ...
    def on_client_sent(self, ok: bool, now_s: float) -> None: ...
    def on_client_closed(self, now_s: float, by_client: bool = False) -> None: ...
    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None: ...
    def on_timer(self, timer: Timer, now_s: float) -> None: ...
    def on_sweep(self, now_s: float) -> None: ...
    def on_drained(self, now_s: float) -> None: ...
    def on_too_much_held(self, now_s: float) -> None: ...
    def on_defect(self, now_s: float) -> None: ...


def begin_exchange(serving: Serving, call: Call, request: Request, now_s: float) -> Exchange:
    """The gateway's own services, unless a Mapping replaces them; every other RPC is forwarded."""
    admit(request, serving.reception)
    if request.port.counts_for_others:
        return _begin_counting(serving, call, request, now_s)
    path, index = request.path, serving.reflection
    if path.startswith(HEALTH_PREFIX) and _is_local(serving, request):
        return _begin_service(call, request, lambda own: HealthExchange(serving, own, request, now_s))
    if (
        index is not None
        and path in REFLECTION_PATHS
        and _is_local(serving, request)
        and not serving.refuses(request.authority, request.metadata, request.port)
    ):
        return _begin_service(call, request, lambda own: ReflectionExchange(serving, index, own, request, now_s))
    return Session(serving, call, request, now_s)


def _begin_counting(serving: Serving, call: Call, request: Request, now_s: float) -> Exchange:
    """On the port of the rate limit service nothing is routed."""
    if request.refusal is None and not is_too_large(request, serving.max_metadata_bytes):
        if request.path == COUNT_PATH:
            return _begin_service(call, request, lambda own: RateLimitExchange(serving, own, request, now_s))
        if request.path.startswith(HEALTH_PREFIX):
            return _begin_service(call, request, lambda own: HealthExchange(serving, own, request, now_s))
        request.refusal = Deny(Reason.NO_MAPPING, f"this port has only the rate limit service, not {request.path}")
    return Session(serving, call, request, now_s)


def _begin_service(call: Call, request: Request, make: Callable[[ServiceCall], LocalExchange]) -> Exchange:
    return FramedService(call, request.message_encoding, make) if call.carries_frames else make(call)


def _is_local(serving: Serving, request: Request) -> bool:
    """No Mapping matches, and the request is not refused (the session refuses it)."""
    if request.refusal is not None or is_too_large(request, serving.max_metadata_bytes):
        return False
    return not serving.has_route(request.path, request.authority, request.metadata)
