"""Deadlines: the earlier of the client's deadline and the Mapping's timeout, and the remainder for the pod. Pure.

Deadlines are seconds on the clock of the engine that gives them; None is no deadline.
"""

from __future__ import annotations

import math
from bisect import bisect_right

# grpc core sends a timeout with two to three significant digits, rounded up: 2,000 ms may arrive as 2,009. Cut to the
# step core will use before it does, the value that arrives is never larger than what was left.
_STEPS_MS = {
    1_000: 1,
    10_000: 10,
    100_000: 100,
    1_000_000: 1_000,
    10_000_000: 10_000,
    60_000_000: 100_000,
    600_000_000: 600_000,
    6_000_000_000: 6_000_000,
    math.inf: 3_600_000,
}
"""Below so many milliseconds, core counts in steps of so many."""
_LIMITS_MS, _STEP_BY_LIMIT_MS = tuple(_STEPS_MS), tuple(_STEPS_MS.values())
_CLOCK_ROUNDING_MS = 2
"""grpc core counts in whole milliseconds: a deadline is rounded up on its way in, and the time now down."""
_LARGEST_CUT = 0.01
_TIMER_SLACK_S = 0.01


def bound_deadline(client_deadline_s: float | None, timeout_ms: int | None, now_s: float) -> float | None:
    """The earlier of the client's deadline and the Mapping's `timeout_ms` from now."""
    if timeout_ms is None:
        return client_deadline_s
    limit_s = now_s + timeout_ms / 1000
    return limit_s if client_deadline_s is None else min(client_deadline_s, limit_s)


def upstream_deadline(deadline_s: float, now_s: float) -> float:
    """The deadline to give to grpc core so that the pod never sees more than is left. In the past: it has passed."""
    left_ms = (deadline_s - now_s) * 1000
    step_ms = _STEP_BY_LIMIT_MS[bisect_right(_LIMITS_MS, left_ms)]
    return now_s + (left_ms // step_ms * step_ms - _CLOCK_ROUNDING_MS) / 1000


def may_have_passed(deadline_s: float, since_s: float, now_s: float) -> bool:
    """Whether grpc core, given `deadline_s` by `upstream_deadline` at `since_s`, may call it passed by now."""
    return now_s >= deadline_s - (deadline_s - since_s) * _LARGEST_CUT - _TIMER_SLACK_S
