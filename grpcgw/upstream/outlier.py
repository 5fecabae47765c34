"""Outlier detection: ejects pods of one cluster that fail too often, for a while.

After Envoy's outlier detection and gRFC A50. Decides only: the caller does not pick ejected pods. The time is an
argument and never goes back. Any thread may call any method.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from grpcgw.balancer.base import Backend
from grpcgw.logs import count
from grpcgw.model.balancing import OutlierDetection


@dataclass(slots=True)
class _Record:
    """Failures and ejections of one pod."""

    failures_in_a_row: int = 0
    successes: int = 0
    """Of the running interval, as `failures`."""
    failures: int = 0
    ejections: int = 0
    """Recent ejections; each makes the next one longer."""
    ejected_until_s: float | None = None
    reason: str = ""

    def volume(self) -> int:
        return self.successes + self.failures

    def success_rate(self) -> float:
        return self.successes / self.volume()


def _note_nothing() -> None: ...


class OutlierDetector:
    """Never ejects more pods than the settings allow (at least one, if they allow any), and never the last one.

    Envoy does eject the last one; but then there is no better pod for RPCs.
    """

    def __init__(self, settings: OutlierDetection, note_ejection: Callable[[], None] = _note_nothing) -> None:
        """`note_ejection`: called once for each ejection, by any thread."""
        self._settings, self._note_ejection = settings, note_ejection
        self._lock = threading.Lock()
        self._records: dict[Backend, _Record] = {}
        self._next_interval_s: float | None = None

    def set_pods(self, pods: Iterable[Backend]) -> bool:
        """Set the cluster's pods, usable or not. Pods that stay keep their record, also when their connection is
        replaced.

        Returns whether the set of ejected pods changed: fewer pods may allow fewer ejections.
        """
        with self._lock:
            known = {pod.endpoint: record for pod, record in self._records.items()}
            self._records = {pod: known.get(pod.endpoint) or _Record() for pod in pods}
            first_to_return = sorted(self._ejected(), key=lambda record: record.ejected_until_s or 0.0)
            excess = max(0, len(first_to_return) - self._most_ejected())
            for record in first_to_return[:excess]:
                _return(record)
            return excess > 0

    def record(self, pod: Backend, failed: bool, now_s: float) -> bool:
        """An RPC on `pod` ended. Returns whether the pod is ejected now and was not before."""
        record = self._records.get(pod)
        if record is None or record.ejected_until_s is not None:
            return False  # gone, or ejected already
        if (
            not failed
        ):  # without the lock: mostly one thread counts for a pod, and a lost count now and then changes no decision
            record.successes += 1
            record.failures_in_a_row = 0
            return False
        with self._lock:
            if record.ejected_until_s is not None:
                return False
            record.failures += 1
            record.failures_in_a_row += 1
            limit = self._settings.consecutive_failures
            if limit is None or record.failures_in_a_row < limit:
                return False
            record.failures_in_a_row = 0
            return self._eject(record, now_s, f"{count(limit, 'failure')} in a row")

    def sweep(self, now_s: float) -> bool:
        """To be called often. Ends ejections in time, and compares success rates once per interval.

        Returns whether the set of ejected pods changed.
        """
        with self._lock:
            if self._next_interval_s is None:
                self._next_interval_s = now_s + self._settings.interval_ms / 1000
            ejected_any = now_s >= self._next_interval_s and self._end_interval(now_s)
            over = [record for record in self._ejected() if now_s >= (record.ejected_until_s or 0.0)]
            for record in over:
                _return(record)
            return bool(over) or ejected_any

    def is_ejected(self, pod: Backend) -> bool:
        record = self._records.get(pod)
        return record is not None and record.ejected_until_s is not None

    def explain(self, pod: Backend, now_s: float) -> str:
        """Why `pod` is ejected and for how long, for the operator; empty: it is not ejected."""
        with self._lock:
            record = self._records.get(pod)
            if record is None or record.ejected_until_s is None:
                return ""
            left_s = max(0, math.ceil(record.ejected_until_s - now_s))
            again = f", ejection {record.ejections} in short order" if record.ejections > 1 else ""
            return f"ejected for {left_s} s more: {record.reason}{again}"

    # --- under the lock

    def _end_interval(self, now_s: float) -> bool:
        self._next_interval_s = now_s + self._settings.interval_ms / 1000
        for record in self._records.values():
            if record.ejected_until_s is None and record.ejections:
                record.ejections -= 1  # an interval without ejection makes the next one shorter
        ejected = self._compare_success_rates(now_s)
        for record in self._records.values():
            record.successes = record.failures = 0
        return ejected

    def _compare_success_rates(self, now_s: float) -> bool:
        """Eject the pods whose success rate lies far below the others' (A50, success rate algorithm)."""
        settings = self._settings
        if settings.success_rate_stdev_factor is None:
            return False
        busy = [
            record
            for record in self._records.values()
            if record.ejected_until_s is None and record.volume() >= max(1, settings.success_rate_request_volume)
        ]
        if not busy or len(busy) < settings.success_rate_minimum_pods:
            return False
        rates = [record.success_rate() for record in busy]
        mean = math.fsum(rates) / len(rates)
        deviation = math.sqrt(math.fsum((rate - mean) ** 2 for rate in rates) / len(rates))
        threshold = mean - deviation * settings.success_rate_stdev_factor / 1000
        ejected = False
        for record, rate in zip(busy, rates, strict=True):
            if rate < threshold:
                reason = f"success rate {rate:.1%}, below {threshold:.1%} (the mean of {len(busy)} pods is {mean:.1%})"
                ejected |= self._eject(record, now_s, reason)
        return ejected

    def _eject(self, record: _Record, now_s: float, reason: str) -> bool:
        if len(self._ejected()) >= self._most_ejected():
            return False
        settings = self._settings
        record.ejections += 1
        longest_ms = max(settings.base_ejection_ms, settings.max_ejection_ms)
        record.ejected_until_s = now_s + min(settings.base_ejection_ms * record.ejections, longest_ms) / 1000
        record.reason = reason
        self._note_ejection()
        return True

    def _ejected(self) -> list[_Record]:
        return [record for record in self._records.values() if record.ejected_until_s is not None]

    def _most_ejected(self) -> int:
        pods, percent = len(self._records), self._settings.max_ejection_percent
        return min(max(1, pods * percent // 100), pods - 1) if percent and pods else 0


def _return(record: _Record) -> None:
    record.ejected_until_s = None
    record.failures_in_a_row = 0
    record.reason = ""
