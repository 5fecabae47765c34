"""The end of a client's connection: its last bytes are on their way, and what it still sends is read and ignored.

A socket that is closed while its client still sends is reset by the kernel, and what the client has not received
yet is lost (RFC 9112, 9.6). gRPC clients send while they receive: window updates and pings.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from grpcgw.engines.http2.timers import Timers


class LastAnswer(asyncio.Protocol):
    """Sends the last bytes of a connection and closes it once the client has closed its end, or after `linger_s`."""

    def __init__(
        self, transport: asyncio.Transport, timers: Timers, linger_s: float, note_gone: Callable[[], None]
    ) -> None:
        """Takes `transport` over. `note_gone`: called once, when it is closed."""
        self._transport, self._note_gone = transport, note_gone
        self._deadline = timers.at(time.monotonic() + linger_s, transport.abort)
        transport.set_protocol(self)

    def send(self, answer: bytes) -> None:
        transport = self._transport
        if transport.is_closing():  # the client was faster
            return
        transport.resume_reading()
        if answer:
            transport.write(answer)
        transport.write_eof()

    def close(self) -> None:
        self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._deadline.cancel()
        self._note_gone()
