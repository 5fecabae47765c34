"""Counters of one worker's RPCs, by Mapping and method. Written by every RPC, read for reports.

A method's counters are found once per RPC; methods are bounded in number, since paths below a matched prefix are the
client's choice: past the bound they count as method `other`.
"""

from __future__ import annotations

import threading
from bisect import bisect_left

from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport

MAX_METHODS = 1000
OTHER = "other"


class MethodCounters:
    """RPCs of one method through one Mapping, and what was learned of its shape (see proxy.session)."""

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
        "service",
    )

    def __init__(self, mapping: str, service: str, method: str) -> None:
        self.mapping, self.service, self.method = mapping, service, method
        self.codes: dict[int, int] = {}
        self.latency_counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
        self.latency_sum_s = 0.0
        self.in_flight = 0
        self.one_request = self.one_reply = True
        self._lock = threading.Lock()

    def begin(self) -> None:
        with self._lock:
            self.in_flight += 1

    def end(self, code: int, duration_s: float) -> None:
        with self._lock:
            self.in_flight -= 1
            self.codes[code] = self.codes.get(code, 0) + 1
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
            )


class Counters:
    def __init__(self) -> None:
        self._methods: dict[tuple[str, str], MethodCounters] = {}
        self._lock = threading.Lock()
        self.retries = 0
        self.unmatched = self._add("", "", OTHER, OTHER)

    def of(self, mapping: str, path: str) -> MethodCounters:
        """Counters of `/package.Service/Method` through `mapping`."""
        found = self._methods.get((mapping, path))
        return found if found is not None else self._find_or_add(mapping, path)

    def count_retry(self) -> None:
        with self._lock:
            self.retries += 1

    def count_in_flight(self, mapping: str) -> int:
        """RPCs through `mapping` that are running. Walks the methods: for RPCs that failed, not for each."""
        with self._lock:
            return sum(method.in_flight for (of, _), method in self._methods.items() if of == mapping)

    def reports(self) -> tuple[MethodReport, ...]:
        with self._lock:
            methods = tuple(self._methods.values())
        return tuple(report for report in (method.report() for method in methods) if report.codes or report.in_flight)

    def _find_or_add(self, mapping: str, path: str) -> MethodCounters:
        service, _, method = path.removeprefix("/").rpartition("/")
        if len(self._methods) >= MAX_METHODS or not service or not method:
            service, method, path = OTHER, OTHER, ""
        with self._lock:
            return self._methods.get((mapping, path)) or self._add(mapping, path, service, method)

    def _add(self, mapping: str, path: str, service: str, method: str) -> MethodCounters:
        counters = self._methods[mapping, path] = MethodCounters(mapping, service, method)
        return counters
