"""A connection that has just been accepted: reads PROXY header and TLS handshake, then hands it over.

To HTTP/2 (`client_connection`), or to HTTP/1.1, which gets answers but no RPCs. Handshakes run in a thread beside the
loop, one at a time: a storm of them must not stop running RPCs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Protocol, cast

from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.client_hello import NoClientHello, read_server_name
from grpcgw.engines.http2.connection import close_when_sent
from grpcgw.engines.http2.first_bytes import ClientProtocol, Decision, FirstBytes, NotServed
from grpcgw.engines.http2.http1 import Http1Answerer
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.model.listener import ServerCertificate
from grpcgw.policy.request import Peer

log = logging.getLogger(__name__)

ARRIVAL_S = 10.0
"""Time for everything before HTTP/2: the PROXY header and the TLS handshake."""
UNREAD_BYTES = 65_536
"""A client of HTTP/1.1 that leaves more answers than this unread is cut off."""


class ArrivalPort(Protocol):
    """What an arriving connection uses of its port."""

    contexts: ServerContexts | None
    allows_tls: bool
    allows_clear: bool
    expects_proxy: bool

    def make_connection(self, tls: TlsLayer | None, shown: ServerCertificate | None) -> ClientConnection: ...
    def is_healthy(self) -> bool: ...


class Arrival(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(
        self, port: ArrivalPort, timers: Timers, handshakes: Executor, note_gone: Callable[[Arrival], None]
    ) -> None:
        """`note_gone`: called once, when it is handed over or closed."""
        self._port, self._handshakes, self._note_gone = port, handshakes, note_gone
        self._first = FirstBytes(port.allows_tls, port.allows_clear, port.expects_proxy)
        self._feed: Callable[[bytes], None] = self._feed_first
        self._deadline: LoopTimer = timers.at(time.monotonic() + ARRIVAL_S, self.close)
        self._peer = Peer("")
        self._held = b""
        """Bytes of a TLS handshake that wait for the thread, or of a ClientHello that is not whole."""
        self._tls: TlsLayer | None = None
        self._shown: ServerCertificate | None = None
        self._begin_tls: Callable[[], TlsLayer]
        self._is_shaking = self._is_gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is none of asyncio's
        address = self.transport.get_extra_info("peername")
        if isinstance(address, tuple):
            self._peer = _peer(address[0], address[1])

    def data_received(self, data: bytes) -> None:
        self._feed(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._leave()

    def close(self) -> None:
        self._leave()
        self.transport.abort()

    def _leave(self) -> None:
        self._deadline.cancel()
        if not self._is_gone:
            self._is_gone = True
            self._note_gone(self)

    def _refuse(self, answer: bytes) -> None:
        self._leave()
        if answer:
            self.transport.write(answer)
        close_when_sent(self.transport)

    # --- the first bytes

    def _feed_first(self, data: bytes) -> None:
        try:
            decision = self._first.feed(data)
        except NotServed as refused:
            self._refuse(refused.answer)
            return
        if decision is not None:
            self._decide(decision)

    def _decide(self, decision: Decision) -> None:
        if decision.source is not None:
            self._peer = _peer(*decision.source)
        if decision.protocol is ClientProtocol.TLS:
            self._feed = self._feed_hello
            self._feed_hello(decision.rest)
        elif decision.protocol is ClientProtocol.HTTP2:
            self._hand_over(None, decision.rest)
        else:
            self._serve_http1(None, decision.rest)

    # --- TLS

    def _feed_hello(self, data: bytes) -> None:
        self._held += data
        contexts = self._port.contexts
        try:
            name = read_server_name(self._held)
        except NoClientHello:
            self.close()
            return
        if name is None:
            return
        if contexts is None:
            self.close()
            return
        self._shown = contexts.certificate_for(name.name)
        self._begin_tls = partial(_begin_tls, contexts, name.name)
        self._feed = self._feed_handshake
        self._shake()

    def _feed_handshake(self, data: bytes) -> None:
        self._held += data
        if not self._is_shaking:
            self._shake()

    def _shake(self) -> None:
        data, self._held, self._is_shaking = self._held, b"", True
        self.transport.pause_reading()  # of one that waits for the thread no more is kept than was read at once
        future = asyncio.get_running_loop().run_in_executor(self._handshakes, self._handshake, data)
        future.add_done_callback(self._on_shaken)

    def _handshake(self, data: bytes) -> bytes:
        """In the thread for handshakes."""
        if self._tls is None:
            self._tls = self._begin_tls()
        return self._tls.handshake(data)

    def _on_shaken(self, future: asyncio.Future[bytes]) -> None:
        self._is_shaking = False
        if future.cancelled() or self._is_gone:
            return
        self.transport.resume_reading()
        error = future.exception()
        if isinstance(error, TlsFailed):
            self._refuse(error.to_send)
        elif error is not None:
            log.error("defect: a TLS handshake could not be handled", exc_info=error)
            self.close()
        else:
            self._go_on(future.result())

    def _go_on(self, answer: bytes) -> None:
        tls = self._tls
        assert tls is not None
        if answer:
            self.transport.write(answer)
        if tls.established:
            self._enter(tls)
        elif self._held:
            self._shake()

    def _enter(self, tls: TlsLayer) -> None:
        held, self._held = self._held, b""
        try:
            plain = tls.receive(b"")
            if held:
                plain += tls.receive(held)
        except (TlsClosed, TlsFailed):
            self.close()
            return
        if tls.alpn == "http/1.1":
            self._serve_http1(tls, plain)
        else:
            self._hand_over(tls, plain)

    # --- the protocol

    def _hand_over(self, tls: TlsLayer | None, plain: bytes) -> None:
        self._leave()
        connection = self._port.make_connection(tls, self._shown)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        connection.begin_http2(self._peer)
        if plain:
            connection.accept(plain)

    def _serve_http1(self, tls: TlsLayer | None, plain: bytes) -> None:
        answerer = Http1Answerer(self._port.is_healthy)

        def answer(plain: bytes) -> None:
            sent, closes = answerer.feed(plain)
            if sent:
                self.transport.write(sent if tls is None else tls.send(sent))
            if closes:
                self._refuse(b"" if tls is None else tls.close())
            elif self.transport.get_write_buffer_size() > UNREAD_BYTES:
                self.close()

        def feed(data: bytes) -> None:
            try:
                answer(data if tls is None else tls.receive(data))
            except (TlsClosed, TlsFailed):
                self.close()

        self._feed = feed
        answer(plain)


def _begin_tls(contexts: ServerContexts, name: str | None) -> TlsLayer:
    return TlsLayer(contexts.for_name(name), server_side=True)


def _peer(address: str, port: int) -> Peer:
    return Peer(address.partition("%")[0], port)
