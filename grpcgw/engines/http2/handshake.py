"""TLS handshakes, with clients and with pods: steps run in a thread beside the loop, one at a time, in the order in
which they came.

A handshake takes a millisecond or more of CPU; OpenSSL releases the GIL meanwhile. The next step begins after a turn of
the loop, so a storm of handshakes delays other handshakes and not running RPCs. What waits is bounded.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from grpcgw.engines.http2.tls_layer import UNUSABLE, TlsFailed, TlsLayer
from grpcgw.errors import GrpcgwError
from grpcgw.logs import DefectLog

_defects = DefectLog(logging.getLogger(__name__))

MOST_WAITING_BYTES = 32 << 20
"""Of connections that wait for the thread; one more is refused."""
CONNECTION_BYTES = 4096
"""What one that waits costs beside the bytes that its peer sent."""
MANY_WAITING = 64
"""While more wait, ports for TLS accept no connections: these wait in the kernel."""


class Negotiation(Protocol):
    """One side of a handshake, without I/O. One thread at a time uses it."""

    tls: TlsLayer | None
    """None: it has not begun."""

    def feed(self, data: bytes) -> bytes:
        """Bytes of the peer in (who connects begins with none), bytes to send out.

        Raises TlsFailed, and UserError where TLS cannot begin.
        """
        ...


class HandshakeStep:
    """A part of a handshake: what the peer sent, and who takes the answer."""

    __slots__ = ("data", "negotiation", "on_done")

    def __init__(self, negotiation: Negotiation, data: bytes, on_done: Callable[[asyncio.Future[bytes]], None]) -> None:
        """`on_done`: gets the answer, or the exception of `negotiation.feed`."""
        self.negotiation, self.data, self.on_done = negotiation, data, on_done


class HandshakeQueue:
    """The thread, and what waits for it. Of one loop, in whose thread it is used."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        """`name`: of the thread."""
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: OrderedDict[HandshakeStep, None] = OrderedDict()
        self._bytes = 0
        self._running: HandshakeStep | None = None

    @property
    def are_many(self) -> bool:
        """Whether ports for TLS should accept no further connections for now."""
        return len(self._waiting) > MANY_WAITING

    def add(self, step: HandshakeStep) -> bool:
        """False: too much waits, and it was not added."""
        size = CONNECTION_BYTES + len(step.data)
        if self._bytes + size > MOST_WAITING_BYTES:
            return False
        self._bytes += size
        self._waiting[step] = None
        self._run_next()
        return True

    def cancel(self, step: HandshakeStep) -> None:
        """Its peer is gone. Does nothing where it no longer waits."""
        if step in self._waiting:
            del self._waiting[step]
            self._bytes -= CONNECTION_BYTES + len(step.data)

    def _run_next(self) -> None:
        if self._running is None and self._waiting:
            step, _ = self._waiting.popitem(last=False)
            self._bytes -= CONNECTION_BYTES + len(step.data)
            self._running = step
            self._loop.run_in_executor(self._thread, step.negotiation.feed, step.data).add_done_callback(self._on_done)

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


class TooManyHandshakes(GrpcgwError):
    """The handshake cannot go on: the queue is full."""


class HandshakeEvents(Protocol):
    """What a handshake calls in the loop. After `on_established` or `on_failed` it calls nothing."""

    def on_answer(self, data: bytes) -> None:
        """A step is over: bytes for the peer, perhaps none."""
        ...

    def on_established(self, tls: TlsLayer, held: bytes) -> None:
        """`held`: ciphertext that came after the handshake."""
        ...

    def on_failed(self, error: GrpcgwError) -> None:
        """`error`: of the Negotiation, or TooManyHandshakes."""
        ...


class Handshake:
    """The handshake of one connection, as bytes of its peer arrive. For the loop's thread."""

    def __init__(self, queue: HandshakeQueue, negotiation: Negotiation, events: HandshakeEvents) -> None:
        self._queue, self._negotiation, self._events = queue, negotiation, events
        self._held = b""
        """What came while a step waits or runs."""
        self._step: HandshakeStep | None = None
        self._is_over = False

    @property
    def is_running(self) -> bool:
        """Whether a step waits or runs."""
        return self._step is not None

    def feed(self, data: bytes) -> None:
        """Bytes of the peer. Who connects begins with none."""
        self._held += data
        if self._step is None and not self._is_over:
            self._go_on()

    def cancel(self) -> None:
        """The connection is gone. Of a step that runs only its failure is reported."""
        self._is_over = True
        if self._step is not None:
            self._queue.cancel(self._step)

    def _go_on(self) -> None:
        data, self._held = self._held, b""
        self._step = HandshakeStep(self._negotiation, data, self._on_step)
        if not self._queue.add(self._step):
            self._step = None
            self._fail(TooManyHandshakes("too many TLS handshakes wait"))

    def _on_step(self, future: asyncio.Future[bytes]) -> None:
        self._step = None
        try:
            answer = future.result()
        except GrpcgwError as error:
            self._fail(error)
            return
        except Exception:
            _defects.note("a TLS handshake could not be handled")
            self._fail(TlsFailed("a defect in the gateway, see its log", UNUSABLE))
            return
        if not self._is_over:
            self._events.on_answer(answer)
            self._look()

    def _fail(self, error: GrpcgwError) -> None:
        self._is_over = True
        self._events.on_failed(error)

    def _look(self) -> None:
        """Whether it is established, or goes on at once."""
        tls = self._negotiation.tls
        if tls is not None and tls.established:
            self._is_over = True
            self._events.on_established(tls, self._held)
        elif self._held and not self._is_over:
            self._go_on()
