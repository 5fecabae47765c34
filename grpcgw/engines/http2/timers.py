"""Timers of an engine's loop: a heap with lazy cancellation, and one timer of the loop for the earliest."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import time
from collections.abc import Callable

from grpcgw.logs import DefectLog

log = logging.getLogger(__name__)

LOOP_SLACK_S = 0.001
"""The loop counts in milliseconds, and may wake so much too early."""
MOST_DEAD = 1024
"""Cancelled timers that may stay in the heap, where they are not the smaller half of it."""


class LoopTimer:
    __slots__ = ("call", "due_s", "owner")

    def __init__(self, due_s: float, call: Callable[[], None], owner: Timers) -> None:
        self.due_s, self.owner = due_s, owner
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        """Does nothing where it has expired."""
        if self.call is not None:
            self.call = None
            self.owner.note_dead()


class Timers:
    """In the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._heap: list[tuple[float, int, LoopTimer]] = []
        self._numbers = itertools.count()
        self._dead = 0
        self._handle: asyncio.TimerHandle | None = None
        self._wakes_at_s = float("inf")
        self._defects = DefectLog(log)

    def at(self, due_s: float, call: Callable[[], None]) -> LoopTimer:
        """Call `call` at `due_s` of the monotonic clock, or soon after."""
        timer = LoopTimer(due_s, call, self)
        heapq.heappush(self._heap, (due_s, next(self._numbers), timer))
        if due_s < self._wakes_at_s:
            self._wake_at(due_s)
        return timer

    def note_dead(self) -> None:
        """A timer in the heap was cancelled."""
        self._dead += 1
        if self._dead > MOST_DEAD and self._dead > len(self._heap) // 2:
            self._heap = [entry for entry in self._heap if entry[2].call is not None]
            heapq.heapify(self._heap)
            self._dead = 0

    def _wake_at(self, due_s: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._wakes_at_s = due_s
        self._handle = self._loop.call_later(max(0.0, due_s - time.monotonic()) + LOOP_SLACK_S, self._expire)

    def _expire(self) -> None:
        self._handle, self._wakes_at_s = None, float("inf")
        now_s = time.monotonic()
        while self._heap and (self._heap[0][0] <= now_s or self._heap[0][2].call is None):
            call, timer = self._heap[0][2].call, heapq.heappop(self._heap)[2]
            if call is None:
                self._dead -= 1
            else:
                timer.call = None
                with self._defects.contained("a timer failed"):
                    call()
        if self._heap and self._heap[0][0] < self._wakes_at_s:
            self._wake_at(self._heap[0][0])

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
