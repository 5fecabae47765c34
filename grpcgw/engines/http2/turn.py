"""One turn of the engine: delivers what events changed to the RPCs, and writes what they queued, once a loop turn.

Events of connections only change the state of RPCs and `touch` them. So a request that arrives whole is handled whole,
RPCs of several connections share a write, and no session is called from inside a port call. What a client or a pod
sends in one piece is handled in parts over several turns, after what the others queued is written: their RPCs wait for
a part, not for the whole.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Protocol

from grpcgw.engines.http2.busy_poll import BusyPoll
from grpcgw.engines.http2.memory_bound import MemoryBound
from grpcgw.logs import DefectLog

log = logging.getLogger(__name__)

BACKLOG_S = 0.0001
"""Time for backlogs in one turn, give or take a part: an RPC of another client waits for the turn that runs when it
comes, and for the one that runs when the pod's answer comes."""
ALONE_S, QUIET_S = 0.002, 0.1
"""The same while no client that sends little sent anything for QUIET_S: there is nobody to wait, and turns cost time,
too. One that has sent much within QUIET_S is none of them."""


class Pumped(Protocol):
    """Something with events to deliver."""

    is_ready: bool

    def pump(self, now_s: float) -> None:
        """Deliver what is due. Contains its own exceptions."""
        ...


class Flushed(Protocol):
    """A connection with bytes to write."""

    is_dirty: bool

    def flush(self) -> None: ...
    def fail(self, why: str) -> None:
        """Close it, because flushing it failed."""
        ...


class Backlogged(Protocol):
    """A connection whose other end has sent much at once."""

    def handle_part(self) -> None:
        """Handle a part of it, and postpone the rest."""
        ...

    def fit_part(self, took_s: float, limit_s: float) -> None:
        """`took_s`: time that the part took, with what it caused; `limit_s`: what all parts may take of a turn."""
        ...

    def fail(self, why: str) -> None: ...


class Turn:
    """In the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, busy_poll_s: float = 0.0) -> None:
        self._loop = loop
        self._busy_poll = BusyPoll(loop, busy_poll_s) if busy_poll_s else None
        self.memory = MemoryBound(loop)
        self._ready: list[Pumped] = []
        self._dirty: list[Flushed] = []
        self._backlogs: deque[Backlogged] = deque()
        self.small_at_s = 0.0
        """Monotonic time when a client that sends little sent something: such clients do not wait long for backlogs."""
        self.hurries = False
        """There are clients that should not wait long, as of the last turn with a backlog."""
        self._scheduled = False
        self._defects = DefectLog(log)

    def touch(self, rpc: Pumped) -> None:
        """Pump `rpc` in this turn."""
        if not rpc.is_ready:
            rpc.is_ready = True
            self._ready.append(rpc)
            if not self._scheduled:
                self._schedule()

    def mark(self, connection: Flushed) -> None:
        """Flush `connection` at the end of this turn."""
        if not connection.is_dirty:
            connection.is_dirty = True
            self._dirty.append(connection)
            if not self._scheduled:
                self._schedule()

    def postpone(self, connection: Backlogged) -> None:
        """Handle a part of the backlog of `connection` in this turn or a next one, after those of the others."""
        self._backlogs.append(connection)
        if not self._scheduled:
            self._schedule()

    def must_hurry(self, now_s: float) -> bool:
        """Whether there are clients that send little: they should not wait long."""
        return now_s - self.small_at_s < QUIET_S

    def _schedule(self) -> None:
        self._scheduled = True
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._pump()
        self._flush()
        if self._backlogs:
            self._handle_backlogs()
        self._scheduled = False
        if self._backlogs or self._dirty or self._ready:
            self._schedule()
        if self._busy_poll is not None:
            self._busy_poll.note(time.monotonic())

    def _flush(self) -> None:
        dirty, self._dirty = self._dirty, []
        for connection in dirty:
            connection.is_dirty = False
            try:
                connection.flush()
            except Exception:  # the other connections are not lost with it
                self._defects.note("a connection could not be written to")
                connection.fail("a defect of the gateway")

    def _pump(self) -> None:
        now_s = time.monotonic()
        while self._ready:
            ready, self._ready = self._ready, []
            for rpc in ready:
                rpc.pump(now_s)  # until nothing is due: what it touches of itself meanwhile needs no second time
                rpc.is_ready = False

    def _handle_backlogs(self) -> None:
        # Not the thread's processor time: that clock is a system call, which was a fifth of what such a load costs.
        began_s = time.monotonic()
        self.hurries = self.must_hurry(began_s)
        limit_s = BACKLOG_S if self.hurries else ALONE_S
        ends_s = began_s + limit_s
        while self._backlogs and began_s < ends_s:
            connection = self._backlogs.popleft()
            try:
                connection.handle_part()
            except Exception:
                self._defects.note("what came on a connection could not be handled")
                connection.fail("a defect of the gateway")
            self._pump()
            over_s = time.monotonic()
            connection.fit_part(over_s - began_s, limit_s)
            began_s = over_s
