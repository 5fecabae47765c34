"""Runs what a test does in an event loop, and checks that nothing of it is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


def run(scenario: Coroutine[Any, Any, None]) -> None:
    """Run `scenario`; afterwards no task and no thread of its own may be left."""
    threads = _threads()

    async def alone() -> None:
        await scenario
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(alone())
    assert _threads() <= threads


def _threads() -> set[threading.Thread]:
    """All but the one in which pycares closes its channels, which lives as long as the process."""
    return {thread for thread in threading.enumerate() if "_run_safe_shutdown_loop" not in thread.name}
