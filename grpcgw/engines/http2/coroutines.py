"""Runs the coroutines of policies in the engine's own loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from grpcgw.policy.contract import CoroutineWork


class LoopCoroutine:
    """One coroutine; cancelled, it reports no result."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: CoroutineWork,
        on_result: Callable[[object], None],
        running: set[LoopCoroutine],
    ) -> None:
        """`running`: it is a member for as long as it runs."""
        self._work, self._on_result, self._running = work, on_result, running
        self._cancelled = False
        running.add(self)
        self._task = loop.create_task(self._run())

    async def _run(self) -> None:
        result: object
        try:
            result = await self._work.start()
        except BaseException as error:  # also SystemExit, which would end the loop that serves everybody
            result = error
        self._running.discard(self)
        if not self._cancelled:
            self._on_result(result)

    def cancel(self) -> None:
        self._cancelled = True
        self._task.cancel()
