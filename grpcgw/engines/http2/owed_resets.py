"""The resets of a connection to a pod that wait for its `ResetBudget`: their RPCs are over, and their streams are not.

The pod goes on with such streams meanwhile, as far as their windows allow, which nothing opens any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from grpcgw.engines.http2.h2 import CANCEL
from grpcgw.engines.http2.reset_budget import ResetBudget
from grpcgw.engines.http2.timers import LoopTimer, Timers


class Resetting(Protocol):
    """What it uses of the connection."""

    def acknowledge(self, stream_id: int, size_bytes: int) -> None: ...
    def reset(self, stream_id: int, code: int) -> None: ...


class OwedResets:
    """In the loop's thread only."""

    def __init__(self, budget: ResetBudget, timers: Timers, link: Resetting, on_paid: Callable[[], None]) -> None:
        """`on_paid`: some were sent, so that the pod may have room for other streams."""
        self._budget, self._timers, self._link, self._on_paid = budget, timers, link, on_paid
        self.streams: dict[int, int] = {}
        """Stream → bytes that came on it meanwhile."""
        self._timer: LoopTimer | None = None

    def add(self, stream_id: int) -> None:
        self.streams[stream_id] = 0
        self._pay_later()

    def note_data(self, stream_id: int, size_bytes: int) -> bool:
        """Whether the data is on such a stream. Its window stays closed."""
        if stream_id not in self.streams:
            return False
        self.streams[stream_id] += size_bytes
        return True

    def forget(self, stream_id: int) -> None:
        """The stream is closed: what came on it is given back to the window of the connection."""
        size_bytes = self.streams.pop(stream_id, 0)
        if size_bytes:
            self._link.acknowledge(stream_id, size_bytes)

    def stop(self) -> None:
        """The connection is lost."""
        if self._timer is not None:
            self._timer.cancel()

    def _pay_later(self) -> None:
        if self._timer is None:
            now_s = time.monotonic()
            self._timer = self._timers.at(now_s + self._budget.wait_s(now_s), self._pay)

    def _pay(self) -> None:
        """Send those that waited, as far as the budget allows it now."""
        self._timer, now_s = None, time.monotonic()
        while self.streams and self._budget.take(now_s):
            stream_id = next(iter(self.streams))
            self.forget(stream_id)
            self._link.reset(stream_id, CANCEL)
        if self.streams:
            self._pay_later()
        self._on_paid()
