"""How many resets (RST_STREAM) one connection to a pod may carry, so that its pod does not end it over them.

Servers bound the resets of a connection against floods (CVE-2023-44487) and end it beyond. Netty's own handler above
200 in 30 s (so Reactor Netty; grpc-java where it is asked to), libnghttp2 above 1,000 at once and 33 a second, Envoy
where half of 500 requests or more were reset within a second. Clients share the connection, so one that cancels much
would end the RPCs of the others. Pure: time is an argument, in seconds.
"""

from __future__ import annotations

BURST, PER_S = 150, 1.2
"""Beyond so many at once, and in a second, resets wait. That is 192 in 35 s: some may be late on their way to Netty."""
EASY = BURST // 2
"""Beyond so many new RPCs go to another connection."""
MOST_OF_FEW, MOST_SHARE = 200, 0.4
"""So they do where a connection has carried more than so many, in its whole life, and a larger share of its RPCs."""


class ResetBudget:
    __slots__ = ("_at_s", "_left", "_sent")

    def __init__(self, now_s: float) -> None:
        self._at_s = now_s
        self._left = float(BURST)
        self._sent = 0

    def left(self, now_s: float) -> float:
        """Resets that may be sent at once."""
        self._left = min(BURST, self._left + (now_s - self._at_s) * PER_S)
        self._at_s = now_s
        return self._left

    def take(self, now_s: float) -> bool:
        """Whether a reset may be sent now; if so, it counts."""
        if self.left(now_s) < 1:
            return False
        self.count(now_s)
        return True

    def count(self, now_s: float) -> None:
        """A reset is sent, whether it may be or not."""
        self._left = max(0.0, self.left(now_s) - 1)
        self._sent += 1

    def room(self, now_s: float, ended: int) -> int:
        """How many RPCs should run on the connection, as each may be reset; 0: new ones should go to another.

        `ended`: RPCs that ran on it before.
        """
        left = int(self.left(now_s))
        if left < BURST - EASY or self._sent > max(MOST_OF_FEW, MOST_SHARE * ended):
            return 0
        return left

    def wait_s(self, now_s: float) -> float:
        """Time until the next reset may be sent."""
        return max(0.0, (1 - self.left(now_s)) / PER_S)
