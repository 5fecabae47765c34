"""Restarts background tasks of the control process after a defect, with exponential back-off.

A defect in one task ends neither the gateway nor what it serves: it is logged at most once a minute and shown as a
problem, and the task starts again after a pause that grows. A UserError ends the gateway, but only on the first start
of a task.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from grpcgw.errors import UserError
from grpcgw.logs import DefectLog
from grpcgw.model.objects import Problem, Severity

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""The pause before a restart doubles each time, from the first to the longest."""
STABLE_S = 60.0
"""A task that has run for this long since its last start counts as healthy."""


class TaskRestarter:
    """Keeps tasks running, and knows which of them failed lately."""

    def __init__(self, first_pause_s: float = FIRST_PAUSE_S, stable_s: float = STABLE_S) -> None:
        self._first_pause_s, self._stable_s = first_pause_s, stable_s
        self._defects = DefectLog(log)
        self._problems: dict[str, Problem] = {}
        self._started_s: dict[str, float] = {}

    async def keep_running(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run until cancelled, or until `run` returns. Raises the UserError of the first start."""
        pause_s, first = self._first_pause_s, True
        while True:
            self._started_s[what] = started_s = time.monotonic()
            try:
                return await run()
            except Exception as error:  # any defect: the other tasks go on
                if first and (wrong := find_user_error(error)) is not None:
                    raise wrong from error
                self._defects.note(f"{what} failed")
                self._note(what, error)
            first = False
            if time.monotonic() - started_s >= self._stable_s:
                pause_s = self._first_pause_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def problems(self) -> tuple[Problem, ...]:
        """One for each task that failed and has not been stable since."""
        limit_s = time.monotonic() - self._stable_s
        return tuple(problem for what, problem in self._problems.items() if self._started_s[what] > limit_s)

    def _note(self, what: str, error: Exception) -> None:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        message = f"{what} failed, which is a defect of grpcgw: please report it ({cause!r}); it is started again"
        self._problems[what] = Problem(Severity.ERROR, message, "grpcgw")


def find_user_error(error: BaseException) -> UserError | None:
    """The first UserError in an exception group of any depth."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := find_user_error(each)) is not None), None)
    return None
