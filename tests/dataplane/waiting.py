"""Waiting for something to become true, with a limit that a busy machine does not reach."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 60.0
"""How long a test waits for what must happen. Nothing asserts that it took less."""

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.003, 0.1
_PAUSE_PER_CHECK = 4
"""A check may be an HTTP request or a walk over all processes: what is waited for gets most of the processor."""


def eventually(
    condition: Callable[[], object], what: str | Callable[[], object] = "", within_s: float = PATIENCE_S
) -> None:
    """Return once `condition` holds; fail the test where it never does."""
    limit_s = time.monotonic() + within_s
    began_s = time.monotonic()
    while not condition():
        now_s = time.monotonic()
        if now_s > limit_s:
            raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what or condition}")
        time.sleep(min(max(_PAUSE_PER_CHECK * (now_s - began_s), _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))
        began_s = time.monotonic()


def settled(count: Callable[[], int], quiet_s: float = 0.4, within_s: float = PATIENCE_S) -> int:
    """The value `count` stays at for `quiet_s`. On a slow machine it may be read too low, never too high."""
    limit_s = time.monotonic() + within_s
    last, since_s = count(), time.monotonic()
    while time.monotonic() - since_s < quiet_s:
        now = count()
        if now != last:
            last, since_s = now, time.monotonic()
        assert time.monotonic() < limit_s, f"never came to rest, now at {last}"
        time.sleep(0.01)
    return last
