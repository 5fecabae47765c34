"""Asks the control process for key sets that lack the key of a token, and waits for them a moment. Pure.

Strangers can send tokens with any `kid`. So a worker asks for a set once in `ASK_EVERY_S`, the control process bounds
how often it fetches (`discovery.sources.key_sets`), and only so many RPCs wait, of those that come when a fetch may
bring the key; the others are refused at once.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from grpcgw.model.jwt import MissingKey, PublicKey
from grpcgw.policy.verdicts import ALLOW, Allow

ASK_EVERY_S = 1.0
WAIT_S, CHECK_EVERY_S = 1.0, 0.05
"""How long an RPC waits for new keys at most, and how often it looks."""
WINDOW_S, MOST_WAITING = 10.0, 200
"""Once in the first, RPCs wait; so many of them at most."""


class KeyRing:
    """The newest keys of a key set in a worker, in force with the newest snapshot or the next."""

    __slots__ = ("__weakref__", "keys")

    def __init__(self) -> None:
        self.keys: tuple[PublicKey, ...] = ()


@dataclass(slots=True)
class _Asked:
    """What was asked for of one set."""

    at_s: float = -math.inf
    window_at_s: float = -math.inf
    waiting: int = 0
    """RPCs that have waited in this window."""


class KeyRequests:
    """Those of one worker."""

    def __init__(self) -> None:
        self._send: Callable[[MissingKey], object] | None = None
        self._sleep: Callable[[float], Awaitable[object]] | None = None
        self._asked: dict[str, _Asked] = {}
        """By set: as many as Filters have named."""

    def connect(self, send: Callable[[MissingKey], object], sleep: Callable[[float], Awaitable[object]]) -> None:
        """`send` passes a request on and must not block. Before, nobody is asked."""
        self._send, self._sleep = send, sleep

    def ask(self, missing: MissingKey, now_s: float) -> bool:
        """Whether the RPC should `wait`. `now_s`: of a clock that never goes back."""
        if self._send is None:
            return False
        asked = self._asked.setdefault(missing.key_set, _Asked())
        if now_s - asked.at_s >= ASK_EVERY_S:
            asked.at_s = now_s
            self._send(missing)
        if now_s - asked.window_at_s >= WINDOW_S:
            asked.window_at_s, asked.waiting = now_s, 0
        if now_s - asked.window_at_s >= WAIT_S or asked.waiting >= MOST_WAITING:
            return False
        asked.waiting += 1
        return True

    async def wait(self, ring: KeyRing, known: tuple[PublicKey, ...]) -> Allow:
        """Returns when `ring` has other keys than `known`, or after `WAIT_S`."""
        assert self._sleep is not None
        for _ in range(round(WAIT_S / CHECK_EVERY_S)):
            if ring.keys != known:
                break
            await self._sleep(CHECK_EVERY_S)
        return ALLOW
