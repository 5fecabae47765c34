"""Bounds of the gateway's own log: a rate limit for lines that clients can cause, and a writer that never blocks.

`RateLimit` drops records beyond the rate. `LogWriter` writes lines in its own thread: a slow or absent reader costs
lines, but delays no RPC.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

CAUSED_BY_CLIENTS = (
    "grpc",
    "asyncio",
    "uvicorn",
    "grpcgw.engines",
    "grpcgw.session",
    "grpcgw.services",
    "grpcgw.policy",
)
"""Loggers, with their children, whose lines a client can cause at any rate."""
BURST = 10
EVERY_S = 5.0
"""Each place in the code may log BURST lines at once, then one line per EVERY_S seconds."""
MAX_LINE_CHARACTERS = 8192
MAX_WAITING = 1024
"""Length of the queue of lines, each MAX_LINE_CHARACTERS at most; more lines are dropped and counted."""
CLOSE_S = 1.0
"""Time for the last lines when the process ends."""


class RateLimit(logging.Filter):
    """Passes the first records of each place in the code, then a few that say how many were suppressed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], _Allowance] = {}
        """One for each log call in the code, so clients cannot make it grow."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not _is_below(record.name):
            return True
        now_s = self._clock()
        place = self._places.setdefault((record.pathname, record.lineno), _Allowance(now_s))
        if not place.take(now_s):
            return False
        if place.held_back:
            record.msg = f"{record.msg} (and {place.held_back} similar lines before, not shown)"
            place.held_back = 0
        return True


def _is_below(name: str) -> bool:
    return any(name == one or name.startswith(f"{one}.") for one in CAUSED_BY_CLIENTS)


class _Allowance:
    def __init__(self, now_s: float) -> None:
        self._left, self._since_s = float(BURST), now_s
        self.held_back = 0

    def take(self, now_s: float) -> bool:
        self._left = min(BURST, self._left + (now_s - self._since_s) / EVERY_S)
        self._since_s = now_s
        if self._left < 1:
            self.held_back += 1
            return False
        self._left -= 1
        return True


class LogWriter(logging.Handler):
    """Writes lines to a file descriptor, in a thread that starts with the first line."""

    def __init__(self, descriptor: int = 2, max_waiting: int = MAX_WAITING) -> None:
        super().__init__()
        self._descriptor, self._max_waiting = descriptor, max_waiting
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._dropped = 0
        self.addFilter(RateLimit())
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() >= self._max_waiting:
            self._dropped += 1
            return
        try:
            line = self.format(record)
        except Exception:  # a wrong log call must not stop its caller
            self.handleError(record)
            return
        self._waiting.put(_cut(line).encode(errors="backslashreplace") + b"\n")
        if self._thread is None:  # under the handler's lock
            # A daemon: a reader that has stopped must not keep the process alive.
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write the queue, for at most CLOSE_S."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(CLOSE_S)
        super().close()

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            line += self._report_dropped()
            with contextlib.suppress(OSError):  # the reader is gone, and there is nowhere to report it
                _write(self._descriptor, line)

    def _report_dropped(self) -> bytes:
        with self.lock or contextlib.nullcontext():
            dropped, self._dropped = self._dropped, 0
        return b"%d lines of this log were dropped: its reader is too slow\n" % dropped if dropped else b""


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]} (cut)"


def _write(descriptor: int, line: bytes) -> None:
    while line:
        try:
            line = line[os.write(descriptor, line) :]
        except BlockingIOError:  # another process that shares the descriptor may have made it non-blocking
            select.select([], [descriptor], [])
