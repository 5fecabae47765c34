"""How the gateway's own log looks: one line per event on stderr, with the process it comes from; how it counts."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from grpcgw.log_bounds import LogWriter

DEFECT_AGAIN_S = 60.0
"""How often the same defect may fill the log."""


def set_up_logging(level: str, process: str, descriptor: int = 2) -> None:
    """`level`: debug, info, warning or error. `process`: `control`, `worker 1`. `descriptor`: where lines go."""
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
    """For exceptions that nobody foresaw and that must end nothing: logged with a traceback, the same at most once a
    minute, since what runs many times a second stumbles as often."""

    def __init__(self, log: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._log, self._clock = log, clock
        self._next_s: dict[str, float] = {}
        self._silent: dict[str, int] = {}

    @contextmanager
    def contained(self, what: str, subject: str = "") -> Iterator[None]:
        """What is done under it may fail without ending more than itself."""
        try:
            yield
        except Exception:
            self.note(what, subject)

    def note(self, what: str, subject: str = "") -> None:
        """To be called where the exception is handled. `what` is one of few texts; `subject` says of what."""
        now_s = self._clock()
        if now_s < self._next_s.get(what, now_s):
            self._silent[what] = self._silent.get(what, 0) + 1
            return
        self._next_s[what] = now_s + DEFECT_AGAIN_S
        silent = self._silent.pop(what, 0)
        more = f" (and {silent} times since this was last logged)" if silent else ""
        self._log.exception("defect: %s%s%s; the rest goes on", what, f" {subject}" if subject else "", more)
