"""Circuit breakers: how many RPCs, waiting RPCs, retries and connections a Mapping may have at one time (bulkhead).

One `Breaker` per Mapping and priority class and worker; a Mapping without limits has none, and pays nothing. What
happens at a limit (RESOURCE_EXHAUSTED, naming it) is the session's business. Names and meanings are Envoy's.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum

from grpcgw.config.policies import CircuitBreaker, Priority
from grpcgw.config.snapshot import Destination


class Limit(StrEnum):
    CONNECTIONS = "max_connections"
    PENDING_REQUESTS = "max_pending_requests"
    REQUESTS = "max_requests"
    RETRIES = "max_retries"


@dataclass(frozen=True, slots=True)
class Overflow:
    """A limit that is reached; as text, what the client and the page are told."""

    limit: Limit
    value: int

    def __str__(self) -> str:
        return f"circuit breaker {self.limit} {self.value} reached"


class Breaker:
    """Counts of one class. Any thread may call any method; each is one short step under a lock."""

    __slots__ = ("_in_use", "_lock", "_values", "overflows")

    def __init__(self, limits: CircuitBreaker) -> None:
        self._lock = threading.Lock()
        self._in_use = dict.fromkeys(Limit, 0)
        self.overflows = dict.fromkeys(Limit, 0)
        """How often each limit turned something away."""
        self.change_limits(limits)

    def change_limits(self, limits: CircuitBreaker) -> None:
        """From now on; what is in use stays in use, even where it is more than the new limits allow."""
        self._values: dict[Limit, int | None] = {limit: getattr(limits, limit) for limit in Limit}

    def in_use(self, limit: Limit) -> int:
        return self._in_use[limit]

    def admit(self, waits: bool) -> Permit | Overflow:
        """Let an RPC in. `waits`: its pod is not connected yet, so it waits until `Permit.connected`.

        A Permit must be released exactly when its RPC is over. An RPC that is turned away needs nothing more.
        """
        wanted = (Limit.REQUESTS, Limit.PENDING_REQUESTS) if waits else (Limit.REQUESTS,)
        return self.take(wanted) or Permit(self, wanted)

    def open_connection(self, first: bool) -> Overflow | None:
        """Before a connection to a pod is opened; `close_connection` must follow, unless the answer is an Overflow.

        The `first` one to a pod is always allowed, as in Envoy: without any, RPCs would wait for nothing.
        """
        if not first:
            return self.take((Limit.CONNECTIONS,))
        with self._lock:
            self._in_use[Limit.CONNECTIONS] += 1
        return None

    def close_connection(self) -> None:
        self.give_back((Limit.CONNECTIONS,))

    def take(self, wanted: Collection[Limit]) -> Overflow | None:
        """One of each of `wanted`, or none of them and the first limit in the way."""
        with self._lock:
            for limit in wanted:
                value = self._values[limit]
                if value is not None and self._in_use[limit] >= value:
                    self.overflows[limit] += 1
                    return Overflow(limit, value)
            for limit in wanted:
                self._in_use[limit] += 1
        return None

    def give_back(self, held: Collection[Limit]) -> None:
        with self._lock:
            for limit in held:
                self._in_use[limit] -= 1


class Permit:
    """What one RPC holds of its breaker. Used by one thread at a time, as its session is."""

    __slots__ = ("_breaker", "_held")

    def __init__(self, breaker: Breaker, held: Collection[Limit]) -> None:
        self._breaker = breaker
        self._held = set(held)

    def connected(self) -> None:
        """The RPC is on its way: it waits for no connection any more. Any number of times."""
        self._give_back({Limit.PENDING_REQUESTS})

    def retry(self, waits: bool) -> Overflow | None:
        """Before a try after the first; it counts as a retry until the RPC is over. None: go on."""
        self.connected()
        wanted = {Limit.RETRIES, Limit.PENDING_REQUESTS} if waits else {Limit.RETRIES}
        wanted -= self._held
        overflow = self._breaker.take(sorted(wanted))
        if overflow is None:
            self._held |= wanted
        return overflow

    def release(self) -> None:
        """The RPC is over. Again does nothing."""
        self._give_back(set(self._held))

    def _give_back(self, limits: set[Limit]) -> None:
        given = limits & self._held
        if given:
            self._held -= given
            self._breaker.give_back(given)


class Breakers:
    """The breakers of what is served: they live on over reloads, with what is in use, as long as their Mapping does."""

    def __init__(self) -> None:
        self._breakers: dict[tuple[str, Priority], Breaker] = {}

    def replace(self, destinations: Iterable[Destination]) -> None:
        """Serve `destinations` from now on. Called by one thread at a time."""
        before = self._breakers
        self._breakers = {}
        for destination in destinations:
            limits = _choose_limits(destination)
            if limits is None:
                continue
            key = (destination.label, destination.priority)
            breaker = before.get(key)
            if breaker is None:
                breaker = Breaker(limits)
            else:
                breaker.change_limits(limits)
            self._breakers[key] = breaker

    def of(self, destination: Destination) -> Breaker | None:
        """None: the Mapping has no limits."""
        return self._breakers.get((destination.label, destination.priority))


def _choose_limits(destination: Destination) -> CircuitBreaker | None:
    """The limits of the Mapping's priority class; of several the first, as Envoy chooses."""
    for limits in destination.circuit_breakers:
        if limits.priority is destination.priority:
            limited = any(getattr(limits, limit) is not None for limit in Limit)
            return limits if limited else None
    return None
