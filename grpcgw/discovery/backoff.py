"""Exponential back-off with full jitter. Pure: returns delays, sleeps nowhere."""

from __future__ import annotations

from random import Random


class Backoff:
    """The n-th delay is uniform in 0 … min(cap_s, base_s · 2ⁿ)."""

    def __init__(self, base_s: float, cap_s: float, random: Random) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._random = random
        self._ceiling_s = min(base_s, cap_s)

    def next_s(self) -> float:
        delay_s = self._random.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._cap_s, self._ceiling_s * 2)
        return delay_s

    def reset(self) -> None:
        self._ceiling_s = min(self._base_s, self._cap_s)
