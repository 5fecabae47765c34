"""The gateway's own log: its format, one line per event with the name of the process; rate limit for logged defects and
for what blocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpcgw.log_bounds import LogWriter

DEFECT_AGAIN_S = 60.0
"""Shortest time between two log entries of the same defect."""


def set_up_logging(level: str, process: str, descriptor: int = 2) -> None:
    """Send all logging to `descriptor`, a file descriptor.

    `level`: debug, info, warning or error. `process`: the name in each line, `control` or `worker 1`.
    """
    logging.basicConfig(
        level=level.upper(),
        format=f"%(asctime)s %(levelname)-7s {process}: %(message)s",
        handlers=[LogWriter(descriptor)],
        force=True,
    )
    for noisy in ("asyncio", "watchfiles", "uvicorn.error", "grpc"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def count(number: int, noun: str) -> str:
    """`no routes`, `1 route`, `2 routes`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


class DefectLog:
    """Logs unexpected exceptions that must not stop anything: with a traceback, each at most once a minute, as the same
    defect may occur many times a second."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._next_s: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    @contextmanager
    def contained(self, what: str, subject: str = "") -> Iterator[None]:
        """Context that logs any exception of its block and does not raise it."""
        try:
            yield
        except Exception:
            self.note(what, subject)

    def note(self, what: str, subject: str = "") -> None:
        """Log the exception being handled. `what`: one of few texts, the rate limit's key. `subject`: the object."""
        now_s = self._clock()
        if now_s < self._next_s.get(what, now_s):
            self._silent[what] = self._silent.get(what, 0) + 1
            return
        self._next_s[what] = now_s + DEFECT_AGAIN_S
        silent = self._silent.pop(what, 0)
        more = f" (and {silent} times since this was last logged)" if silent else ""
        self._log.exception("defect: %s%s%s; the gateway continues", what, f" {subject}" if subject else "", more)


class BlockLog:
    """Warns of code that blocks a thread which others need, of each piece at most once a minute."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self.clock = log, clock
        self._next_s: dict[str, float] = {}

    def note(self, what: str, took_s: float) -> None:
        """`what`: one of few texts, the rate limit's key."""
        now_s = self.clock()
        if now_s < self._next_s.get(what, now_s):
            return
        self._next_s[what] = now_s + DEFECT_AGAIN_S
        self._log.warning("%s took %d ms, in which the other calls of this worker had to wait", what, took_s * 1000)
