"""Asks the control process for key sets that lack the key of a token. Pure.

Strangers can send tokens with any `kid`: a worker asks for a set at most once in `ASK_EVERY_S`, and the control process
bounds how often it fetches (`discovery.sources.key_sets`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

ASK_EVERY_S = 1.0


class KeyRequests:
    """Those of one worker."""

    def __init__(self) -> None:
        self.send: Callable[[str], object] = _ignore
        """Passes an id on (`JwtSettings.key_set`); must not block. Replaced by whoever runs the worker."""
        self._asked_at_s: dict[str, float] = {}
        """By set: as many as Filters have named."""

    def ask(self, key_set: str, now_s: float) -> None:
        """`now_s`: of a clock that never goes back."""
        if now_s - self._asked_at_s.get(key_set, -math.inf) >= ASK_EVERY_S:
            self._asked_at_s[key_set] = now_s
            self.send(key_set)


def _ignore(_: str) -> None:
    """Where nobody fetches: a command that only explains."""
