"""A client's connection that speaks HTTP/1.1: health checks and refusals, no RPCs. Bounds its time and its memory."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from grpcgw.engines.http2.connection import NOTHING
from grpcgw.engines.http2.http1 import Http1Answerer
from grpcgw.engines.http2.last_answer import LastAnswer
from grpcgw.engines.http2.timers import LoopTimer, Timers
from grpcgw.engines.http2.tls_layer import TlsClosed, TlsFailed, TlsLayer
from grpcgw.engines.http2.turn import Turn
from grpcgw.logs import DefectLog

_defects = DefectLog(logging.getLogger(__name__))

HEAD_S = 10.0
"""Time for the head of a request, from its first byte on, and for a client to read its answers."""
KEEP_ALIVE_S = 75.0
"""Time between requests: longer than between the checks of most load balancers (5 to 60 s)."""
LINGER_S = 1.0
"""Time for a client to read the last answer."""
PART_BYTES = 128
"""How much of a client's requests is answered in one step: some five requests, 0.1 ms."""
ANSWER_BYTES = 16_384
"""While more of its answers wait, no further requests of a client are read."""


class Http1Connection(asyncio.Protocol):
    def __init__(
        self,
        transport: asyncio.Transport,
        tls: TlsLayer | None,
        is_healthy: Callable[[], bool],
        timers: Timers,
        turn: Turn,
        note_gone: Callable[[], None],
    ) -> None:
        """Takes `transport` over. `note_gone`: called once, when it is closed."""
        self._transport, self._tls, self._timers, self._note_gone = transport, tls, timers, note_gone
        self._turn = turn
        self._answerer = Http1Answerer(is_healthy)
        self._is_reading_head = self._is_stopped = self._is_later = False
        self._waiting = NOTHING
        """Requests that were read and are not answered yet."""
        self._deadline: LoopTimer = timers.at(time.monotonic() + HEAD_S, transport.abort)
        transport.set_protocol(self)
        transport.set_write_buffer_limits(ANSWER_BYTES)
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Ciphertext where there is TLS."""
        if self._tls is not None:
            try:
                data = self._tls.receive(data)
            except (TlsFailed, TlsClosed):
                self._transport.abort()
                return
        self.receive(data)

    def receive(self, plain: bytes) -> None:
        """Answer at once, or in parts over several turns of the loop: thousands of requests may come in one piece."""
        self._waiting = memoryview(b"".join((self._waiting, plain)) if self._waiting else plain)
        if not self._is_later:
            self.handle_part()

    def handle_part(self) -> None:
        self._is_later = False
        if not self._is_stopped and not self._transport.is_closing():
            try:
                self._answer_part()
            except TlsFailed:  # by a record after those that were read
                self._transport.abort()
            except Exception:
                _defects.note("a request in HTTP/1.1 could not be answered")
                self._transport.abort()

    def fit_part(self, took_s: float, limit_s: float) -> None:
        """Parts of requests in HTTP/1.1 all take about the same."""

    def fail(self, why: str) -> None:
        self._transport.abort()

    def _answer_part(self) -> None:
        part, self._waiting = self._waiting[:PART_BYTES], self._waiting[PART_BYTES:]
        answer, closes = self._answerer.feed(bytes(part))
        sent = answer if self._tls is None else self._tls.send(answer)
        if closes:
            self._end(sent)
            return
        if sent:
            self._transport.write(sent)
        if not self._is_stopped:
            self._set_deadline()
            self._go_on()

    def _go_on(self) -> None:
        if self._waiting:
            self._is_later = True
            self._transport.pause_reading()
            self._turn.postpone(self)
        else:
            self._waiting = NOTHING  # an empty view would keep what it is a view of
            self._transport.resume_reading()

    def _end(self, sent: bytes) -> None:
        close_notify = b"" if self._tls is None else self._tls.close()
        self._deadline.cancel()
        LastAnswer(self._transport, self._timers, LINGER_S, self._note_gone).send(sent + close_notify)

    def _set_deadline(self) -> None:
        """A head that has begun keeps the deadline of its first byte, however slowly it comes."""
        was, self._is_reading_head = self._is_reading_head, self._answerer.is_reading_head
        if not (was and self._is_reading_head):
            self._wait(HEAD_S if self._is_reading_head else KEEP_ALIVE_S)

    def _wait(self, limit_s: float) -> None:
        self._deadline.cancel()
        self._deadline = self._timers.at(time.monotonic() + limit_s, self._transport.abort)

    def pause_writing(self) -> None:
        """The client does not read its answers."""
        self._is_stopped = True
        self._transport.pause_reading()
        self._wait(HEAD_S)

    def resume_writing(self) -> None:
        self._is_stopped = self._is_reading_head = False
        self._set_deadline()
        if not self._is_later:
            self._go_on()

    def close(self) -> None:
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._note_gone()
