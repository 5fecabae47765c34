"""The contract of balancing policies, after gRPC's balancer/picker split (grpc-go `balancer`).

A `Balancer` lives as long as its cluster and owns counters; a `Picker` is its immutable view of one set of pods,
replaced as a whole whenever that set or its weights change. Policies never see connections, clocks or threads: pickers
share only a source of turns, a random source or a dict, whose steps are atomic.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from grpcgw.model.endpoints import Endpoint

TakeTurn = Callable[[], int]
"""The next turn. Each number is given once, across threads and, where workers share the turns, processes. Use it modulo
a small number: other users of the same turns may take numbers in between."""


def turns_from(first: int = 0) -> TakeTurn:
    """Turns of this process alone."""
    # Atomic in CPython: two threads never get the same turn, without a lock.
    return itertools.count(first).__next__


class Backend(Protocol):
    """A pod as balancing policies see it. Compared by identity: a pod with a new connection is another backend."""

    @property
    def endpoint(self) -> Endpoint: ...
    @property
    def in_flight(self) -> int:
        """RPCs running on the pod now, over all Mappings of this worker."""
        ...


class Outcome(NamedTuple):
    """How one pick ended: gRPC status code, and whether it counts against the pod."""

    code: int
    failed: bool
    duration_s: float
    trailers: tuple[tuple[str, str | bytes], ...] = ()
    """As the pod sent them; policies that balance by load read the load report in them."""


class Picker(Protocol):
    def pick(self, avoid: Backend | None = None, key: int | None = None) -> Backend | None:
        """The pod for one RPC, or None when there is none (the RPC then fails at once).

        `avoid` is a pod that just failed this RPC: it is picked only if there is no other. Hashing policies choose by
        `key` (`hashing.make_key`); an RPC without a key goes to any pod. Called from any thread, for every RPC: never
        blocks, never raises.
        """
        ...


class Balancer(Protocol):
    def update(self, pods: Sequence[Backend]) -> Picker:
        """A picker over `pods` (the usable ones, in endpoint order). Called by one thread at a time."""
        ...

    def refresh(self, now_s: float) -> Picker | None:
        """A new picker if time or load reports changed the weights of the pods, else None.

        Call it several times a second, never at the same time as `update`. `now_s` never decreases.
        """
        ...

    def done(self, pod: Backend, outcome: Outcome) -> None:
        """A pick ended; called exactly once per pick, from any thread, in any order."""
        ...
