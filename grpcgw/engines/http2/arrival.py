"""A connection that has just been accepted: reads PROXY header and TLS handshake, then hands it over.

To HTTP/2 (`client_connection`), or to HTTP/1.1 (`http1_connection`), which gets answers but no RPCs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Protocol, cast

from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.client_handshake import ClientHandshake
from grpcgw.engines.http2.first_bytes import ClientProtocol, Decision, FirstBytes, NotServed
from grpcgw.engines.http2.handshake import Handshake, HandshakeQueue
from grpcgw.engines.http2.http1_connection import LINGER_S, Http1Connection
from grpcgw.engines.http2.last_answer import LastAnswer
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import CLIENT_LEFT, HTTP, NO_TLS, TlsClosed, TlsFailed, TlsLayer
from grpcgw.engines.http2.turn import Turn
from grpcgw.errors import GrpcgwError
from grpcgw.logs import DefectLog
from grpcgw.model.listener import ALPN_HTTP1, ALPN_HTTP2, ServerCertificate
from grpcgw.policy.addresses import parse_address
from grpcgw.policy.request import Peer
from grpcgw.telemetry.client_counters import CloseCause

log = logging.getLogger(__name__)

ARRIVAL_S = 10.0
"""Time for everything before HTTP: the PROXY header and the TLS handshake, with its wait for the thread."""

KNOWN_ADDRESSES = 1024
"""Addresses that are not parsed again: connections come from few load balancers, or from a client that comes back."""

_defects = DefectLog(log)


class Closing(Protocol):
    """A connection that is none of HTTP/2."""

    def close(self) -> None: ...


class ArrivalPort(Protocol):
    """What an arriving connection uses of its port."""

    contexts: ServerContexts | None
    allows_tls: bool
    allows_clear: bool
    expects_proxy: bool
    others: set[Closing]
    """Connections that are open and none of HTTP/2."""

    def make_connection(self, tls: TlsLayer | None, shown: ServerCertificate | None) -> ClientConnection: ...
    def is_healthy(self) -> bool: ...
    def note_failure(self, cause: str, why: str) -> None: ...
    def note_accepted(self) -> None: ...
    def note_closed(self, cause: CloseCause) -> None: ...


class Arrival(asyncio.Protocol):
    """Its exceptions end it: nothing else would end a connection whose handler failed."""

    transport: asyncio.Transport

    def __init__(self, port: ArrivalPort, timers: Timers, turn: Turn, handshakes: HandshakeQueue) -> None:
        self._port, self._timers, self._turn = port, timers, turn
        self._first = FirstBytes(port.allows_tls, port.allows_clear, port.expects_proxy)
        self._feed: Callable[[bytes], None] = self._feed_first
        self._deadline: LoopTimer | None = None
        self._peer = Peer("")
        self._client = ClientHandshake(lambda: port.contexts)
        self._handshake = Handshake(handshakes, self._client, self)
        self._cause = CloseCause.CLIENT
        """Why it ends, unless it is handed over."""
        self._is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        too_slow = partial(self._abort, CloseCause.TOO_SLOW)
        self._deadline = self._timers.at(time.monotonic() + ARRIVAL_S, too_slow)
        self._port.others.add(self)
        self._port.note_accepted()
        address = self.transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = _peer(address[0], address[1], self.transport.get_extra_info("sockname"))

    def data_received(self, data: bytes) -> None:
        try:
            self._feed(data)
        except Exception:
            self._fail()

    def connection_lost(self, error: Exception | None) -> None:
        tls = self._client.tls
        if tls is not None and not tls.established and not self._handshake.is_running and not self._is_gone:
            self._cause = CloseCause.TLS_HANDSHAKE
            self._port.note_failure(CLIENT_LEFT, "the client left during the handshake")
        self._leave()
        self._port.note_closed(self._cause)

    def close(self) -> None:
        self._abort(CloseCause.GATEWAY)

    def _abort(self, cause: CloseCause) -> None:
        self._cause = cause
        self._leave()
        self.transport.abort()

    def _fail(self) -> None:
        _defects.note("a new connection could not be served")
        self.close()

    def _leave(self) -> None:
        """It is handed over or closed."""
        if self._is_gone:
            return
        self._is_gone = True
        self._port.others.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()
        self._handshake.cancel()

    def _refuse(self, answer: bytes, cause: CloseCause) -> None:
        if not answer:
            self._abort(cause)
            return
        self._leave()
        port, others = self._port, self._port.others

        def note_gone() -> None:
            others.discard(last)
            port.note_closed(cause)

        last = LastAnswer(self.transport, self._timers, LINGER_S, note_gone)
        others.add(last)
        last.send(answer)

    # --- the first bytes

    def _feed_first(self, data: bytes) -> None:
        try:
            decision = self._first.feed(data)
        except NotServed as refused:
            if not self._port.allows_clear:
                self._port.note_failure(HTTP if refused.answer else NO_TLS, str(refused))
            self._refuse(refused.answer, CloseCause.NOT_SERVED)
            return
        if decision is not None:
            self._decide(decision)

    def _decide(self, decision: Decision) -> None:
        if decision.source is not None:
            before, self._peer = self._peer, _peer(*decision.source)
            self._peer.connected, self._peer.dialled = before.address, before.dialled
        if decision.protocol is ClientProtocol.TLS:
            self._feed = self._feed_handshake
            self._feed_handshake(decision.rest)
        else:
            self._serve(decision.protocol, None, decision.rest)

    # --- TLS

    def _feed_handshake(self, data: bytes) -> None:
        """Nothing more is read meanwhile: a client has nothing to send but what belongs to the step."""
        self.transport.pause_reading()
        self._handshake.feed(data)

    def on_answer(self, data: bytes) -> None:
        if data:
            self.transport.write(data)
        self.transport.resume_reading()

    def on_failed(self, error: GrpcgwError) -> None:
        try:
            self._take_failure(error)
        except Exception:
            self._fail()

    def _take_failure(self, error: GrpcgwError) -> None:
        if not isinstance(error, TlsFailed):
            self.close()
            return
        self._port.note_failure(error.cause, str(error))
        if not self._is_gone:
            self._refuse(error.to_send, CloseCause.TLS_HANDSHAKE)

    def on_established(self, tls: TlsLayer, held: bytes) -> None:
        try:
            self._enter(tls, held)
        except Exception:
            self._fail()

    def _enter(self, tls: TlsLayer, held: bytes) -> None:
        """The handshake is over. Clients that name no protocol by ALPN, as some health checks do, are recognised by
        their first bytes again."""
        try:
            plain = tls.receive(b"")
            if held:
                plain += tls.receive(held)
        except TlsClosed:
            self._abort(CloseCause.CLIENT)
            return
        except TlsFailed:
            self._abort(CloseCause.PROTOCOL_ERROR)
            return
        if tls.alpn == ALPN_HTTP1:
            self._serve(ClientProtocol.HTTP1, tls, plain)
        elif tls.alpn == ALPN_HTTP2:
            self._serve(ClientProtocol.HTTP2, tls, plain)
        else:
            self._recognise(tls, plain)

    def _recognise(self, tls: TlsLayer, plain: bytes) -> None:
        first = FirstBytes(allow_tls=False, allow_clear=True, proxy=False)

        def feed(plain: bytes) -> None:
            try:
                decision = first.feed(plain)
            except NotServed:
                self._refuse(tls.close(), CloseCause.NOT_SERVED)
                return
            if decision is not None:
                self._serve(decision.protocol, tls, decision.rest)

        def feed_tls(data: bytes) -> None:
            try:
                feed(tls.receive(data))
            except TlsClosed:
                self._abort(CloseCause.CLIENT)
            except TlsFailed:
                self._abort(CloseCause.PROTOCOL_ERROR)

        self._feed = feed_tls
        feed(plain)

    # --- the protocol

    def _serve(self, protocol: ClientProtocol, tls: TlsLayer | None, plain: bytes) -> None:
        self._leave()
        if protocol is ClientProtocol.HTTP2:
            self._serve_http2(tls, plain)
        else:
            self._serve_http1(tls, plain)

    def _serve_http2(self, tls: TlsLayer | None, plain: bytes) -> None:
        connection = self._port.make_connection(tls, self._client.shown)
        self.transport.set_protocol(connection.as_protocol())
        connection.connection_made(self.transport)
        connection.begin_http2(self._peer)
        if plain:
            connection.accept(plain)

    def _serve_http1(self, tls: TlsLayer | None, plain: bytes) -> None:
        port, others = self._port, self._port.others

        def note_gone() -> None:
            others.discard(connection)
            port.note_closed(CloseCause.HTTP1)

        connection = Http1Connection(self.transport, tls, port.is_healthy, self._timers, self._turn, note_gone)
        others.add(connection)
        connection.receive(plain)


def _peer(address: str, port: int, dialled: object = None) -> Peer:
    """`dialled`: the connection's own address, as sockets have it."""
    peer = Peer(_read_address(address), port)
    if isinstance(dialled, tuple):
        peer.dialled = _read_address(dialled[0]), dialled[1]
    return peer


@lru_cache(KNOWN_ADDRESSES)
def _read_address(address: str) -> str:
    """A client that comes by IPv4 has an IPv4 address, also on a port for both, which maps it into IPv6."""
    found = parse_address(address.partition("%")[0])
    return "" if found is None else str(found)
