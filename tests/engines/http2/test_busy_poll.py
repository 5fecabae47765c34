"""Polling after an event: only where events follow each other closely, and not for longer than asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from grpcgw.engines.http2.busy_poll import BusyPoll

POLL_S = 0.02


class CountingLoop:
    """The running loop, and how often a callback was due at once: it does not sleep then."""

    def __init__(self) -> None:
        self.kept_awake = 0

    def call_soon(self, call: Callable[[], None]) -> None:
        self.kept_awake += 1
        asyncio.get_running_loop().call_soon(call)


async def poll_after(pause_s: float) -> tuple[int, float]:
    """How often the loop was kept awake after two events, and for how long."""
    loop = CountingLoop()
    busy, now_s = BusyPoll(loop, POLL_S), time.monotonic()  # type: ignore[arg-type]  # all that it uses of a loop
    busy.note(now_s - pause_s)
    busy.note(now_s)
    while busy.polls:  # noqa: ASYNC110  # turns of the loop are what it is about
        await asyncio.sleep(0)
    return loop.kept_awake, time.monotonic() - now_s


def test_while_events_follow_each_other_closely_the_loop_stays_awake_for_the_time() -> None:
    kept_awake, lasted_s = asyncio.run(poll_after(POLL_S / 2))
    assert kept_awake > 1
    assert lasted_s >= POLL_S


def test_after_a_longer_pause_it_sleeps() -> None:
    assert asyncio.run(poll_after(2 * POLL_S))[0] == 0
