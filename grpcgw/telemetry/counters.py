"""Counters of one worker's RPCs, by Mapping and method. Every RPC writes them, reports read them.

Clients choose the paths below a matched prefix. So a method gets its own counters and name only after a pod has
answered it with something other than UNIMPLEMENTED. Before that, and if the Mapping has too many methods or the name is
too long, its RPCs count under the Mapping's method `other`. They stay there: counters never fall.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from typing import Final

from grpcgw.model.codes import countable
from grpcgw.telemetry.client_counters import ClientCounters
from grpcgw.telemetry.handshake_failures import HandshakeFailures
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, EventReport, MethodReport

MAX_METHODS = 500
"""Most named methods of one Mapping."""
MAX_REASONS = 100
"""Most pairs of code and reason counted apart for one method: a policy chooses its reasons itself."""
MAX_PATH_CHARACTERS = 256
"""Longest path that gets a name."""
OTHER = "other"
CLIENT_CANCELLED: Final = "client-cancelled"
"""Reason of a status that nobody received, because the client left first."""
LOCAL: Final = "local"
"""Reason of the statuses of the gateway's own services."""


class MethodCounters:
    """RPCs of one method through one Mapping, and whether they look unary (see session.session)."""

    __slots__ = (
        "_lock",
        "codes",
        "in_flight",
        "latency_counts",
        "latency_sum_s",
        "mapping",
        "method",
        "one_reply",
        "one_request",
        "reasons",
        "request_bytes",
        "response_bytes",
        "service",
        "unnamed",
    )

    def __init__(self, mapping: str, service: str, method: str, unnamed: bool = False) -> None:
        """`unnamed`: counts methods that have no name yet."""
        self.mapping, self.service, self.method, self.unnamed = mapping, service, method, unnamed
        self.codes: dict[int, int] = {}
        self.reasons: dict[tuple[int, str], int] = {}
        self.latency_counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.latency_sum_s = 0.0
        self.request_bytes = self.response_bytes = 0
        self.in_flight = 0
        self.one_request = self.one_reply = True
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self.in_flight += 1

    def move(self, to: MethodCounters) -> None:
        """Move a running RPC to the counters `to`."""
        with self._lock:
            self.in_flight -= 1
        to.begin()

    def add_bytes(self, request_bytes: int, response_bytes: int) -> None:
        """Bytes of messages of an RPC that still runs."""
        with self._lock:
            self.request_bytes += request_bytes
            self.response_bytes += response_bytes

    def end(
        self, code: int, duration_s: float, reason: str = "", request_bytes: int = 0, response_bytes: int = 0
    ) -> None:
        """`reason`: why the gateway made the status; empty: the pod made it. Bytes: those not added by `add_bytes`."""
        code = countable(code)
        with self._lock:
            self.in_flight -= 1
            self.request_bytes += request_bytes
            self.response_bytes += response_bytes
            self.codes[code] = self.codes.get(code, 0) + 1
            if reason:
                if (code, reason) not in self.reasons and len(self.reasons) >= MAX_REASONS:
                    reason = OTHER
                self.reasons[code, reason] = self.reasons.get((code, reason), 0) + 1
            self.latency_counts[bisect_left(LATENCY_BUCKETS_S, duration_s)] += 1
            self.latency_sum_s += duration_s

    def report(self) -> MethodReport:
        with self._lock:
            return MethodReport(
                self.mapping,
                self.service,
                self.method,
                dict(self.codes),
                tuple(self.latency_counts),
                self.latency_sum_s,
                self.in_flight,
                dict(self.reasons),
                self.request_bytes,
                self.response_bytes,
            )


class _MappingCounters:
    """A Mapping's named methods by path, and the counters of all others."""

    __slots__ = ("methods", "other")

    def __init__(self, mapping: str) -> None:
        self.methods: dict[str, MethodCounters] = {}
        self.other = MethodCounters(mapping, OTHER, OTHER, unnamed=True)


class Counters:
    def __init__(self) -> None:
        self._mappings: dict[str, _MappingCounters] = {}
        self._lock = threading.Lock()
        self._retries: Counter[str] = Counter()
        self._breaker_trips: Counter[tuple[str, str]] = Counter()
        self._ejections: Counter[str] = Counter()
        self.handshake_failures = HandshakeFailures()
        """Of clients, where the engine does the handshakes itself."""
        self.clients: ClientCounters | None = None
        """None: the engine does not see the connections of clients."""
        self.unmatched = self.of("", "")

    @property
    def retries(self) -> int:
        return self._retries.total()

    def of(self, mapping: str, path: str) -> MethodCounters:
        """The counters for an RPC of `/package.Service/Method` through `mapping`."""
        counted = self._mappings.get(mapping)
        if counted is None:
            with self._lock:
                counted = self._mappings.setdefault(mapping, _MappingCounters(mapping))
        return counted.methods.get(path) or counted.other

    def name(self, counters: MethodCounters, path: str) -> MethodCounters:
        """Give the method `path` its own counters after a pod has answered it. `counters`: the result of `of`.

        Returns `counters` if the Mapping has too many methods or `path` cannot get a name.
        """
        service, _, method = path.removeprefix("/").rpartition("/")
        if not service or not method or len(path) > MAX_PATH_CHARACTERS:
            return counters
        methods = self._mappings[counters.mapping].methods
        with self._lock:
            found = methods.get(path)
            if found is None and len(methods) < MAX_METHODS:
                found = methods[path] = MethodCounters(counters.mapping, service, method)
                found.one_request, found.one_reply = counters.one_request, counters.one_reply
        return found or counters

    def count_retry(self, mapping: str) -> None:
        with self._lock:
            self._retries[mapping] += 1

    def count_breaker(self, mapping: str, limit: str) -> None:
        """A circuit breaker of `mapping` has refused an RPC or a retry at `limit`."""
        with self._lock:
            self._breaker_trips[mapping, limit] += 1

    def count_ejection(self, cluster: str) -> None:
        with self._lock:
            self._ejections[cluster] += 1

    def events(self) -> EventReport:
        with self._lock:
            return EventReport(dict(self._retries), dict(self._breaker_trips), dict(self._ejections))

    def count_in_flight(self, mapping: str) -> int:
        """Running RPCs through `mapping`. Walks all methods: call it for RPCs that fail, not for each."""
        with self._lock:
            counted = self._mappings.get(mapping)
            return 0 if counted is None else sum(method.in_flight for method in _list_methods(counted))

    def reports(self) -> tuple[MethodReport, ...]:
        with self._lock:
            methods = [method for counted in self._mappings.values() for method in _list_methods(counted)]
        return tuple(report for report in (method.report() for method in methods) if report.codes or report.in_flight)


def _list_methods(counted: _MappingCounters) -> tuple[MethodCounters, ...]:
    return (counted.other, *counted.methods.values())
