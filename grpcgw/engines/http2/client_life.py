"""How long a client's connection lives: its age, its time without RPCs, and its silence. Pure: time is an argument."""

from __future__ import annotations

import math
from collections.abc import Iterator
from enum import Enum, auto

from grpcgw.engines.contract import ASK_CLIENTS_MS, CLIENT_ANSWERS_MS
from grpcgw.engines.http2.client_limits import ClientLimits

SETTINGS_S = 10.0
"""Time for a client's preface, its TLS handshake, and its acknowledgement of the settings."""
MOST_WAIT_S, LEAST_WAIT_S = 10.0, 0.01
"""Between two looks at a connection."""


class Due(Enum):
    """What is to be done with a connection."""

    NO_SETTINGS = auto()
    """Close it: the client does not acknowledge the settings."""
    NO_ANSWER = auto()
    """Close it: the client does not answer a ping."""
    PING = auto()
    IDLE = auto()
    """Send GOAWAY: there was no RPC for so long."""
    OLD = auto()
    """Drain it, as it has reached its age."""
    TOO_OLD = auto()
    """Close it with what runs on it."""


class ClientLife:
    """Times are in seconds, of a monotonic clock."""

    __slots__ = ("_born_s", "_cut_s", "_ends_s", "_limits", "_pinged_at_s", "idle_since_s", "is_confirmed")

    def __init__(self, limits: ClientLimits, now_s: float, share: float) -> None:
        """`share`: of the age that the limits allow, so that clients that came together leave one by one."""
        self._limits, self._born_s = limits, now_s
        self.idle_since_s = now_s
        """When its last RPC ended."""
        self.is_confirmed = False
        """The client has acknowledged the settings."""
        self._ends_s = math.inf if limits.max_age_s is None else now_s + share * limits.max_age_s
        self._cut_s = math.inf
        self._pinged_at_s: float | None = None

    def note_answer(self) -> None:
        """To a ping."""
        self._pinged_at_s = None

    def wait_s(self, now_s: float, is_busy: bool) -> float:
        """When to look again: when the next limit may have been reached. The end of an RPC is not waited for: a
        connection may be closed up to an idle time too late."""
        idle_s, pause_s = self._limits.idle_s, MOST_WAIT_S
        if idle_s is not None:
            pause_s = min(pause_s, (now_s if is_busy else self.idle_since_s) + idle_s - now_s)
        return max(LEAST_WAIT_S, min(pause_s, self._ends_s - now_s, self._cut_s - now_s))

    def look(self, now_s: float, is_busy: bool, received_at_s: float) -> Iterator[Due]:
        """What is due. `is_busy`: RPCs run on it. `received_at_s`: when the last bytes came."""
        if not self.is_confirmed and now_s - self._born_s >= SETTINGS_S:
            yield Due.NO_SETTINGS
            return
        limits = self._limits
        if limits.idle_s is not None and not is_busy and now_s - self.idle_since_s >= limits.idle_s:
            yield Due.IDLE
        if now_s >= self._ends_s:
            self._ends_s = math.inf
            self._cut_s = math.inf if limits.max_age_grace_s is None else now_s + limits.max_age_grace_s
            yield Due.OLD
        if now_s >= self._cut_s:
            yield Due.TOO_OLD
            return
        if self._pinged_at_s is not None and received_at_s < self._pinged_at_s:
            if now_s - self._pinged_at_s >= CLIENT_ANSWERS_MS / 1000:
                yield Due.NO_ANSWER
        elif now_s - received_at_s >= ASK_CLIENTS_MS / 1000:
            self._pinged_at_s = now_s
            yield Due.PING
