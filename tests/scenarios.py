"""Runs what a test does in an event loop, and checks that nothing of it is left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run `scenario`; afterwards no task and no thread of its own may be left."""
    threads = _threads()

    async def alone() -> None:
        await scenario
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(alone())
    assert _threads() <= threads


async def call_together_with_timers(call: Callable[[], object], until_s: float) -> None:
    """Make `call` in the same turn of the loop as every timer that is due by `until_s` (of the loop's time), as it
    happens in a process that gets no processor for a while."""
    loop = asyncio.get_running_loop()
    loop.call_soon(call)
    time.sleep(max(0.0, until_s - loop.time()))  # noqa: ASYNC251  # the loop is meant to stand still
    await asyncio.sleep(0)


def _threads() -> set[threading.Thread]:
    """All but the one in which pycares closes its channels, which lives as long as the process."""
    return {thread for thread in threading.enumerate() if "_run_safe_shutdown_loop" not in thread.name}
