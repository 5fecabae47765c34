"""Runs the coroutines of policies in the engine's own loop. One that blocks stops every RPC of the worker."""

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
        note_end: Callable[[LoopCoroutine], None],
    ) -> None:
        self._on_result: Callable[[object], None] | None = on_result
        self._note_end = note_end
        self._task: asyncio.Task[None] | None = loop.create_task(self._run(work))
        self._task.add_done_callback(self._on_done)

    async def _run(self, work: CoroutineWork) -> None:
        result: object
        try:
            result = await work.start()
        except BaseException as error:  # also SystemExit, which would end the loop that serves everybody
            result = error
        on_result, self._on_result = self._on_result, None
        if on_result is not None:
            on_result(result)

    def _on_done(self, _: asyncio.Task[None]) -> None:
        self._task = None  # else it and the task would wait for the garbage collector
        self._note_end(self)

    def cancel(self) -> None:
        self._on_result = None
        if self._task is not None:
            self._task.cancel()
