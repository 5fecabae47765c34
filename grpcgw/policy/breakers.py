"""Circuit breakers: how many RPCs, waiting RPCs and retries a Mapping may have at one time (bulkhead).

One `Breaker` per Mapping and priority class and worker; a Mapping without limits has none, and pays nothing. What
happens at a limit (RESOURCE_EXHAUSTED, naming it) is decided by the session. Names and meanings are Envoy's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.route import Destination


class Limit(StrEnum):
    """What is counted. Not `max_connections`: a worker has one connection to a pod, and the first is always allowed."""

    PENDING_REQUESTS = "max_pending_requests"
    REQUESTS = "max_requests"
    RETRIES = "max_retries"


_REQUEST = (Limit.REQUESTS,)
_WAITING_REQUEST = (Limit.REQUESTS, Limit.PENDING_REQUESTS)
_RETRIED_REQUEST = (Limit.REQUESTS, Limit.RETRIES)
_PENDING = (Limit.PENDING_REQUESTS,)
_LIMITS = tuple(Limit)  # walking the enum itself costs several times as much


@dataclass(frozen=True, slots=True)
class Overflow:
    """A limit that is reached; as text, the message for the client."""

    limit: Limit
    value: int

    def __str__(self) -> str:
        return f"circuit breaker {self.limit} {self.value} reached"


class Breaker:
    """Counts of one class. Any thread may call any method; each is one short step under a lock."""

    __slots__ = ("__weakref__", "_in_use", "_limits", "_lock", "_values")

    def __init__(self, limits: CircuitBreaker) -> None:
        self._lock = threading.Lock()
        self._in_use = dict.fromkeys(_LIMITS, 0)
        self._limits: CircuitBreaker | None = None
        self.change_limits(limits)

    def change_limits(self, limits: CircuitBreaker) -> None:
        """Apply new limits from now on; RPCs in flight stay admitted, even above the new limits."""
        if limits is self._limits:  # as of every new one, whose limits the binder sets once more
            return
        self._limits = limits
        values: dict[Limit, int | None] = {limit: getattr(limits, limit) for limit in _LIMITS}
        self._values = {limit: sys.maxsize if value is None else value for limit, value in values.items()}

    def in_use(self, limit: Limit) -> int:
        return self._in_use[limit]

    def admit(self, waits: bool) -> Permit | Overflow:
        """Admit an RPC. `waits`: its pod is not connected yet, so it waits until `Permit.connected`.

        A Permit must be released exactly when its RPC is over. A refused RPC needs no further call.
        """
        return self.take(_WAITING_REQUEST if waits else _REQUEST) or Permit(self, waits)

    def take(self, limits: Iterable[Limit]) -> Overflow | None:
        """Take one of each of `limits`, or none: returns the first that is reached."""
        in_use = self._in_use
        with self._lock:
            for limit in limits:
                if in_use[limit] >= self._values[limit]:
                    return Overflow(limit, self._values[limit])
            for limit in limits:
                in_use[limit] += 1
        return None

    def give_back(self, held: Iterable[Limit]) -> None:
        with self._lock:
            for limit in held:
                self._in_use[limit] -= 1


class Permit:
    """The part of its breaker that one RPC holds. Used by one thread at a time, like its session."""

    __slots__ = ("_breaker", "_held", "waits")

    def __init__(self, breaker: Breaker, waits: bool) -> None:
        self._breaker = breaker
        self._held: tuple[Limit, ...] = _REQUEST
        self.waits = waits
        """Whether it also counts as waiting for a connection."""

    def connected(self) -> None:
        """The RPC was sent and no longer waits for a connection. May be called any number of times."""
        if self.waits:
            self.waits = False
            self._breaker.give_back(_PENDING)

    def retry(self, waits: bool) -> Overflow | None:
        """Called before a retry; it counts until the RPC is over. None: the retry is allowed."""
        self.connected()
        wanted = [] if self._held is _RETRIED_REQUEST else [Limit.RETRIES]
        if waits:
            wanted.append(Limit.PENDING_REQUESTS)
        overflow = self._breaker.take(wanted)
        if overflow is None:
            self._held, self.waits = _RETRIED_REQUEST, waits
        return overflow

    def release(self) -> None:
        """The RPC is over. Again does nothing."""
        held, self._held = self._held, ()
        if held:
            self.connected()
            self._breaker.give_back(held)


def choose_limits(destination: Destination) -> CircuitBreaker | None:
    """The limits of the Mapping's priority class, of several the first, as Envoy chooses; None: it has no limits."""
    for limits in destination.circuit_breakers:
        if limits.priority is destination.priority:
            limited = any(getattr(limits, limit) is not None for limit in _LIMITS)
            return limits if limited else None
    return None
