"""The yardstick: the smallest pass-through on grpcio's public API. Forwards every RPC kind, and does nothing else.

    python -m bench.bare_aio PORT HOST:PORT[,HOST:PORT...]

No routes, no policies, no counters, no retries: what it costs is grpc.aio itself.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from typing import Any

import grpc

HOP_BY_HOP = frozenset({"te", "user-agent", "grpc-accept-encoding"})


class PassThrough(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio publishes no types
    """Gives each RPC to the next channel."""

    def __init__(self, targets: list[str]) -> None:
        self._turns = itertools.cycle([grpc.aio.insecure_channel(target) for target in targets])

    def service(self, details: Any) -> Any:
        method = details.method

        async def forward(_: Any, context: Any) -> None:
            metadata = tuple(item for item in context.invocation_metadata() if item[0] not in HOP_BY_HOP)
            call = next(self._turns).stream_stream(method)(metadata=metadata, timeout=context.time_remaining())
            pump = asyncio.create_task(pump_up(context, call))
            try:
                await pump_down(call, context)
            finally:
                pump.cancel()
                call.cancel()

        return grpc.stream_stream_rpc_method_handler(forward)


async def pump_up(context: Any, call: Any) -> None:
    while (message := await context.read()) is not grpc.aio.EOF:
        await call.write(message)
    await call.done_writing()


async def pump_down(call: Any, context: Any) -> None:
    if headers := await call.initial_metadata():
        await context.send_initial_metadata(tuple(headers))
    while (message := await call.read()) is not grpc.aio.EOF:
        await context.write(message)
    context.set_code(await call.code())
    context.set_details(await call.details())
    context.set_trailing_metadata(tuple(await call.trailing_metadata()))


async def main(port: str, targets: str) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((PassThrough(targets.split(",")),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
