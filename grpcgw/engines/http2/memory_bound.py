"""What the RPCs of a worker hold in memory for slow readers, all together: found, and bounded.

An RPC holds little while its readers keep up, and is not looked at then. One that may hold more than SMALL_BYTES (data
that no reader takes, an answer that its client does not read, large metadata) is noted, and all that are noted are
measured every CHECK_S. Where they hold more than the limit, RPCs end until they do not: first the one whose readers
have taken nothing for the longest time.
"""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

WORKER_BYTES = 256 << 20
"""What the RPCs of one worker may hold beyond SMALL_BYTES each."""
SMALL_BYTES = 32_768
CHECK_S = 0.05
CHECK_SHARE = 50
"""Measuring takes at most one fiftieth of the time."""


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
        self._timer = None
        self.bound(began_s)
        if self._holders:
            pause_s = max(CHECK_S, CHECK_SHARE * (time.monotonic() - began_s))
            self._timer = self._loop.call_later(pause_s, self._check)

    def bound(self, now_s: float) -> None:
        """Measure all that are noted, forget those that hold little, and end RPCs above the limit."""
        sizes = {holder: holder.held_bytes() for holder in self._holders}
        self._holders = {holder: None for holder, size in sizes.items() if size > SMALL_BYTES}
        excess_bytes = sum(sizes[holder] for holder in self._holders) - self._limit_bytes
        for holder in tuple(self._holders):
            if excess_bytes <= 0:
                return
            excess_bytes -= sizes[holder]
            holder.free(now_s)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._holders.clear()
