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
CHECK_S = 0.05
STEP_S = 0.0001
"""Measuring goes on for so long at a time: 10,000 RPCs take some 20 ms."""
CHECK_SHARE, FULL_SHARE = 50, 4
"""Measuring takes at most one fiftieth of the time, or a fourth where the limit is half reached."""


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
        self._share = CHECK_SHARE
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
        began_s = time.monotonic()
        for hurries in self._steps:
            took_s = time.monotonic() - began_s
            if took_s >= STEP_S:
                self._check_later(0.0 if hurries else self._share * took_s)
                return
        self._steps = self._bound()
        self._check_later(CHECK_S)

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
        self._share = CHECK_SHARE if held_bytes < self._limit_bytes / 2 else FULL_SHARE
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
