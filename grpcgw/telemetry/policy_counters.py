"""Counters of policies: verdicts, errors and waits by Mapping and policy, the hits of their caches, and slow checks.

Both labels come from the configuration, so clients cannot add any. A snapshot finds its counters once, an RPC writes
them. They survive reloads, and a policy that is gone and comes back goes on with its own.
"""

from __future__ import annotations

import threading
from bisect import bisect_left

from grpcgw.kept import Kept
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, CacheReport, PolicyReport

MOST_GONE = 1000
"""Of so many policies and caches that are gone the counters are remembered, in case they come back."""


class PolicyCounters:
    """RPCs that a policy of one Mapping decided on."""

    __slots__ = (
        "__weakref__",
        "_lock",
        "allowed",
        "denied",
        "errors",
        "mapping",
        "policy",
        "wait_counts",
        "wait_sum_s",
    )

    def __init__(self, mapping: str = "", policy: str = "") -> None:
        self.mapping, self.policy = mapping, policy
        self.denied = self.allowed = 0
        """RPCs add to `allowed` without the lock: with the GIL no thread is switched within `counters.allowed += 1`."""
        self.errors: dict[str, int] = {}
        """Kind of error → RPCs: each of them was allowed or denied as well."""
        self.wait_counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.wait_sum_s = 0.0
        self._lock = threading.Lock()

    def deny(self, error: str = "") -> None:
        """`error`: kind of the error that denied; empty: a verdict did."""
        with self._lock:
            self.denied += 1
            if error:
                self.errors[error] = self.errors.get(error, 0) + 1

    def count_error(self, kind: str) -> None:
        with self._lock:
            self.errors[kind] = self.errors.get(kind, 0) + 1

    def wait(self, duration_s: float) -> None:
        """The policy has waited so long for its server or its coroutine."""
        with self._lock:
            self.wait_counts[bisect_left(LATENCY_BUCKETS_S, duration_s)] += 1
            self.wait_sum_s += duration_s

    def report(self) -> PolicyReport:
        with self._lock:
            return PolicyReport(
                self.mapping,
                self.policy,
                self.allowed,
                self.denied,
                dict(self.errors),
                tuple(self.wait_counts),
                self.wait_sum_s,
            )


class CacheCounters:
    """Look-ups in a cache; its own lock protects them."""

    __slots__ = ("__weakref__", "hits", "misses", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.hits = self.misses = 0


class SlowChecks:
    """Synchronous checks of an own policy that took too long; the event loop alone counts them."""

    __slots__ = ("__weakref__", "count", "name")

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.count = 0


class PolicyCounterStore:
    """The counters of a worker's policies, by key."""

    def __init__(self) -> None:
        self._policies: Kept[tuple[str, str], PolicyCounters] = Kept(MOST_GONE)
        self._caches: Kept[str, CacheCounters] = Kept(MOST_GONE)
        self._slow_checks: Kept[str, SlowChecks] = Kept(MOST_GONE)

    def of_policy(self, mapping: str, policy: str) -> PolicyCounters:
        counters = self._policies.get_or_make((mapping, policy), lambda: PolicyCounters(mapping, policy))
        self._policies.remember((mapping, policy))
        return counters

    def of_cache(self, name: str) -> CacheCounters:
        counters = self._caches.get_or_make(name, lambda: CacheCounters(name))
        self._caches.remember(name)
        return counters

    def of_slow_checks(self, policy: str) -> SlowChecks:
        counted = self._slow_checks.get_or_make(policy, lambda: SlowChecks(policy))
        self._slow_checks.remember(policy)
        return counted

    def slow_check_reports(self) -> dict[str, int]:
        return {one.name: one.count for one in self._slow_checks.values()}

    def policy_reports(self) -> tuple[PolicyReport, ...]:
        """Of all that have counted something, or are in use."""
        return tuple([counters.report() for counters in self._policies.values()])

    def cache_reports(self) -> tuple[CacheReport, ...]:
        return tuple([CacheReport(one.name, one.hits, one.misses) for one in self._caches.values()])
