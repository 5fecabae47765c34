"""Serves the admin port over HTTP: probes, diagnostics as page and JSON, metrics. Reads only: GET and HEAD.

Runs on uvicorn inside the control process's event loop. Knows the gateway only as a `StateProvider`. Handles no
signals: they belong to the control process.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from grpcgw.admin.access import OPEN, AdminAccess
from grpcgw.admin.allowed_hosts import USUAL_HOSTS, KnownHosts
from grpcgw.admin.diagnostics import DIAGNOSTICS_KEYS, render_diagnostics, render_part
from grpcgw.admin.http_connections import USUAL_LIMITS, Connections, Limits, make_protocol
from grpcgw.admin.humanize import format_age, format_duration
from grpcgw.admin.metrics import METRICS_CONTENT_TYPE, HostReadings, render_metrics
from grpcgw.admin.page import render_live_part, render_page
from grpcgw.admin.state import GatewayState, OneAtATime, StateProvider
from grpcgw.admin.views import GatewayView, not_ready_reason, view_gateway
from grpcgw.errors import UserError
from grpcgw.logs import DefectLog
from grpcgw.telemetry.client_connections import count_connections
from grpcgw.telemetry.resource_usage import measure_process

_BASE = "/ambassador/v0"
_STATIC = Path(__file__).parent / "static"

_Rendered = TypeVar("_Rendered")

# asyncio accepts this many connections in a row before it serves any of them.
_ACCEPTED_AT_ONCE = 4

# Connections that wait to be accepted.
_BACKLOG = 512

_RENDERED_AT_ONCE = 2

# How long open requests may continue when the port closes.
_STOP_TIMEOUT_S = 1

_PROBES = frozenset({f"{_BASE}/check_alive", f"{_BASE}/check_ready"})
_FOR_ANY_HOST = _PROBES | {"/metrics"}

_REFUSED_HOST = (
    "the diagnostics are not shown under this host name, because anybody can register such a name: use an IP "
    "address, or set GRPCGW_ADMIN_HOST (--admin-host) to the name, or to .example.com for all names that end with it\n"
)

_SECURITY_HEADERS = {
    # The page loads everything from this port, and nothing is inline.
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


class AdminServer:
    """Serves the admin port from `start` to `stop`, each called once, in one event loop."""

    def __init__(
        self,
        provider: StateProvider,
        address: str,
        port: int,
        hosts: KnownHosts = USUAL_HOSTS,
        limits: Limits = USUAL_LIMITS,
        access: AdminAccess = OPEN,
    ) -> None:
        """`hosts`: under which names browsers may read the diagnostics. `access`: who may."""
        self._provider = OneAtATime(provider)
        self._hosts, self._access = hosts, access
        self._connections = Connections(limits)
        self._address = address
        self._port = port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Returns the bound port (the one the system picked, for port 0). UserError when it cannot be bound."""
        listener = _listen(self._address, self._port)
        config = uvicorn.Config(
            create_app(self._provider, self._connections, self._hosts, self._access),
            http=make_protocol(self._connections),
            backlog=_ACCEPTED_AT_ONCE,
            lifespan="off",
            ws="none",
            log_config=None,  # nor a level: loggers belong to the process, which may be the host program's
            log_level=None,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_STOP_TIMEOUT_S,
        )
        config.load()
        config.ssl = self._access.make_context()
        self._server = _Server(config)
        # Clients that connect before the task runs wait in the socket's backlog.
        self._serving = asyncio.create_task(self._server.serve_on(listener), name="admin server")
        return int(listener.getsockname()[1])

    async def stop(self) -> None:
        """Close the port and wait for open requests, at most a second. Harmless when nothing was started."""
        if self._server is None or self._serving is None:
            return
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    async def serve_on(self, listener: socket.socket) -> None:
        with listener:  # a server that is stopped before it has started leaves it open
            await self.serve(sockets=[listener])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_BACKLOG)


def create_app(
    provider: StateProvider, connections: Connections, hosts: KnownHosts, access: AdminAccess = OPEN
) -> Starlette:
    """The admin port as an ASGI application."""
    handlers = _Handlers(provider)
    return Starlette(
        routes=[
            Route("/", handlers.redirect_to_page),
            Route("/metrics", handlers.metrics),
            Route(f"{_BASE}/check_alive", handlers.check_alive),
            Route(f"{_BASE}/check_ready", handlers.check_ready),
            Route(f"{_BASE}/diag", handlers.redirect_to_page),
            Route(f"{_BASE}/diag/", handlers.diagnostics),
            Route(f"{_BASE}/diag/live", handlers.live_part),
            Route(f"{_BASE}/favicon.ico", handlers.redirect_to_icon),
            Route("/favicon.ico", handlers.redirect_to_icon),
            Mount(f"{_BASE}/static", StaticFiles(directory=_STATIC)),
        ],
        middleware=[
            Middleware(_Timed, connections),
            Middleware(_SecurityHeaders),
            Middleware(_HostCheck, hosts),
            *([] if access.is_open else [Middleware(_AccessCheck, access, connections)]),
            Middleware(_Contained),
        ],
    )


class _Handlers:
    def __init__(self, provider: StateProvider) -> None:
        self._provider = provider
        self._rendering = asyncio.Semaphore(_RENDERED_AT_ONCE)

    async def redirect_to_page(self, request: Request) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return RedirectResponse(f"{_BASE}/diag/{query}")

    async def redirect_to_icon(self, request: Request) -> Response:
        return RedirectResponse(f"{_BASE}/static/icon.svg")

    async def check_alive(self, request: Request) -> Response:
        """Any answer proves that the process is alive."""
        return PlainTextResponse("grpcgw is alive\n")

    async def check_ready(self, request: Request) -> Response:
        state = await self._provider.state()
        reason = not_ready_reason(state)
        return PlainTextResponse(_describe_readiness(state, reason), status_code=503 if reason else 200)

    async def metrics(self, request: Request) -> Response:
        state = await self._provider.state()
        text = await self._in_thread(lambda: render_metrics(state, _read_host(state)))
        return Response(text, headers={"content-type": METRICS_CONTENT_TYPE})

    async def diagnostics(self, request: Request) -> Response:
        part = request.query_params.get("filter")
        if part is None and request.query_params.get("json", "").lower() != "true":
            return _html(await self._render(render_page, await self._provider.state()))
        if part is not None and part not in DIAGNOSTICS_KEYS:
            return PlainTextResponse(_describe_unknown_filter(part), status_code=400)
        render = render_diagnostics if part is None else partial(render_part, key=part)
        return JSONResponse(await self._render(render, await self._provider.state()))

    async def live_part(self, request: Request) -> Response:
        open_routes = frozenset(request.query_params.getlist("open"))
        return _html(
            await self._render(partial(render_live_part, open_routes=open_routes), await self._provider.state())
        )

    async def _render(self, render: Callable[[GatewayView], _Rendered], state: GatewayState) -> _Rendered:
        return await self._in_thread(lambda: render(view_gateway(state)))

    async def _in_thread(self, render: Callable[[], _Rendered]) -> _Rendered:
        """Hundreds of routes take tens of milliseconds, and the event loop must follow pods meanwhile.

        Few at a time: compilation uses the same threads.
        """
        async with self._rendering:
            return await asyncio.to_thread(render)


class _Timed:
    """Reports to `Connections` when an answer starts and when it is complete."""

    def __init__(self, app: ASGIApp, connections: Connections) -> None:
        self._app, self._connections = app, connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = scope["client"]
        self._connections.began(client)
        try:
            await self._app(scope, receive, send)
        finally:
            self._connections.ended(client)


class _HostCheck:
    """Refuses to show the diagnostics under a host name that an attacker may own."""

    def __init__(self, app: ASGIApp, hosts: KnownHosts) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = Headers(scope=scope).get("host")
        app = self._app
        # Browsers always send the header. Probes and Prometheus may use any name.
        if host is not None and scope["path"] not in _FOR_ANY_HOST and not self._hosts.knows(host):
            app = PlainTextResponse(_REFUSED_HOST, status_code=403)
        await app(scope, receive, send)


class _AccessCheck:
    """Refuses who has neither the token nor a certificate."""

    def __init__(self, app: ASGIApp, access: AdminAccess, connections: Connections) -> None:
        self._app, self._access, self._connections = app, access, connections

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("authorization", "")
        verified_by = self._connections.verified_by(scope["client"])
        app = self._app
        if scope["path"] not in _PROBES and not self._access.admits(given, verified_by):
            headers = {"www-authenticate": "Bearer"}
            app = PlainTextResponse("the admin port demands a token or a client certificate\n", 401, headers)
        await app(scope, receive, send)


class _Contained:
    """Answers 500 to a defect in rendering and logs it once a minute: pages ask every second."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._defects = DefectLog(logging.getLogger(__name__))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:  # an answer is complete before its first byte is sent
            self._defects.note("the admin port cannot answer", scope["path"])
            await PlainTextResponse("a defect of grpcgw: see its log\n", status_code=500)(scope, receive, send)


class _SecurityHeaders:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _html(text: str) -> Response:
    return Response(text, media_type="text/html")


def _describe_readiness(state: GatewayState, reason: str) -> str:
    """The state, then the age of each source's data: a stale source does not end readiness, but must be visible."""
    lines = [f"not ready: {reason}" if reason else "ready"]
    if state.configured_at_s:
        served = format_duration(state.now_s - state.configured_at_s)
        lines.append(f"configuration {state.snapshot.version}: served for {served}")
    for source in state.sources:
        error = f" ({source.error})" if source.error else ""
        lines.append(f"source {source.name}: last contact {format_age(state.now_s, source.last_contact_s)}{error}")
    return "\n".join(lines) + "\n"


def _describe_unknown_filter(part: str) -> str:
    return f"unknown filter {part!r}; known are: {', '.join(DIAGNOSTICS_KEYS)}\n"


def _read_host(state: GatewayState) -> HostReadings:
    if any(worker.clients is not None for worker in state.workers):
        return HostReadings(measure_process(), os.getpid())
    connections = count_connections(int(one.address.rpartition(":")[2]) for one in state.listeners)
    return HostReadings(measure_process(), os.getpid(), connections)


def _listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = address == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((address, port), family=family, dualstack_ipv6=both)
    except OSError as error:
        raise UserError(_describe_bind_error(address, port, error)) from error
    except OverflowError as error:
        raise UserError(f"admin port {port} is not a port; choose one from 0 to 65535") from error


def _describe_bind_error(address: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        cause = f"admin port {port} is already in use on {address}"
    elif isinstance(error, PermissionError):
        cause = f"admin port {port} must not be opened by this user"
    else:
        cause = f"the admin port cannot listen on {address} port {port} ({error.strerror or error})"
    return f"{cause}: choose another with --admin-port or --admin-address"
