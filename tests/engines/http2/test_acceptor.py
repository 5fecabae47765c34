"""Accepting connections: what the system has no descriptor for waits; nothing is lost, logged or tried endlessly."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from dataplane.lab import Lab, clear_port
from dataplane.waiting import PATIENCE_S, eventually

from engines.http2.port_clients import PREFACE, call, connect
from grpcgw.engines.http2.acceptor import MOST_AT_ONCE, Acceptor


@contextmanager
def no_descriptors() -> Iterator[None]:
    """Nothing more can be opened in this process."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    fill = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        while True:
            try:
                fill.append(os.dup(0))
            except OSError:
                break
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in fill:
            os.close(descriptor)


def test_without_descriptors_clients_wait_and_the_port_says_why(http2: Lab, caplog: pytest.LogCaptureFixture) -> None:
    gateway = http2.gateway(http2.pod("a"), ports=(clear_port(),))
    ports = gateway.engine.ports
    (number,) = ports.numbers()
    assert call(connect(number)) == "a:x"
    waiting = [socket.socket() for _ in range(3)]
    with no_descriptors():
        for one in waiting:
            one.settimeout(PATIENCE_S)
            one.connect(("127.0.0.1", number))
        eventually(ports.faults)
        assert "no connection can be accepted: too many open files" in ports.faults()[0].why
    for one in waiting:
        assert call(one) == "a:x"
    assert ports.faults() == ()
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1


class Closing(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def test_a_few_connections_are_accepted_in_a_turn_and_none_while_it_is_busy() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        listening = socket.create_server(("127.0.0.1", 0), backlog=100)
        listening.setblocking(False)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(3 * MOST_AT_ONCE)]
        busy, accepted, in_turn, most = True, 0, 0, 0
        done = asyncio.Event()

        def make() -> asyncio.Protocol:
            nonlocal accepted, in_turn, most
            accepted, in_turn = accepted + 1, in_turn + 1
            most = max(most, in_turn)
            loop.call_soon(end_turn)
            if accepted == len(clients):
                done.set()
            return Closing()

        def end_turn() -> None:
            nonlocal in_turn
            in_turn = 0

        acceptor = Acceptor(loop, listening, make, lambda: busy)
        acceptor.start()
        await asyncio.sleep(0.05)
        assert accepted == 0
        busy = False
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        assert 1 < most <= MOST_AT_ONCE
        acceptor.close()
        acceptor.close()
        for client in clients:
            client.close()

    asyncio.run(run())


def test_a_protocol_that_cannot_be_made_closes_its_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)

        def fail() -> asyncio.Protocol:
            raise ValueError("a defect")

        acceptor = Acceptor(asyncio.get_running_loop(), listening, fail, lambda: False)
        acceptor.start()
        for _ in range(3):
            reader, writer = await asyncio.open_connection(*listening.getsockname())
            assert await reader.read() == b""
            writer.close()
        acceptor.close()

    asyncio.run(run())
    assert caplog.text.count("defect: a connection could not be opened") == 1


def test_connections_that_come_to_nothing_leave_no_descriptor(http2: Lab) -> None:
    gateway = http2.gateway(http2.pod("a"), ports=(clear_port(),))
    (number,) = gateway.engine.ports.numbers()
    assert call(connect(number)) == "a:x"
    before = len(os.listdir("/proc/self/fd"))
    for first in 20 * (b"", PREFACE[:5], b"\x00\x01", b"GET / HTTP/1.1\r\n", PREFACE, b"\x16\x03\x01"):
        connect(number, first).close()
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)
