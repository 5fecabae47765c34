"""Measures many open streams in one worker: memory of each, and threads that serve them."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bench.backend import STREAM_METHOD, make_reply, make_request
from bench.children import resident_bytes, thread_count
from bench.pods import Pod, check_answers, running_pods, write_configuration
from bench.proxies import Gateway, running_gateway
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError
from grpcgw.settings import EngineName

PODS = 2
CONNECTIONS = 20
"""Each may have 1,000 open RPCs (`--max-concurrent-streams`)."""
OPENING_AT_A_TIME = 100
ANSWER_DEADLINE_S = 120.0


@dataclass(frozen=True, slots=True)
class OpenStreams:
    count: int
    bytes_each: float
    """Growth of the worker's resident memory per stream."""
    threads: int


def measure_open_streams(count: int, engine: EngineName) -> OpenStreams:
    """Open `count` streams, each answered once and then left open. Raises UserError if one fails."""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(PODS))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpcgw-bench-")))
        write_configuration(folder, pods)
        gateway = stack.enter_context(running_gateway(("--config", str(folder)), engine))
        check_answers("grpcgw", gateway.port, pods)
        return asyncio.run(hold(gateway, pods, count))


async def hold(gateway: Gateway, pods: tuple[Pod, ...], count: int) -> OpenStreams:
    before_bytes = resident_bytes(gateway.worker_pid)
    async with AsyncExitStack() as stack, asyncio.timeout(ANSWER_DEADLINE_S):
        # Without a pool of its own each channel would share one connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(f"{HOST}:{gateway.port}", options=options))
            for _ in range(CONNECTIONS)
        ]
        calls = [channels[number % CONNECTIONS].stream_stream(STREAM_METHOD)() for number in range(count)]
        await exchange_all(calls, pods)
        grown_bytes = resident_bytes(gateway.worker_pid) - before_bytes
        threads = thread_count(gateway.worker_pid)
        await exchange_all(calls, pods)
        await end_all(calls)
    return OpenStreams(count, grown_bytes / count, threads)


async def exchange_all(calls: list[Any], pods: tuple[Pod, ...]) -> None:
    """One message and its reply on every stream; every pod must get an equal share."""
    gate = asyncio.Semaphore(OPENING_AT_A_TIME)

    async def exchange(call: Any) -> bytes:
        async with gate:
            try:
                await call.write(make_request())
                reply: bytes = await call.read()
            except (grpc.RpcError, asyncio.InvalidStateError) as ended:
                raise UserError(f"a stream ended: {await call.code()}: {await call.details()}") from ended
            return reply

    replies = await asyncio.gather(*(exchange(call) for call in calls))
    shares = [replies.count(make_reply(pod.name)) for pod in pods]
    if max(shares) - min(shares) > 1 or sum(shares) != len(calls):
        raise UserError(f"of {len(calls)} streams the pods answered {shares}")


async def end_all(calls: list[Any]) -> None:
    for call in calls:
        await call.done_writing()
    codes = {await call.code() for call in calls}
    if codes != {grpc.StatusCode.OK}:
        raise UserError(f"streams ended with {codes}")
