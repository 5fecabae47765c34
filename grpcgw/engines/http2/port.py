"""A port of the http2 engine: a listening socket, and the connections that came in by it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable
from typing import Protocol

from grpcgw.engines.contract import ServerOptions, max_message_bytes
from grpcgw.engines.http2.acceptor import Acceptor
from grpcgw.engines.http2.arrival import Arrival, Closing
from grpcgw.engines.http2.client_connection import ClientConnection, ConnectionEngine
from grpcgw.engines.http2.client_limits import ClientLimits
from grpcgw.engines.http2.handshake import HandshakeQueue
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import TlsLayer
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import PortViews
from grpcgw.model.listener import Listener, ServerCertificate
from grpcgw.telemetry.client_counters import CloseCause

BACKLOG = 1024


class PortEngine(ConnectionEngine, Protocol):
    """What a port uses of its engine."""

    loop: asyncio.AbstractEventLoop
    handshakes: HandshakeQueue


class Http2Port:
    """`number`, `views`, `close`, `set_certificates` are for the thread that changes ports, the rest for the loop."""

    def __init__(
        self,
        engine: PortEngine,
        options: ServerOptions,
        listener: Listener,
        views: PortViews,
        note_closing: Callable[[Http2Port], None],
    ) -> None:
        """Raises UserError if the port cannot be opened."""
        self._engine, self._note_closing = engine, note_closing
        self.views = views
        views.limit_messages(max_message_bytes(options, listener))
        self._limits = _limits(options, listener)
        self.allows_tls, self.allows_clear = listener.transport.takes_tls, listener.transport.takes_clear_text
        self.expects_proxy = listener.proxy_protocol
        self.contexts = ServerContexts(listener.certificates) if self.allows_tls else None
        self.others: set[Closing] = set()
        self.connections: set[ClientConnection] = set()
        self._empty = asyncio.Event()
        """Set once it closes and has no connection."""
        listening = _listen(options, listener)
        self.number = int(listening.getsockname()[1])
        engine.clients.add_port(self.number)
        self._acceptor = Acceptor(engine.loop, listening, self._arrive, self._is_busy)

    @property
    def fault(self) -> str:
        return self._acceptor.fault

    async def start(self) -> None:
        self._acceptor.start()

    def _arrive(self) -> Arrival:
        return Arrival(self, self._engine.timers, self._engine.turn, self._engine.handshakes)

    def _is_busy(self) -> bool:
        return self.allows_tls and self._engine.handshakes.are_many

    def note_failure(self, cause: str, why: str) -> None:
        """A TLS handshake failed."""
        self._engine.serving.counters.handshake_failures.count(cause, why)

    def make_connection(self, tls: TlsLayer | None, shown: ServerCertificate | None) -> ClientConnection:
        """`shown`: the certificate of the handshake."""
        view = self.views.view_of(tls=tls is not None)
        connection = ClientConnection(self._engine, view, self._limits, tls, self._guard(shown), self._on_lost)
        self.connections.add(connection)
        if self.views.tls.closing:
            self._engine.loop.call_soon(connection.drain)
        return connection

    def _guard(self, shown: ServerCertificate | None) -> Callable[[str], bool] | None:
        """What RPCs over a connection may call, by their `:authority`; None: everything."""
        if shown is None:
            return None
        certificate = shown

        def may_call(authority: str) -> bool:
            contexts = self.contexts  # of now: a Host may have begun to demand something
            return contexts is not None and (not contexts.demanding or contexts.may_call(certificate, authority))

        return may_call

    def _on_lost(self, connection: ClientConnection) -> None:
        self.connections.discard(connection)
        self.note_closed(connection.close_cause)
        if not self.connections and self.views.tls.closing:
            self._empty.set()

    def note_accepted(self) -> None:
        self._engine.clients.accept(self.number)

    def note_closed(self, cause: CloseCause) -> None:
        self._engine.clients.close(self.number, cause)

    def is_healthy(self) -> bool:
        serving = self._engine.serving
        return not serving.draining and not self.views.tls.closing

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        self.contexts = ServerContexts(certificates, self.contexts)

    def close(self) -> None:
        self.views.set_closing(True)
        self._note_closing(self)

    # --- in the loop

    def begin_to_close(self) -> None:
        """Accept no connections any more, and send GOAWAY on those that there are and those that just arrive."""
        self._acceptor.close()
        for other in tuple(self.others):
            if not isinstance(other, Arrival):  # a handshake may end and get GOAWAY: its client then returns at once
                other.close()
        for connection in tuple(self.connections):
            connection.drain()

    def is_closed(self) -> bool:
        return not self.connections and not self.others

    async def wait_closed(self, limit_s: float) -> None:
        """Returns when the last connection is gone, or after `limit_s`."""
        if self.connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, limit_s)):
                    await self._empty.wait()

    def cut_off(self) -> None:
        """Close what is still open, and accept no more."""
        self._acceptor.close()
        for other in tuple(self.others):
            other.close()
        for connection in tuple(self.connections):
            connection.cut_off()

    def end_rpcs(self) -> None:
        """The drain time is over: end the RPCs that still run."""
        now_s = time.monotonic()
        for connection in tuple(self.connections):
            for rpc in tuple(connection.streams.values()):
                rpc.end_for_drain(now_s)


def _limits(options: ServerOptions, listener: Listener) -> ClientLimits:
    return ClientLimits(
        max_concurrent_streams=listener.max_concurrent_streams or options.max_concurrent_streams,
        max_metadata_bytes=options.max_metadata_bytes,
        idle_s=None if listener.idle_timeout_ms is None else listener.idle_timeout_ms / 1000,
        max_age_s=options.max_connection_age_s,
        max_age_grace_s=options.max_connection_age_grace_s,
    )


def _listen(options: ServerOptions, listener: Listener) -> socket.socket:
    address = listener.address or options.address
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listening.bind((address, listener.port))
            listening.listen(BACKLOG)
        except OSError as error:
            where = options.target(listener.port, address)
            raise UserError(f"cannot listen on {where}: the address is in use or not this machine's") from error
        listening.setblocking(False)
        stack.pop_all()
        return listening
