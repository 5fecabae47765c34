"""Tasks of the control process that fail: each starts again, the page says so, and nothing else ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from dataplane.waiting import PATIENCE_S

from grpcgw.control.task_restarts import TaskRestarter
from grpcgw.errors import UserError
from tests.scenarios import run

SOON_S = 0.001


class Task:
    """Raises one of these at each start, then runs on."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.lasts = asyncio.Event()

    async def run(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.lasts.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def kept_running(restarter: TaskRestarter, task: Task) -> AsyncIterator[None]:
    running = asyncio.create_task(restarter.keep_running("the task", task.run))
    async with asyncio.timeout(PATIENCE_S):
        await task.lasts.wait()
    yield
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_a_task_that_fails_starts_again_and_is_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        restarter = TaskRestarter(first_pause_s=SOON_S)
        errors = ZeroDivisionError("why"), ExceptionGroup("", [KeyError("other")]), UserError("in its third year")
        async with kept_running(restarter, Task(*errors)):
            (problem,) = restarter.problems()
            assert "the task failed" in problem.message
            assert "in its third year" in problem.message

    run(scenario())
    assert len([record for record in caplog.records if record.exc_info]) == 1, "the same is logged once a minute"


def test_a_task_that_is_stable_again_is_no_problem() -> None:
    async def scenario() -> None:
        restarter = TaskRestarter(first_pause_s=SOON_S, stable_s=0.0)
        async with kept_running(restarter, Task(ZeroDivisionError())):
            assert restarter.problems() == ()

    run(scenario())


def test_a_user_error_ends_the_first_start() -> None:
    async def scenario() -> None:
        wrong = ExceptionGroup("", [ExceptionGroup("", [UserError("no such directory")])])
        with pytest.raises(UserError, match="no such directory"):
            await TaskRestarter().keep_running("the task", Task(wrong).run)

    run(scenario())
