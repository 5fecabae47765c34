"""A pod that takes and gives whatever is asked, any number of RPCs at once.

`python -m tests.abuse.pod [BYTES]` takes a free port and prints it. BYTES: the largest message it takes, 64 MiB unless
given; -1: any. Methods of service `abuse.Pod`: `Echo` answers the first
message with itself, `Sink` reads everything and answers once, `Flood` answers with 64 KiB messages for as long as it is
let, `Stuck` neither reads nor answers.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

FLOOD_MESSAGE = bytes(65_536)


async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for message in requests:
        yield message
        return


async def sink(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for _ in requests:
        pass
    yield b""


async def flood(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    while True:
        yield FLOOD_MESSAGE


async def stuck(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


METHODS: dict[str, Callable[..., Any]] = {"Echo": echo, "Sink": sink, "Flood": flood, "Stuck": stuck}


async def serve(max_message_bytes: int) -> None:
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_metadata_size", 131_072),
            # Beyond its default of 1,000 waiting RPCs core cancels new ones at random.
            ("grpc.server.max_pending_requests", 20_000),
            ("grpc.server.max_pending_requests_hard_limit", 20_000),
        ]
    )
    handlers = {name: grpc.stream_stream_rpc_method_handler(method) for name, method in METHODS.items()}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("abuse.Pod", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(server.stop(0)))
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]) if len(sys.argv) > 1 else 64 << 20))
