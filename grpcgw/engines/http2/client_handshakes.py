"""TLS handshakes with clients: run in one thread beside the loop, one at a time, in the order in which they arrived.

A handshake takes a millisecond or more of CPU; OpenSSL releases the GIL meanwhile. The next one begins after a turn of
the loop, so a storm of handshakes delays other handshakes and not running RPCs. What waits is bounded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from grpcgw.engines.http2.client_hello import NoClientHello, read_server_name
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import NO_TLS, UNUSABLE, TlsFailed, TlsLayer
from grpcgw.errors import UserError
from grpcgw.model.listener import ServerCertificate

MOST_WAITING_BYTES = 32 << 20
"""Of clients that wait for the thread; one more is refused."""
CLIENT_BYTES = 4096
"""What a client that waits costs beside the bytes it sent."""
MANY_WAITING = 64
"""While more wait, ports for TLS accept no connections: these wait in the kernel."""

DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"
INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"
"""Records with a fatal alert (RFC 8446, 6)."""


class ClientHandshake:
    """The handshake of one client. One thread at a time may use it."""

    def __init__(self, find_contexts: Callable[[], ServerContexts | None]) -> None:
        """`find_contexts`: those of the port now; None: it has none. Called when the ClientHello is complete and the
        handshake begins, so that a client that waited gets nothing that was replaced meanwhile."""
        self._find_contexts = find_contexts
        self._hello = b""
        self.tls: TlsLayer | None = None
        """None: the ClientHello is not complete."""
        self.shown: ServerCertificate | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes of the client in, bytes to send out. Raises TlsFailed."""
        if self.tls is not None:
            return self.tls.handshake(data)
        self._hello += data
        try:
            name = read_server_name(self._hello)
        except NoClientHello as error:
            raise TlsFailed(str(error), NO_TLS, DECODE_ERROR) from error
        if name is None:
            return b""
        tls = self.tls = self._begin(name.name)
        hello, self._hello = self._hello, b""
        return tls.handshake(hello)

    def _begin(self, name: str | None) -> TlsLayer:
        contexts = self._find_contexts()
        if contexts is None:
            raise TlsFailed("the port has no certificate", UNUSABLE, INTERNAL_ERROR)
        self.shown = contexts.certificate_for(name)
        try:
            return TlsLayer(contexts.for_name(name), server_side=True)
        except UserError as error:
            raise TlsFailed(str(error), UNUSABLE, INTERNAL_ERROR) from error


class HandshakeStep:
    """A part of a handshake: what a client sent, and who takes the answer."""

    __slots__ = ("data", "handshake", "on_done")

    def __init__(
        self, handshake: ClientHandshake, data: bytes, on_done: Callable[[asyncio.Future[bytes]], None]
    ) -> None:
        """`on_done`: gets the answer, or the exception of `handshake.feed`."""
        self.handshake, self.data, self.on_done = handshake, data, on_done


class ClientHandshakes:
    """The queue of one loop, in whose thread it is used."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="grpcgw handshakes")
        self._waiting: OrderedDict[HandshakeStep, None] = OrderedDict()
        self._bytes = 0
        self._running: HandshakeStep | None = None

    @property
    def are_many(self) -> bool:
        """Whether ports for TLS should accept no further connections for now."""
        return len(self._waiting) > MANY_WAITING

    def add(self, step: HandshakeStep) -> bool:
        """False: too much waits, and it was not added."""
        size = CLIENT_BYTES + len(step.data)
        if self._bytes + size > MOST_WAITING_BYTES:
            return False
        self._bytes += size
        self._waiting[step] = None
        self._run_next()
        return True

    def cancel(self, step: HandshakeStep) -> None:
        """Its client is gone. Does nothing where it no longer waits."""
        if step in self._waiting:
            del self._waiting[step]
            self._bytes -= CLIENT_BYTES + len(step.data)

    def _run_next(self) -> None:
        if self._running is None and self._waiting:
            step, _ = self._waiting.popitem(last=False)
            self._bytes -= CLIENT_BYTES + len(step.data)
            self._running = step
            self._loop.run_in_executor(self._thread, step.handshake.feed, step.data).add_done_callback(self._on_done)

    def _on_done(self, future: asyncio.Future[bytes]) -> None:
        step, self._running = self._running, None
        if future.cancelled() or step is None:
            return
        self._run_next()
        step.on_done(future)

    def close(self) -> None:
        """Waits for the one that runs. From any thread, once the loop has ended."""
        self._waiting.clear()
        self._thread.shutdown()
