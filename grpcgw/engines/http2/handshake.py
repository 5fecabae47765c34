"""The TLS handshake of one connection, in a thread beside the loop: its CPU must not stop running RPCs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

from grpcgw.engines.http2.tls_layer import TlsLayer


class HandshakeEvents(Protocol):
    """What a handshake calls in the loop. After `on_established` or `on_failed` it calls nothing."""

    def on_answer(self, data: bytes) -> None:
        """Bytes for the peer."""
        ...

    def on_established(self, tls: TlsLayer, held: bytes) -> None:
        """`held`: ciphertext that came after the handshake."""
        ...

    def on_failed(self, error: BaseException) -> None: ...


class Handshake:
    """`feed` and `cancel` are for the loop's thread."""

    def __init__(self, thread: Executor, begin: Callable[[], TlsLayer], events: HandshakeEvents) -> None:
        """`thread`: runs one step of a handshake at a time. `begin`: makes the layer, in that thread."""
        self._thread, self._begin, self._events = thread, begin, events
        self._tls: TlsLayer | None = None
        self._held = b""
        self._is_running = self._is_over = False

    def feed(self, data: bytes) -> None:
        """Bytes of the peer. A client begins with none."""
        self._held += data
        if not self._is_running:
            self._go_on()

    def cancel(self) -> None:
        self._is_over = True

    def _go_on(self) -> None:
        data, self._held, self._is_running = self._held, b"", True
        step = asyncio.get_running_loop().run_in_executor(self._thread, self._step, data)
        step.add_done_callback(self._on_step)

    def _step(self, data: bytes) -> tuple[TlsLayer, bytes]:
        """In the thread."""
        if self._tls is None:
            self._tls = self._begin()
        return self._tls, self._tls.handshake(data)

    def _on_step(self, step: asyncio.Future[tuple[TlsLayer, bytes]]) -> None:
        self._is_running = False
        if self._is_over or step.cancelled():
            return
        error = step.exception()
        if error is not None:
            self._is_over = True
            self._events.on_failed(error)
            return
        tls, answer = step.result()
        if answer:
            self._events.on_answer(answer)
        if tls.established:
            self._is_over = True
            self._events.on_established(tls, self._held)
        elif self._held:
            self._go_on()
