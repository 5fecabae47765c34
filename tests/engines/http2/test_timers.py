"""Timers of the loop."""

from __future__ import annotations

import asyncio

import pytest
from dataplane.waiting import PATIENCE_S

from grpcgw.engines.http2.timers import Timers


def test_a_timer_that_fails_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        timers = Timers(asyncio.get_running_loop())
        done = asyncio.Event()

        def fail() -> None:
            raise ValueError("a defect")

        timers.at(0.0, fail)
        timers.at(0.0, fail)
        timers.at(1.0, done.set)
        async with asyncio.timeout(PATIENCE_S):
            await done.wait()
        timers.close()

    asyncio.run(run())
    assert caplog.text.count("defect: a timer failed") == 1
