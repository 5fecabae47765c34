"""Limits the connections of the admin port: how long each may take, and how many may be open.

A client that holds connections open, silent or with headers that never end, must not keep a probe out: the kubelet
would restart a healthy gateway. So each connection has a bounded time for a request and for its answer. When too many
are open, the oldest closes for the new one; a connection without a request closes first.
"""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

from uvicorn.protocols.http.h11_impl import H11Protocol

Client = tuple[str, int]
"""Address and port, as ASGI's scope names a client."""


@dataclass(frozen=True, slots=True)
class Limits:
    most: int = 32
    """Connections at a time."""
    request_s: float = 5.0
    """From the start of the connection, or from the previous answer, to the end of a request's headers."""
    answer_s: float = 60.0
    """From there until the client has taken the answer."""


USUAL_LIMITS = Limits()


class _Connection:
    __slots__ = ("busy", "timer", "transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.busy = False
        self.timer: asyncio.TimerHandle | None = None


class Connections:
    """Lives in one event loop."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._open: dict[Client, _Connection] = {}

    def opened(self, transport: asyncio.Transport) -> None:
        if len(self._open) >= self._limits.most:
            self._make_room()
        connection = self._open[_client_of(transport)] = _Connection(transport)
        self._limit(connection, self._limits.request_s)

    def closed(self, transport: asyncio.Transport) -> None:
        client = _client_of(transport)
        connection = self._open.get(client)
        if connection is not None and connection.transport is transport:
            self._forget(client)

    def began(self, client: Client) -> None:
        """The request on this connection is complete; the answer starts."""
        self._turn(client, True, self._limits.answer_s)

    def ended(self, client: Client) -> None:
        """The answer is complete."""
        self._turn(client, False, self._limits.request_s)

    def verified_by(self, client: Client) -> ssl.SSLContext | None:
        """The TLS context that has verified a certificate of the client on this connection; None: there is none."""
        connection = self._open.get(client)
        if connection is None or not connection.transport.get_extra_info("peercert"):
            return None
        tls: ssl.SSLObject = connection.transport.get_extra_info("ssl_object")
        return tls.context

    def _turn(self, client: Client, busy: bool, limit_s: float) -> None:
        connection = self._open.get(client)
        if connection is not None:  # otherwise `_make_room` has closed it
            connection.busy = busy
            self._limit(connection, limit_s)

    def _make_room(self) -> None:
        idle = (client for client, connection in self._open.items() if not connection.busy)
        client = next(idle, None) or next(iter(self._open))
        self._open[client].transport.abort()
        self._forget(client)

    def _limit(self, connection: _Connection, limit_s: float) -> None:
        if connection.timer is not None:
            connection.timer.cancel()
        connection.timer = asyncio.get_running_loop().call_later(limit_s, connection.transport.abort)

    def _forget(self, client: Client) -> None:
        connection = self._open.pop(client)
        if connection.timer is not None:
            connection.timer.cancel()


def _client_of(transport: asyncio.Transport) -> Client:
    host, port, *_ = transport.get_extra_info("peername") or ("", id(transport))  # the client has left already
    return str(host), int(port)


def make_protocol(connections: Connections) -> type[asyncio.Protocol]:
    """uvicorn's protocol that reports each connection to `connections`."""

    class Protocol(H11Protocol):
        _accepted: asyncio.Transport | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            self.access_log = False  # uvicorn's own switch would also silence other uvicorn servers in this process
            self._accepted = transport
            connections.opened(transport)
            super().connection_made(transport)

        def send_400_response(self, msg: str) -> None:
            # The request breaks off while it is answered: uvicorn must drop the answer.
            if self.cycle is not None:
                self.cycle.disconnected = True
            super().send_400_response(msg)

        def connection_lost(self, exc: Exception | None) -> None:
            if self._accepted is not None:
                connections.closed(self._accepted)
            super().connection_lost(exc)

    return Protocol
