"""How many resets (RST_STREAM) one connection to a pod may carry, so that its pod does not end it over them.

Servers bound the resets of a connection against floods (CVE-2023-44487) and end it beyond: libnghttp2 above 1,000 at
once and 33 a second, Netty above 200 in 30 s, Envoy where 250 of its first 500 streams are reset. Clients share the
connection, so one that cancels much would end the RPCs of the others. Pure: time is an argument, in seconds.
"""

from __future__ import annotations

EASY_BURST, EASY_PER_S = 100, 6.0
"""Beyond these new RPCs go to another connection."""
HARD_BURST, HARD_PER_S = 900, 30.0
"""Beyond these resets wait."""


class TokenBucket:
    """`burst` at once, and `per_s` in the long run."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, burst: int, per_s: float, now_s: float) -> None:
        self._burst, self._per_s, self._at_s = burst, per_s, now_s
        self._left = float(burst)

    def left(self, now_s: float) -> float:
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        return self._left

    def take(self, now_s: float) -> bool:
        """Whether there was one left."""
        if self.left(now_s) < 1:
            return False
        self._left -= 1
        return True

    def wait_s(self, now_s: float) -> float:
        """Time until there is one."""
        return max(0.0, (1 - self.left(now_s)) / self._per_s)


class ResetBudget:
    __slots__ = ("_easy", "_hard")

    def __init__(self, now_s: float) -> None:
        self._easy = TokenBucket(EASY_BURST, EASY_PER_S, now_s)
        self._hard = TokenBucket(HARD_BURST, HARD_PER_S, now_s)

    def take(self, now_s: float) -> bool:
        """Whether a reset may be sent now; if so, it counts."""
        self._easy.take(now_s)
        return self._hard.take(now_s)

    def is_low(self, now_s: float) -> bool:
        """Whether new RPCs should go to another connection: they might be reset."""
        return self._easy.left(now_s) < 1

    def is_rested(self, now_s: float) -> bool:
        """Whether a connection that was low may take new RPCs again: half of the budget is back."""
        return self._easy.left(now_s) >= EASY_BURST / 2

    def left(self, now_s: float) -> float:
        """Resets that may be sent at once."""
        return self._hard.left(now_s)

    def wait_s(self, now_s: float) -> float:
        """Time until the next reset may be sent."""
        return self._hard.wait_s(now_s)
