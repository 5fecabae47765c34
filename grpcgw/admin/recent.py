"""RPCs of the last minute by Mapping, from the growth of counters; an outage shows at once.

The gateway passes in the workers' reports whenever it takes its state; probes and pages cause that every few seconds.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.model.codes import POD_FAILURES
from grpcgw.telemetry.report import WorkerReport

WINDOW_S = 60.0
SPACING_S = 5.0
"""Between samples that are kept."""


@dataclass(frozen=True, slots=True)
class Recent:
    """RPCs through one Mapping."""

    finished: int
    failed: int


Totals = Mapping[str, Recent]
"""By Mapping."""


class RecentTraffic:
    def __init__(self) -> None:
        self._samples: deque[tuple[float, Totals]] = deque()

    def note(self, workers: Iterable[WorkerReport], now_s: float) -> Totals:
        """Add the counters at `now_s`; returns their growth within WINDOW_S, or since the first sample."""
        totals = add_up(workers)
        while len(self._samples) > 1 and self._samples[0][0] < now_s - WINDOW_S:
            self._samples.popleft()
        if not self._samples or now_s - self._samples[-1][0] >= SPACING_S:
            self._samples.append((now_s, totals))
        _, before = self._samples[0]
        return {mapping: _subtract(total, before.get(mapping)) for mapping, total in totals.items()}


def add_up(workers: Iterable[WorkerReport]) -> Totals:
    finished: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for method in (method for worker in workers for method in worker.methods):
        finished[method.mapping] += sum(method.codes.values())
        failed[method.mapping] += sum(count for code, count in method.codes.items() if code in POD_FAILURES)
    return {mapping: Recent(count, failed[mapping]) for mapping, count in finished.items()}


def _subtract(total: Recent, before: Recent | None) -> Recent:
    if before is None:
        return total
    return Recent(total.finished - before.finished, total.failed - before.failed)
