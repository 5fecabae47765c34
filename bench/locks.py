"""Measures the uncontended locks that each RPC takes, in nanoseconds."""

from __future__ import annotations

import threading
import timeit
from collections.abc import Callable
from dataclasses import dataclass

from grpcgw.model.endpoints import Endpoint, PodState
from grpcgw.telemetry.counters import MethodCounters
from grpcgw.upstream.pod import Pod

LOOPS, REPEATS = 100_000, 7


@dataclass(frozen=True, slots=True)
class Costs:
    lock_ns: float
    """Acquire and release of one lock."""
    method_counters_ns: float
    """`begin` and `end` of a method's counters, locks included."""
    pod_counters_ns: float
    """`begin` and `end` of a pod's counters, locks included."""


class _NoConnection:
    def state(self) -> PodState:
        return PodState.READY

    def close(self) -> None:
        """Nothing to close."""


def measure_locks() -> Costs:
    lock = threading.Lock()
    counters = MethodCounters("greet.bench", "greet.GrpcService", "Greet")
    pod = Pod("greet", Endpoint("127.0.0.1", 50051, "pod-000"), _NoConnection())

    def take() -> None:
        with lock:
            pass

    def count() -> None:
        counters.begin()
        counters.end(0, 0.0003)

    def count_pod() -> None:
        pod.begin()
        pod.end(0.0003, "")

    empty_ns = time_ns(lambda: None)
    return Costs(*(time_ns(work) - empty_ns for work in (take, count, count_pod)))


def time_ns(work: Callable[[], None]) -> float:
    """The minimum of several runs: disturbances only add time."""
    return 1e9 * min(timeit.repeat(work, number=LOOPS, repeat=REPEATS)) / LOOPS
