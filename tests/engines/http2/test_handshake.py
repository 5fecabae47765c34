"""TLS handshakes beside the loop: in a storm of them running RPCs go on, and what waits is bounded."""

from __future__ import annotations

import asyncio
import gc
import select
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from dataplane.authorities import Authority
from dataplane.lab import Lab, clear_port, tls_port
from dataplane.waiting import PATIENCE_S, eventually

from bench.handshakes import running_storm, show, write_pair
from engines.http2.port_clients import call, call_again, calling, connect, connect_tls
from engines.http2.tls_pairs import client_hello
from grpcgw.engines.http2.client_handshake import ClientHandshake
from grpcgw.engines.http2.handshake import (
    CONNECTION_BYTES,
    MANY_WAITING,
    MOST_WAITING_BYTES,
    HandshakeQueue,
    HandshakeStep,
)
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.model.listener import ServerCertificate

STOPPED_S = 0.5
"""Most that the loop may stand still; `make bench` has a stricter figure. On a busy machine the thread of handshakes
may wait for a processor while it holds the GIL."""


class LoopWatch:
    """The longest time in which a loop did nothing though the processor was free for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.longest_s = 0.0
        self._loop, self._stopped = loop, False
        loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        self._last_s = self._ready_s()
        self._tick()

    def _tick(self) -> None:
        now_s = self._ready_s()
        self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s
        if not self._stopped:
            self._loop.call_later(0.001, self._tick)

    @staticmethod
    def _ready_s() -> float:
        """The time, without that in which the thread waited for a processor."""
        waited_ns = int(Path("/proc/thread-self/schedstat").read_text().split()[1])
        return time.monotonic() - waited_ns / 1e9

    def stop(self) -> None:
        self._stopped = True


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the garbage collector, which walks over the objects of all tests here, and of one worker there."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("use_rsa", "client_certificates"), [(False, False), (True, True)], ids=["ECDSA", "RSA and client certificates"]
)
def test_hundreds_of_handshakes_at_once_do_not_stop_running_rpcs(
    http2: Lab, tmp_path: Path, use_rsa: bool, client_certificates: bool
) -> None:
    files = write_pair(tmp_path, use_rsa)
    chain, key = files.chain.read_bytes(), files.key.read_bytes()
    certificate = ServerCertificate("storm", ("*",), chain, key, chain if client_certificates else b"")
    gateway = http2.gateway(http2.pod("a"), ports=(clear_port(), tls_port(certificate)))
    clear, secure = gateway.engine.ports.numbers()
    calls = 0
    with calling(connect(clear)) as client:
        assert call_again(client) == "a:x"
        watch = LoopWatch(gateway.engine.loop)  # type: ignore[attr-defined]  # of this engine
        with running_storm(secure, 200, show(files, tmp_path) if client_certificates else None) as storm:
            stopped = False
            while not stopped:
                assert call_again(client) == "a:x"
                calls += 1
                stopped = has_said(storm.stdout)
        watch.stop()
    assert watch.longest_s < STOPPED_S
    assert calls > 20


def has_said(stream: IO[str] | None) -> bool:
    return bool(select.select([stream], [], [], 0)[0])


CERTIFICATE = Authority().certificate("localhost")


def test_clients_that_leave_while_they_wait_are_forgotten(http2: Lab) -> None:
    gateway = http2.gateway(http2.pod("a"), ports=(tls_port(CERTIFICATE),))
    (port,) = gateway.engine.ports.numbers()
    hello = client_hello()
    for connection in [connect(port, hello) for _ in range(200)]:
        connection.close()
    assert call(connect_tls(port, None, "localhost")) == "a:x"
    eventually(lambda: not gateway.engine.handshakes.are_many)  # type: ignore[attr-defined]  # of this engine


def test_what_waits_is_bounded_and_who_leaves_frees_its_place() -> None:
    async def fill() -> None:
        loop = asyncio.get_running_loop()
        queue = HandshakeQueue(loop, "handshakes")
        contexts = ServerContexts((CERTIFICATE,))
        done: list[asyncio.Future[bytes]] = []
        all_done = asyncio.Event()

        def on_done(future: asyncio.Future[bytes]) -> None:
            done.append(future)
            if len(done) == MANY_WAITING + 2:
                all_done.set()

        def step(data: bytes = b"") -> HandshakeStep:
            return HandshakeStep(ClientHandshake(lambda: contexts), data, on_done)

        try:
            assert queue.add(step(b"\x16"))  # it runs, from now on others wait
            waiting = [step(1_000_000 * b"x") for _ in range(40)]
            taken = [one for one in waiting if queue.add(one)]
            assert len(taken) == MOST_WAITING_BYTES // (1_000_000 + CONNECTION_BYTES)
            assert not queue.are_many
            for one in taken:
                queue.cancel(one)
                queue.cancel(one)
            small = [step(b"\x16") for _ in range(MANY_WAITING + 1)]
            assert all(queue.add(one) for one in small)
            assert queue.are_many
            async with asyncio.timeout(PATIENCE_S):
                await all_done.wait()
            assert not queue.are_many
            assert [future.result() for future in done] == (len(small) + 1) * [b""]
        finally:
            queue.close()

    asyncio.run(fill())
