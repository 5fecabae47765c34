"""Connects to a pod that has an address of each IP family: the first one that answers counts (RFC 8305, 5).

`Race` says which attempt begins when, and is pure: time is an argument, in seconds. `connect_first` does the I/O.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable, Sequence

DELAY_S = 0.25
"""Until the next address is tried beside those that have not answered (RFC 8305, Connection Attempt Delay)."""


class Race:
    """Attempts begin in their order: each DELAY_S after the one before, or as soon as all before it have failed."""

    __slots__ = ("_begun", "_count", "_due_s", "_failed")

    def __init__(self, count: int, now_s: float) -> None:
        self._count, self._due_s = count, now_s
        self._begun = self._failed = 0

    def begin(self, now_s: float) -> int | None:
        """The number of the attempt to begin now; None: none is due."""
        if self._begun == self._count or (now_s < self._due_s and self._failed < self._begun):
            return None
        self._begun += 1
        self._due_s = now_s + DELAY_S
        return self._begun - 1

    def fail(self) -> None:
        """One that has begun failed."""
        self._failed += 1

    def wait_s(self, now_s: float) -> float | None:
        """How long those that run are waited for until the next one is due; None: there is no next one."""
        return None if self._begun == self._count else max(0.0, self._due_s - now_s)


async def connect_first(loop: asyncio.AbstractEventLoop, addresses: Sequence[str], port: int) -> socket.socket:
    """A connection to the first of `addresses` that answers; others are closed. Raises OSError where none does."""
    race, failures = Race(len(addresses), time.monotonic()), list[str]()
    running: dict[asyncio.Task[socket.socket], str] = {}
    try:
        while True:
            while (number := race.begin(time.monotonic())) is not None:
                running[loop.create_task(_connect(loop, addresses[number], port))] = addresses[number]
            if not running:
                raise OSError("; ".join(failures))
            wait_s = race.wait_s(time.monotonic())
            ended, _ = await asyncio.wait(running, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for attempt in ended:
                error = attempt.exception()
                if error is None:
                    del running[attempt]
                    return attempt.result()
                failures.append(f"{running.pop(attempt)}: {getattr(error, 'strerror', None) or error}")
                race.fail()
    finally:
        await _close(running)


async def _connect(loop: asyncio.AbstractEventLoop, address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        made.setblocking(False)
        await loop.sock_connect(made, (address, port))
    except BaseException:
        made.close()
        raise
    return made


async def _close(attempts: Iterable[asyncio.Task[socket.socket]]) -> None:
    """End those that run, and close what they connected meanwhile."""
    for attempt in attempts:
        attempt.cancel()
    for ended in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(ended, socket.socket):
            ended.close()
