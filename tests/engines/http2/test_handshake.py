"""The queue of TLS handshakes: one at a time beside the loop, and what waits is bounded."""

from __future__ import annotations

import asyncio

from dataplane.authorities import Authority
from dataplane.waiting import PATIENCE_S

from grpcgw.engines.http2.client_handshake import ClientHandshake
from grpcgw.engines.http2.handshake import (
    CONNECTION_BYTES,
    MANY_WAITING,
    MOST_WAITING_BYTES,
    HandshakeQueue,
    HandshakeStep,
)
from grpcgw.engines.http2.tls_contexts import ServerContexts

CERTIFICATE = Authority().certificate("localhost")


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
