"""The AuthService of `make soak`: what a client of it sees in each mood."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from bench.backend import CHECK_METHOD, make_ruling
from bench.moody_auth import RESETS_OF_A_CONNECTION, Mood, running_auth
from grpcgw.cli.demo_processes import HOST


def test_each_mood_is_what_it_says() -> None:
    async def run() -> None:
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        async with running_auth() as auth, grpc.aio.insecure_channel(f"{HOST}:{auth.port}", options) as channel:
            check = channel.unary_unary(CHECK_METHOD)

            async def ask(timeout_s: float = 20) -> bytes | grpc.StatusCode:
                try:
                    return await check(b"", timeout=timeout_s, wait_for_ready=True)
                except grpc.aio.AioRpcError as error:
                    return error.code()

            assert await ask() == make_ruling(False)
            await auth.be(Mood.NONSENSE)
            assert await ask() == b"\xff" * 4, "of its second stream"
            await auth.be(Mood.RESETTING)
            answers = [await ask() for _ in range(RESETS_OF_A_CONNECTION + 1)]
            assert all(isinstance(one, grpc.StatusCode) for one in answers)
            await auth.be(Mood.SLOW)
            slow = [await ask(0.2) for _ in range(2)]
            assert slow[1] is grpc.StatusCode.DEADLINE_EXCEEDED, "the first may be on the connection that was reset"
            await auth.be(Mood.DOWN)
            assert await ask(0.2) in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            await auth.be(Mood.PROMPT)
            assert await ask() == make_ruling(False)

    asyncio.run(run())
