"""Parts of the control process that stumble: each begins again, the page says so, and nothing else ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from dataplane.waiting import PATIENCE_S

from grpcgw.control.upkeep import Upkeep
from grpcgw.errors import UserError
from tests.scenarios import run

SOON_S = 0.001


class Part:
    """Raises one of these at each beginning, then runs on."""

    def __init__(self, *errors: Exception) -> None:
        self._errors = list(errors)
        self.lasts = asyncio.Event()

    async def run(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self.lasts.set()
        await asyncio.Event().wait()


@asynccontextmanager
async def kept(upkeep: Upkeep, part: Part) -> AsyncIterator[None]:
    running = asyncio.create_task(upkeep.keep("the part", part.run))
    async with asyncio.timeout(PATIENCE_S):
        await part.lasts.wait()
    yield
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


def test_a_part_that_stumbles_begins_again_and_is_a_problem(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        upkeep = Upkeep(again_s=SOON_S)
        errors = ZeroDivisionError("why"), ExceptionGroup("", [KeyError("other")]), UserError("in its third year")
        async with kept(upkeep, Part(*errors)):
            (problem,) = upkeep.problems()
            assert "the part stumbled" in problem.message
            assert "in its third year" in problem.message

    run(scenario())
    assert len([record for record in caplog.records if record.exc_info]) == 1, "the same is logged once a minute"


def test_a_part_that_runs_on_is_no_problem_any_more() -> None:
    async def scenario() -> None:
        upkeep = Upkeep(again_s=SOON_S, stable_s=0.0)
        async with kept(upkeep, Part(ZeroDivisionError())):
            assert upkeep.problems() == ()

    run(scenario())


def test_what_the_user_can_mend_ends_the_first_beginning() -> None:
    async def scenario() -> None:
        wrong = ExceptionGroup("", [ExceptionGroup("", [UserError("no such directory")])])
        with pytest.raises(UserError, match="no such directory"):
            await Upkeep().keep("the part", Part(wrong).run)

    run(scenario())
