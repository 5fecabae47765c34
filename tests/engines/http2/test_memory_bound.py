"""What RPCs hold for slow readers is measured together, and RPCs end where it is too much."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Iterator

import pytest

from grpcgw.engines.http2.memory_bound import SMALL_BYTES, STEP_S, MemoryBound

LIMIT_BYTES = 10 * SMALL_BYTES


class Rpc:
    def __init__(self, size_bytes: int) -> None:
        self.size_bytes, self.ended = size_bytes, 0

    def held_bytes(self) -> int:
        return self.size_bytes

    def free(self, now_s: float) -> None:
        self.ended += 1


@pytest.fixture
def bound() -> Iterator[MemoryBound]:
    loop = asyncio.new_event_loop()
    yield MemoryBound(loop, LIMIT_BYTES)
    loop.close()


def rpcs(bound: MemoryBound, count: int, size_bytes: int = 4 * SMALL_BYTES) -> list[Rpc]:
    made = [Rpc(size_bytes) for _ in range(count)]
    for rpc in made:
        bound.note(rpc)
    return made


def test_nothing_ends_up_to_the_limit(bound: MemoryBound) -> None:
    made = rpcs(bound, 2)
    bound.bound()
    assert [rpc.ended for rpc in made] == [0, 0]


def test_above_it_those_that_wait_longest_end_until_the_rest_is_below(bound: MemoryBound) -> None:
    made = rpcs(bound, 4)
    bound.bound()
    assert [rpc.ended for rpc in made] == [1, 1, 0, 0]


def test_an_rpc_whose_reader_goes_on_counts_as_the_newest(bound: MemoryBound) -> None:
    made = rpcs(bound, 3)
    bound.note(made[0])
    bound.bound()
    assert [rpc.ended for rpc in made] == [0, 1, 0]


def test_rpcs_that_hold_little_by_now_are_forgotten(bound: MemoryBound) -> None:
    many = rpcs(bound, 100, SMALL_BYTES)
    bound.bound()
    for rpc in many:
        rpc.size_bytes = LIMIT_BYTES
    bound.bound()
    assert not any(rpc.ended for rpc in many)


def test_one_whose_client_does_not_take_the_end_is_freed_again(bound: MemoryBound) -> None:
    (rpc,) = rpcs(bound, 1, 2 * LIMIT_BYTES)
    bound.bound()
    bound.bound()
    assert rpc.ended == 2


def test_an_rpc_that_is_over_is_let_go_of_at_once(bound: MemoryBound) -> None:
    (rpc,) = rpcs(bound, 1)
    kept = weakref.ref(rpc)
    bound.forget(rpc)
    del rpc
    assert kept() is None


class SlowRpc(Rpc):
    """Takes as long to be measured as a step may."""

    def held_bytes(self) -> int:
        until_s = time.monotonic() + STEP_S
        while time.monotonic() < until_s:
            pass
        return self.size_bytes


def test_the_loop_goes_on_between_steps_and_what_is_over_is_let_go_of() -> None:
    async def run() -> int:
        loop = asyncio.get_running_loop()
        bound, turns = MemoryBound(loop, LIMIT_BYTES), 0
        many = [SlowRpc(4 * SMALL_BYTES) for _ in range(10)]
        for rpc in many:
            bound.note(rpc)
        while not many[0].ended:
            await asyncio.sleep(0.001)
            turns += 1
        for rpc in many:
            bound.forget(rpc)
        gone = asyncio.Event()
        weakref.finalize(many[0], gone.set)
        many.clear()
        del rpc
        await asyncio.wait_for(gone.wait(), 10)
        bound.close()
        return turns

    assert asyncio.run(run()) >= 10


class ToldRpc(Rpc):
    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.freed = asyncio.Event()

    def free(self, now_s: float) -> None:
        self.freed.set()


class BrokenRpc(Rpc):
    def held_bytes(self) -> int:
        raise ValueError("a defect")


def test_after_a_defect_the_bound_holds() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: bound.forget(broken))
        bound, broken, rpc = MemoryBound(loop, LIMIT_BYTES), BrokenRpc(0), ToldRpc(2 * LIMIT_BYTES)
        bound.note(broken)
        bound.note(rpc)
        await asyncio.wait_for(rpc.freed.wait(), 10)
        bound.close()

    asyncio.run(run())
