"""What the RPCs of a worker hold in memory for slow readers, all together: found, and bounded.

An RPC holds little while its readers keep up, and is not looked at then. One that may hold more than SMALL_BYTES (data
that no reader takes, an answer that its client does not read, large metadata) is noted, and all that are noted are
measured every CHECK_S, thousands of them a few at a time. Where they hold more than the limit, RPCs end until they do
not: first the one whose readers have taken nothing for the longest time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Protocol

WORKER_BYTES = 256 << 20
"""What the RPCs of one worker may hold beyond SMALL_BYTES each."""
SMALL_BYTES = 32_768
CHECK_S, FULL_CHECK_S = 0.05, 0.005
"""Where the limit is not half reached, and where it is."""
STEP_S, ENDING_STEP_S = 0.0002, 0.004
"""For so long at a time RPCs are measured (10,000 take some 20 ms), and are ended: slower, 3,000 whose pods send all
they may would hold three times the limit meanwhile."""
CHECK_SHARE, FULL_SHARE = 50, 1
"""Measuring takes at most one fiftieth of the time, or half of it where the limit is half reached."""


class Holder(Protocol):
    """An RPC that holds bytes."""

    def held_bytes(self) -> int:
        """Metadata, and data that waits for the client or a pod."""
        ...

    def free(self, now_s: float) -> None:
        """End the RPC. It is called again where the client does not even take the end."""
        ...


class MemoryBound:
    """In the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int = WORKER_BYTES) -> None:
        self._loop, self._limit_bytes = loop, limit_bytes
        self._holders: dict[Holder, None] = {}
        """In the order in which they were noted last."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_full = False
        """The limit is half reached."""
        self._steps = self._bound()
        """What is left to be measured, or to be ended."""

    def note(self, holder: Holder) -> None:
        """It may hold more than SMALL_BYTES, or a reader has just taken some of it."""
        self._holders.pop(holder, None)
        self._holders[holder] = None
        if self._timer is None:
            self._timer = self._loop.call_later(CHECK_S, self._check)

    def forget(self, holder: Holder) -> None:
        """It is over and holds nothing: it must not live until the next check, which may be seconds away."""
        self._holders.pop(holder, None)

    def _check(self) -> None:
        pause_s = CHECK_S
        try:
            pause_s = self._go_on()
        finally:  # also after a defect: without checks there is no bound
            self._check_later(pause_s)

    def _go_on(self) -> float:
        """Returns after which time to go on."""
        began_s = time.monotonic()
        for hurries in self._steps:
            took_s = time.monotonic() - began_s
            if took_s >= (ENDING_STEP_S if hurries else STEP_S):
                return 0.0 if hurries else took_s * (FULL_SHARE if self._is_full else CHECK_SHARE)
        self._steps = self._bound()
        return FULL_CHECK_S if self._is_full else CHECK_S

    def _check_later(self, pause_s: float) -> None:
        if self._holders:
            self._timer = self._loop.call_later(pause_s, self._check)
        else:
            self._timer, self._steps = None, self._bound()  # the steps so far keep RPCs that are over

    def bound(self) -> None:
        """Measure all that are noted, forget those that hold little, and end RPCs above the limit."""
        for _ in self._bound():
            pass

    def _bound(self) -> Iterator[bool]:
        """The same in steps of one RPC each; true where the next one must not wait."""
        sizes = dict[Holder, int]()
        for holder in tuple(self._holders):
            size_bytes = holder.held_bytes()
            if size_bytes > SMALL_BYTES:
                sizes[holder] = size_bytes
            else:
                self._holders.pop(holder, None)
            yield False
        held_bytes = sum(sizes.get(holder, 0) for holder in self._holders)
        self._is_full = held_bytes > self._limit_bytes / 2
        excess_bytes = held_bytes - self._limit_bytes
        for holder in tuple(self._holders):
            if excess_bytes <= 0:
                return
            if holder in sizes and holder in self._holders:  # it may be over meanwhile
                excess_bytes -= sizes[holder]
                holder.free(time.monotonic())
                yield True

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._holders.clear()
        self._steps = self._bound()
