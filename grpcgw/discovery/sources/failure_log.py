"""Rate-limited log of failing readers: a line for each new cause, then counts at growing intervals, a line at the end.

A gateway reads a dozen kinds from one API server. When it is away, each of them fails repeatedly for the same cause.
Pure: time is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass, field

REMINDER_S = 60.0
"""Seconds until the same cause is logged again; doubled each time, as some causes last for days."""
MAX_REMINDER_S = 3600.0


@dataclass(slots=True)
class _Cause:
    """A cause of failures, current or past."""

    failing: set[str] = field(default_factory=set)
    since_s: float = 0.0
    failures: int = 0
    is_logged: bool = False
    """Whether it has been logged since it began."""
    logged_at_s: float = float("-inf")
    reminder_s: float = REMINDER_S

    def begin(self, now_s: float) -> None:
        self.since_s, self.failures, self.is_logged, self.reminder_s = now_s, 0, False, REMINDER_S

    def is_due(self, now_s: float) -> bool:
        """Whether to log it now; if so, starts the next interval."""
        if now_s < self.logged_at_s + self.reminder_s:
            return False
        if self.is_logged:
            self.reminder_s = min(MAX_REMINDER_S, 2 * self.reminder_s)
        self.logged_at_s, self.is_logged = now_s, True
        return True


class FailureLog:
    """The readers that fail now. Methods return the line to log, empty for none.

    The number of lines is bounded: for each cause one a minute at most, and one for its end if it was logged.
    """

    def __init__(self) -> None:
        self._causes: dict[str, _Cause] = {}
        self._cause_of: dict[str, str] = {}
        """By reader that fails."""

    def note_failure(self, reader: str, cause: str, error: str, now_s: float) -> str:
        """`reader` failed. Failures with the same `cause` (`away`) are logged together; `error` is the full text."""
        if self._cause_of.get(reader) != cause:
            self.forget(reader)
        found = self._causes.setdefault(cause, _Cause())
        if not found.failing:
            found.begin(now_s)
        found.failing.add(reader)
        self._cause_of[reader] = cause
        found.failures += 1
        if not found.is_due(now_s):
            return ""
        if found.failures == 1:
            return f"{reader}: {error}"
        lasts_s = now_s - found.since_s
        return f"{reader}: {error} ({found.failures} failures of {len(found.failing)} readers in {lasts_s:.0f} s)"

    def note_success(self, reader: str, now_s: float) -> str:
        """`reader` works."""
        cause = self._causes.get(self._cause_of.get(reader, ""))
        self.forget(reader)
        if cause is None or cause.failing or not cause.is_logged:
            return ""
        return f"reading works again, after {now_s - cause.since_s:.1f} s and {cause.failures} failures"

    def forget(self, reader: str) -> None:
        """`reader` has ended."""
        cause = self._cause_of.pop(reader, None)
        if cause is not None:
            self._causes[cause].failing.discard(reader)
