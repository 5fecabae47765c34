"""An event loop in a thread beside the generic-handler engine, for coroutines of policies (decision 026).

Started when the first one runs. A coroutine that blocks so does not stop the program that embeds the gateway.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Coroutine

from grpcgw.policy.contract import CoroutineWork

log = logging.getLogger(__name__)

STOP_S = 5.0
"""Time for coroutines to end when the engine stops. One that blocks the thread is abandoned."""


class CoroutineLoop:
    """Any thread may call any method."""

    def __init__(self, at_end: Callable[[], Coroutine[None, None, None]] | None = None) -> None:
        """`at_end` runs in the loop once all coroutines have ended."""
        self._at_end = at_end
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    def run(self, work: CoroutineWork, on_result: Callable[[object], None]) -> RunningCoroutine:
        """Run a coroutine; `on_result` gets what it returned or raised, in the loop's thread, unless it is cancelled.

        `on_result` must not raise. Raises RuntimeError after `stop`.
        """
        loop = self._started()
        running = RunningCoroutine(loop, work, on_result)
        loop.call_soon_threadsafe(running.begin)
        return running

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._stopped:
                raise RuntimeError("the engine has stopped")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, args=(self._loop,), name="grpcgw policies", daemon=True
                )
                self._thread.start()
            return self._loop

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_S))
            if self._at_end is not None:
                loop.run_until_complete(self._at_end())
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()

    def stop(self) -> None:
        """Cancel what still runs; returns when the thread has ended, after 2 * STOP_S at the latest."""
        with self._lock:
            self._stopped = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(2 * STOP_S)
        if thread.is_alive():
            log.error("a policy's coroutine blocks the event loop of policies; its thread is abandoned")


class RunningCoroutine:
    """One coroutine on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, work: CoroutineWork, on_result: Callable[[object], None]
    ) -> None:
        self._loop, self._work, self._on_result = loop, work, on_result
        self._cancelled = False
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """In the loop."""
        if not self._cancelled:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        result: object
        try:
            result = await self._work.start()
        except BaseException as error:  # also SystemExit, which would end the loop that runs the coroutines of others
            result = error
        if not self._cancelled:
            self._on_result(result)

    def cancel(self) -> None:
        """Report no result, and cancel the coroutine. Does nothing where it is over."""
        self._cancelled = True
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the coroutine over
            self._loop.call_soon_threadsafe(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()
