"""What policies get beside their settings: state that survives reloads, and what all policies of a worker share. Pure.

One `PolicyServices` per worker. A policy is built again with each snapshot that changes its route; what it has to
remember beyond that (counters, caches of tokens or answers) it gets from `keep`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TypeVar

from grpcgw.kept import Kept
from grpcgw.policy.limits.bucket_table import TABLE_BYTES, BucketTable, NoLock
from grpcgw.policy.limits.in_flight_table import InFlightTable
from grpcgw.policy.limits.limiter import Limiter
from grpcgw.policy.tokens.key_requests import KeyRequests
from grpcgw.telemetry.policy_counters import PolicyCounterStore

T = TypeVar("T")


class PolicyServices:
    def __init__(self) -> None:
        self._kept: Kept[tuple[type, Hashable], object] = Kept()
        self.counters = PolicyCounterStore()
        """Of policies and their caches, for metrics."""
        self.key_requests = KeyRequests()
        """For keys that tokens need and that are not there."""
        self.in_flight: InFlightTable | None = None
        """RPCs that run in all workers; set as `limiter`. None: each worker counts its own."""

    @cached_property
    def limiter(self) -> Limiter:
        """Of this worker alone; set before the first snapshot where several workers count together."""
        return Limiter(BucketTable(memoryview(bytearray(TABLE_BYTES)), NoLock()))

    def keep(self, kind: type[T], key: Hashable, make: Callable[[], T]) -> T:
        """The value of class `kind` and of `key`: the one that a policy holds already, else what `make` returns.

        It lives as long as a policy holds it (`kept.Kept`): a reload passes it on, also where the settings changed.
        """
        value = self._kept.get_or_make((kind, key), make)
        assert isinstance(value, kind)
        return value
