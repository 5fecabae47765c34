"""Compares proxies: processor time per unary RPC, and latency of one call at a time.

All run at once and take turns, round after round, so that what else the machine does hits all of them alike; ratios are
taken within a round. Answers are checked before the first and after the last timed run, and every timed reply counted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.children import cpu_s
from bench.h2load import Load, run_h2load
from bench.pods import Pod, check_answers
from bench.progress import say
from bench.proxies import Gateway, Proxy, Start
from grpcgw.errors import UserError

CLIENTS, STREAMS = 8, 8
"""Connections of the load, and RPCs at a time on each."""
TRIAL_REQUESTS = 2000
LATENCY_REQUESTS = 1500


@dataclass(frozen=True, slots=True)
class Effort:
    rounds: int
    run_s: float
    """Duration of one timed run under load."""


@dataclass(slots=True)
class Row:
    """Measurements of one proxy, a value per round."""

    proxy: Proxy
    pods: Sequence[Pod]
    cpu_us: list[float] = field(default_factory=list)
    control_us: list[float] = field(default_factory=list)
    rpcs_per_s: list[float] = field(default_factory=list)
    latency_us: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.proxy.name


def cpu_ratio(row: Row, other: Row) -> float:
    return median(mine / its for mine, its in zip(row.cpu_us, other.cpu_us, strict=True))


def latency_ratio(row: Row, other: Row) -> float:
    return median(mine / its for mine, its in zip(row.latency_us, other.latency_us, strict=True))


def straight_to(pod: Pod) -> Row:
    """The floor of the latency column: no proxy at all."""
    return Row(Proxy("no proxy, straight to a pod", pod.port, ()), (pod,))


@contextmanager
def running_rows(contenders: Sequence[tuple[Start, Sequence[Pod]]]) -> Iterator[list[Row]]:
    with ExitStack() as stack:
        rows = []
        for start, pods in contenders:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpcgw-bench-")))
            rows.append(Row(stack.enter_context(start(pods, folder)), pods))
        yield rows


def measure(rows: Sequence[Row], effort: Effort) -> None:
    """Fill the rows. Raises UserError if an answer is wrong."""
    check_all(rows)
    requests = [trial(row, effort.run_s) for row in rows]
    for number in range(effort.rounds):
        say(f"round {number + 1} of {effort.rounds}: {', '.join(row.name for row in rows)}")
        for row, count in zip(rows, requests, strict=True):
            if row.proxy.pids:
                measure_cpu(row, count)
        for row in rows:
            row.latency_us.append(run_h2load(row.name, row.proxy.port, LATENCY_REQUESTS, 1, 1).mean_latency_us)
    check_all(rows)


def check_all(rows: Sequence[Row]) -> None:
    for row in rows:
        check_answers(row.name, row.proxy.port, row.pods)


def trial(row: Row, run_s: float) -> int:
    """Warm up; returns how many requests fill `run_s`."""
    load = run_h2load(row.name, row.proxy.port, TRIAL_REQUESTS, CLIENTS, STREAMS)
    return max(TRIAL_REQUESTS, round(load.rpcs_per_s * run_s))


def measure_cpu(row: Row, requests: int) -> None:
    proxy = row.proxy
    control = (proxy.control_pid,) if isinstance(proxy, Gateway) else ()
    before_s, control_before_s = cpu_s(proxy.pids), cpu_s(control)
    load = run_checked(proxy, requests)
    row.cpu_us.append(1e6 * (cpu_s(proxy.pids) - before_s) / requests)
    row.control_us.append(1e6 * (cpu_s(control) - control_before_s) / requests)
    row.rpcs_per_s.append(load.rpcs_per_s)


def run_checked(proxy: Proxy, requests: int) -> Load:
    """Under load; a gateway must also have counted every one of these RPCs as OK."""
    if not isinstance(proxy, Gateway):
        return run_h2load(proxy.name, proxy.port, requests, CLIENTS, STREAMS)
    before = proxy.ended_rpcs()
    load = run_h2load(proxy.name, proxy.port, requests, CLIENTS, STREAMS)
    after = proxy.ended_rpcs()
    ended = {status: after[status] - before.get(status, 0) for status in after}
    if {status: count for status, count in ended.items() if count} != {"OK": requests}:
        raise UserError(f"{proxy.name} ended {requests} RPCs as {ended}")
    return load


def describe(row: Row, yardsticks: Sequence[Row]) -> list[str]:
    """A line of the table: ratios to the yardsticks first, then the absolute values."""
    ratios = [f"{cpu_ratio(row, other):.2f}" if row.cpu_us else "-" for other in yardsticks]
    cpu = f"{median(row.cpu_us):.0f} us ({min(row.cpu_us):.0f} to {max(row.cpu_us):.0f})" if row.cpu_us else "-"
    rate = f"{median(row.rpcs_per_s):,.0f}" if row.rpcs_per_s else "-"
    latency = f"{median(row.latency_us):.0f} us"
    return [row.name, *ratios, cpu, rate, latency]


def header(yardsticks: Sequence[Row]) -> list[str]:
    times = [f"CPU, x {other.name}" for other in yardsticks]
    load = f"{CLIENTS} connections x {STREAMS} streams"
    return ["", *times, f"CPU per RPC (least to most), {load}", "RPC/s", "mean latency, 1 call at a time"]
