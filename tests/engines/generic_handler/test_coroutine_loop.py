"""The event loop for coroutines of policies: results, cancellation, defects, and that nothing is left when it stops."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Iterator

import pytest
from dataplane.waiting import PATIENCE_S

from grpcgw.engines.generic_handler.coroutine_loop import CoroutineLoop
from grpcgw.policy.contract import CoroutineWork
from grpcgw.policy.verdicts import ALLOW, Allow


@pytest.fixture
def loop() -> Iterator[CoroutineLoop]:
    before = set(threading.enumerate())
    loop = CoroutineLoop()
    yield loop
    loop.stop()
    assert set(threading.enumerate()) <= before, "the loop's thread is over"


async def _allow() -> Allow:
    await asyncio.sleep(0)
    return ALLOW


def test_a_loop_that_nobody_uses_has_no_thread() -> None:
    before = threading.active_count()
    loop = CoroutineLoop()
    assert threading.active_count() == before
    loop.stop()


def test_a_result_is_reported_once(loop: CoroutineLoop) -> None:
    results: queue.Queue[object] = queue.Queue()
    loop.run(CoroutineWork(_allow), results.put)
    assert results.get(timeout=PATIENCE_S) is ALLOW
    assert results.empty()


def test_all_run_on_one_thread_at_the_same_time(loop: CoroutineLoop) -> None:
    threads: queue.Queue[object] = queue.Queue()
    gate = asyncio.Barrier(3)

    async def meet() -> Allow:
        await gate.wait()
        threads.put(threading.current_thread())
        return ALLOW

    for _ in range(3):
        loop.run(CoroutineWork(meet), lambda _: None)
    assert len({threads.get(timeout=PATIENCE_S) for _ in range(3)}) == 1


@pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit(1), KeyboardInterrupt(), asyncio.CancelledError()])
def test_what_a_coroutine_raises_is_its_result_and_others_run_on(loop: CoroutineLoop, error: BaseException) -> None:
    results: queue.Queue[object] = queue.Queue()

    async def fail() -> Allow:
        raise error

    loop.run(CoroutineWork(fail), results.put)
    assert results.get(timeout=PATIENCE_S) is error
    loop.run(CoroutineWork(_allow), results.put)
    assert results.get(timeout=PATIENCE_S) is ALLOW


def test_work_that_makes_no_coroutine_is_a_defect_of_its_own(loop: CoroutineLoop) -> None:
    results: queue.Queue[object] = queue.Queue()
    loop.run(CoroutineWork(lambda: None), results.put)  # type: ignore[arg-type,return-value]
    assert isinstance(results.get(timeout=PATIENCE_S), TypeError)


def test_a_cancelled_coroutine_ends_and_reports_nothing(loop: CoroutineLoop) -> None:
    started, ended = threading.Event(), threading.Event()
    results: queue.Queue[object] = queue.Queue()

    async def hang() -> Allow:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ALLOW

    running = loop.run(CoroutineWork(hang), results.put)
    assert started.wait(PATIENCE_S)
    running.cancel()
    assert ended.wait(PATIENCE_S)
    loop.run(CoroutineWork(_allow), results.put)
    assert results.get(timeout=PATIENCE_S) is ALLOW, "the first result there is"


def test_what_still_runs_when_the_loop_stops_is_cancelled() -> None:
    loop = CoroutineLoop()
    started, ended = threading.Event(), threading.Event()

    async def hang() -> Allow:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return ALLOW

    running = loop.run(CoroutineWork(hang), lambda _: None)
    assert started.wait(PATIENCE_S)
    loop.stop()
    assert ended.is_set()
    running.cancel()  # too late, and harmless
    with pytest.raises(RuntimeError, match="stopped"):
        loop.run(CoroutineWork(_allow), lambda _: None)
