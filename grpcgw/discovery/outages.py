"""What the log says of readers that fail: a line for each new cause, then a count now and then, a line at the end.

A gateway reads a dozen kinds from one API server. When that is away each of them fails again and again, for one reason.
Pure: the clock is handed in.
"""

from __future__ import annotations

REMINDER_S = 60.0
"""The same cause is not logged more often."""


class Outages:
    """The readers that fail now. Methods return the line to log, empty for none.

    The number of lines is bounded: one per cause and `REMINDER_S`, and one for the end of what was logged.
    """

    def __init__(self) -> None:
        self._failing: set[str] = set()
        self._since_s = 0.0
        self._failures = 0
        self._logged_at_s: dict[str, float] = {}
        """When each cause was last logged."""
        self._is_logged = False
        """Whether there is a line about the present outage."""

    def note_failure(self, reader: str, cause: str, error: str, now_s: float) -> str:
        """`reader` failed. `cause` is what counts as the same failure (`away`), `error` says all of it."""
        if not self._failing:
            self._since_s, self._failures, self._is_logged = now_s, 0, False
        self._failing.add(reader)
        self._failures += 1
        if now_s < self._logged_at_s.get(cause, now_s - REMINDER_S) + REMINDER_S:
            return ""
        self._logged_at_s[cause] = now_s
        self._is_logged = True
        if self._failures == 1:
            return f"{reader}: {error}"
        lasts_s = now_s - self._since_s
        return f"{reader}: {error} ({self._failures} failures of {len(self._failing)} readers in {lasts_s:.0f} s)"

    def note_success(self, reader: str, now_s: float) -> str:
        """`reader` works."""
        if reader not in self._failing:
            return ""
        self._failing.remove(reader)
        if self._failing or not self._is_logged:
            return ""
        return f"all is read again, after {now_s - self._since_s:.1f} s and {self._failures} failures"

    def forget(self, reader: str) -> None:
        """`reader` is no more."""
        self._failing.discard(reader)
