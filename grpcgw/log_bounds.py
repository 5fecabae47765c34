"""Keeps the gateway's own log from hurting anybody: lines that clients can cause come at a bounded rate, and a reader
that is slow or gone costs lines, never an RPC its time.

`RateLimit` decides which records are made into lines; `LogWriter` writes them in a thread of its own.
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
"""The loggers, with those below them, whose lines somebody outside may cause as often as he likes."""
BURST = 10
EVERY_S = 5.0
"""Of the lines of one place in the code: so many at once, and then one each so often."""
MAX_LINE_CHARACTERS = 8192
MAX_WAITING = 1024
"""Lines that wait to be written, of MAX_LINE_CHARACTERS at most; more are dropped, and counted."""
CLOSE_S = 1.0
"""How long the last lines may take when the process ends."""


class RateLimit(logging.Filter):
    """Lets the first records of each place in the code pass, and then a few that say how many were held back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._places: dict[tuple[str, int], _Allowance] = {}
        """One for each log call there is: their number is the code's, not a client's."""

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
    """Lines for a descriptor, written by a thread that starts with the first one."""

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
        except Exception:  # a wrong log call must not end what logs
            self.handleError(record)
            return
        self._waiting.put(_cut(line).encode(errors="backslashreplace") + b"\n")
        if self._thread is None:  # under the handler's lock
            # A daemon: a reader that never reads on must not keep the process alive.
            self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Write what waits, for at most CLOSE_S."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(CLOSE_S)
        super().close()

    def _write_all(self) -> None:
        while (line := self._waiting.get()) is not None:
            line += self._tell_dropped()
            with contextlib.suppress(OSError):  # nobody reads any more, and nobody can be told
                _write(self._descriptor, line)

    def _tell_dropped(self) -> bytes:
        with self.lock or contextlib.nullcontext():
            dropped, self._dropped = self._dropped, 0
        return b"%d lines of this log were dropped: it is read too slowly\n" % dropped if dropped else b""


def _cut(line: str) -> str:
    return line if len(line) <= MAX_LINE_CHARACTERS else f"{line[:MAX_LINE_CHARACTERS]} (cut)"


def _write(descriptor: int, line: bytes) -> None:
    while line:
        try:
            line = line[os.write(descriptor, line) :]
        except BlockingIOError:  # whoever shares the descriptor may have made it so
            select.select([], [descriptor], [])
