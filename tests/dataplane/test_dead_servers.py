"""What kills a server of grpc.aio, a path that is not UTF-8, is refused or costs a moment: the port is not lost."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

from dataplane.lab import Lab  # isort: split

import grpc
import grpc.aio
import pytest

from dataplane.pods import Context, Gate
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.engines.generic_handler.lasting_server import LastingServer
from grpcgw.errors import UserError


def serves(address: str) -> bool:
    with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        try:
            return bool(channel.unary_unary("/test.Pod/Unary")(b"x", timeout=PATIENCE_S) == b"pod:x")
        except grpc.RpcError:
            return False


def test_a_path_that_is_not_utf_8_costs_no_port_and_no_running_rpc(lab: Lab) -> None:
    gate = Gate()

    def held(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        yield b"done"

    gateway = lab.gateway(lab.pod(methods={"Held": held}))
    running = lab.channel(gateway).unary_unary("/test.Pod/Held").future(b"")
    assert gate.reached.wait(PATIENCE_S)
    address = gateway.address
    for _ in range(2):
        lab.raw_client(gateway).call_bytes(b"/test.Pod/\xe9")
        eventually(lambda: serves(address), "the port serves")
    gate.open()
    assert running.result(PATIENCE_S) == b"done"


class Dying:
    """As much of a server as its keeper sees."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()

    async def wait_for_termination(self, timeout: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.dead.wait(), timeout)
        if self.dead.is_set():
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")
        return True

    async def stop(self, grace: float) -> None:
        if self.dead.is_set():
            self.dead.clear()
            raise UnicodeDecodeError("utf-8", b"x", 0, 1, "bad")


class LosesCancellations(Dying):
    """As asyncio.wait_for of Python 3.11 does when its time is over at that moment."""

    async def wait_for_termination(self, timeout: float) -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(timeout)
        return True


def test_a_server_stops_though_the_cancellation_of_its_watch_is_lost() -> None:
    async def make() -> grpc.aio.Server:
        return LosesCancellations()  # type: ignore[return-value]  # stands in for one

    async def scene() -> None:
        lasting = LastingServer("test", make, 1.0)
        await lasting.start()
        await asyncio.sleep(0)  # the watch waits now
        async with asyncio.timeout(PATIENCE_S):
            await lasting.stop(1.0)

    asyncio.run(scene())


@pytest.mark.parametrize("obstacle", [UserError, RuntimeError])
def test_a_server_that_cannot_be_made_anew_is_a_fault_until_it_can(obstacle: type[Exception]) -> None:
    async def scene() -> None:
        made: list[Dying] = []
        may_open = True

        async def make() -> grpc.aio.Server:
            if not may_open:
                raise obstacle("the address is in use")
            made.append(Dying())
            return made[-1]  # type: ignore[return-value]  # stands in for one

        lasting = LastingServer("test", make, 1.0)
        await lasting.start()
        may_open = False
        made[0].dead.set()
        await becomes(lambda: lasting.fault == "the address is in use")
        may_open = True
        await becomes(lambda: lasting.fault == "" and len(made) == 2)
        await lasting.stop(1.0)

    asyncio.run(scene())


async def becomes(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(0.01)
