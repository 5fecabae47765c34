"""Work of the control process that goes on until it is cancelled, and is begun again after a defect.

A defect in one part ends neither the gateway nor what it serves: it is logged at most once a minute, shown as a
problem, and the part begins anew after a pause that grows. What the user can mend (UserError) ends the gateway, but
only where a part begins for the first time.
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

AGAIN_S, AGAIN_AT_MOST_S = 0.5, 30.0
"""A part begins again after the first pause, doubled each time up to the most."""
STABLE_S = 60.0
"""A part that has run so long since is well again."""


class Upkeep:
    def __init__(self, again_s: float = AGAIN_S, stable_s: float = STABLE_S) -> None:
        self._again_s, self._stable_s = again_s, stable_s
        self._defects = DefectLog(log)
        self._problems: dict[str, Problem] = {}
        self._began_s: dict[str, float] = {}

    async def keep(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run until cancelled, or until `run` returns. Raises the UserError of the first beginning."""
        pause_s, first = self._again_s, True
        while True:
            self._began_s[what] = began_s = time.monotonic()
            try:
                return await run()
            except Exception as error:  # whatever it is: the other parts go on
                if first and (wrong := find_user_error(error)) is not None:
                    raise wrong from error
                self._defects.note(f"{what} stumbled")
                self._note(what, error)
            first = False
            if time.monotonic() - began_s >= self._stable_s:
                pause_s = self._again_s
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_AT_MOST_S)

    def problems(self) -> tuple[Problem, ...]:
        """Of the parts that have stumbled and are not well again."""
        limit_s = time.monotonic() - self._stable_s
        return tuple(problem for what, problem in self._problems.items() if self._began_s[what] > limit_s)

    def _note(self, what: str, error: Exception) -> None:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        message = f"{what} stumbled, which is a defect of grpcgw, to be reported ({cause!r}); it is begun again"
        self._problems[what] = Problem(Severity.ERROR, message, "grpcgw")


def find_user_error(error: BaseException) -> UserError | None:
    """The first in a group of any depth."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, BaseExceptionGroup):
        return next((found for each in error.exceptions if (found := find_user_error(each)) is not None), None)
    return None
