"""Connections that arrive: one whose handling has a defect is closed, not left open with nobody in charge."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest

from engines.http2.port_clients import PREFACE
from grpcgw.engines.http2.arrival import ARRIVAL_S, Arrival, Closing
from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.handshake import HandshakeQueue
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import TlsLayer
from grpcgw.engines.http2.turn import Turn
from grpcgw.model.listener import ServerCertificate
from grpcgw.telemetry.client_counters import CloseCause


class BrokenPort:
    """A port that has a defect where a connection is handed over."""

    contexts: ServerContexts | None = None
    allows_tls, allows_clear, expects_proxy = True, True, False

    def __init__(self) -> None:
        self.others: set[Closing] = set()

    def make_connection(self, tls: TlsLayer | None, shown: ServerCertificate | None) -> ClientConnection:
        raise ValueError("a defect")

    def is_healthy(self) -> bool:
        raise ValueError("a defect")

    def note_failure(self, cause: str, why: str) -> None:
        raise ValueError("a defect")

    def note_accepted(self) -> None: ...
    def note_closed(self, cause: CloseCause) -> None: ...


@pytest.mark.parametrize(
    "first",
    [PREFACE, b"GET /ambassador/v0/check_ready HTTP/1.1\r\nhost: a\r\n\r\n", b"\x16\x03\x01\x00\x04\x02\x00\x00\x00"],
    ids=["HTTP/2", "HTTP/1.1", "TLS"],
)
def test_a_connection_that_cannot_be_handed_over_is_closed(first: bytes) -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        timers, handshakes, port = Timers(loop), HandshakeQueue(loop, "handshakes"), BrokenPort()
        ours, theirs = socket.socketpair()
        with theirs:
            theirs.setblocking(False)
            await loop.connect_accepted_socket(lambda: Arrival(port, timers, Turn(loop), handshakes), ours)
            await loop.sock_sendall(theirs, first)
            async with asyncio.timeout(ARRIVAL_S / 2):
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(theirs, 100) == b""
        await asyncio.sleep(0)
        assert port.others == set()
        timers.close()
        handshakes.close()

    asyncio.run(run())
