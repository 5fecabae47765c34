"""An exception in a callback of the loop ends one connection at most, and leaves none open with nobody in charge."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from dataplane.waiting import PATIENCE_S

from engines.http2.port_clients import PREFACE
from grpcgw.engines.http2.arrival import Arrival, Closing
from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.handshake import HandshakeQueue
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import TlsLayer
from grpcgw.engines.http2.turn import Turn
from grpcgw.model.listener import ServerCertificate
from grpcgw.telemetry.client_counters import CloseCause


class Connection:
    is_dirty = False

    def __init__(self, fails: bool) -> None:
        self._fails = fails
        self.flushed = self.handled = 0
        self.failed = ""

    def flush(self) -> None:
        self.flushed += 1
        if self._fails:
            raise ValueError("a defect")

    def handle_part(self) -> None:
        self.handled += 1
        if self._fails:
            raise ValueError("a defect")

    def fit_part(self, took_s: float, limit_s: float) -> None: ...

    def fail(self, why: str) -> None:
        self.failed = why


def test_a_connection_that_cannot_be_flushed_is_closed_and_the_others_are_flushed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        turn = Turn(asyncio.get_running_loop())
        connections = [Connection(fails=False), Connection(fails=True), Connection(fails=False)]
        for _ in range(2):
            for connection in connections:
                turn.postpone(connection)
                turn.mark(connection)
            for _ in connections:  # a turn may have time for one part only
                await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert [one.flushed for one in connections] == [2, 2, 2]
        assert [one.handled for one in connections] == [2, 2, 2]
        assert [bool(one.failed) for one in connections] == [False, True, False]

    asyncio.run(run())
    assert caplog.text.count("defect: a connection could not be written to") == 1


def test_a_timer_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        timers = Timers(asyncio.get_running_loop())
        done = asyncio.Event()

        def fail() -> None:
            raise ValueError("a defect")

        timers.at(0.0, fail)
        timers.at(0.0, fail)
        timers.at(1.0, done.set)
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        timers.close()

    asyncio.run(run())
    assert caplog.text.count("defect: a timer failed") == 1


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
            async with asyncio.timeout(PATIENCE_S):
                with contextlib.suppress(ConnectionResetError):
                    assert await loop.sock_recv(theirs, 100) == b""
        await asyncio.sleep(0)
        assert port.others == set()
        timers.close()
        handshakes.close()

    asyncio.run(run())
