"""Runs the coroutines of policies in the engine's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpcgw.policy.contract import CoroutineWork


class LoopCoroutine:
    """One coroutine; cancelled, it reports no result."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: CoroutineWork, on_result: Callable[[object], None]
    ) -> None:
        self._work, self._on_result = work, on_result
        self._cancelled = False
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        result: object
        try:
            result = await self._work.start()
        except BaseException as error:  # also SystemExit, which would end the loop that serves everybody
            result = error
        if not self._cancelled:
            self._on_result(result)

    def cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()
