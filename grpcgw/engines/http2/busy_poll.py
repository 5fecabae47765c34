"""Looks at the sockets again and again after an RPC, for a while, instead of letting the core sleep (`--busy-poll`).

A core that sleeps takes tens of microseconds to wake, for a request and again for its answer: more than the gateway
needs to handle both. Polling costs what is left of the core while RPCs follow each other closely, so it is off unless
asked for (decision 041).
"""

from __future__ import annotations

import asyncio
import time


class BusyPoll:
    """In the loop's thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poll_s: float) -> None:
        """`poll_s`: how long to poll after the last event; 0: never."""
        self._loop, self._poll_s = loop, poll_s
        self._active_at_s = 0.0
        """Monotonic time of the last event."""
        self.polls = False

    def note(self, now_s: float) -> None:
        """There was an event. Polling follows if it would have been worth it before this one: after a longer pause it
        is of no use, and RPCs that come now and then cost nothing more."""
        paused_s, self._active_at_s = now_s - self._active_at_s, now_s
        if paused_s < self._poll_s and not self.polls:
            self.polls = True
            self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """While a callback is due, the loop does not sleep."""
        if time.monotonic() < self._active_at_s + self._poll_s:
            self._loop.call_soon(self._poll)
        else:
            self.polls = False
