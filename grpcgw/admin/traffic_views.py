"""RPC counters added up over all workers, per method and per Mapping."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport, WorkerReport


@dataclass(frozen=True, slots=True)
class MethodView:
    """RPCs of one method (or of a whole Mapping, then without names) over all workers."""

    service: str
    method: str
    codes: Mapping[int, int]
    latency_counts: tuple[int, ...]
    latency_sum_s: float
    in_flight: int

    @property
    def finished(self) -> int:
        return sum(self.codes.values())

    @property
    def not_ok(self) -> int:
        return self.finished - self.codes.get(0, 0)

    @property
    def latency_mean_ms(self) -> float:
        return 1000 * self.latency_sum_s / self.finished if self.finished else 0.0

    def latency_below_ms(self, share: float) -> float | None:
        """Upper bound of the bucket that holds the quantile `share`; None: unknown, or above the last bound."""
        wanted = share * sum(self.latency_counts)
        seen = 0
        for count, border_s in zip(self.latency_counts, LATENCY_BUCKETS_S, strict=False):
            seen += count
            if seen and seen >= wanted:
                return 1000 * border_s
        return None


def merge_methods(workers: Iterable[WorkerReport]) -> dict[tuple[str, str, str], MethodView]:
    reports: dict[tuple[str, str, str], list[MethodReport]] = defaultdict(list)
    for worker in workers:
        for report in worker.methods:
            reports[report.mapping, report.service, report.method].append(report)
    return {key: add_up_methods(group, key[1], key[2]) for key, group in reports.items()}


def add_up_methods(parts: Iterable[MethodReport | MethodView], service: str = "", method: str = "") -> MethodView:
    codes: Counter[int] = Counter()
    latency_counts = [0] * (len(LATENCY_BUCKETS_S) + 1)
    latency_sum_s = 0.0
    in_flight = 0
    for part in parts:
        codes.update(part.codes)
        latency_counts = [sum(pair) for pair in zip(latency_counts, part.latency_counts, strict=True)]
        latency_sum_s += part.latency_sum_s
        in_flight += part.in_flight
    return MethodView(service, method, codes, tuple(latency_counts), latency_sum_s, in_flight)
