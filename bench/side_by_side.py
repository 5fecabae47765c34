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
from bench.pods import Pod, check_answers, wait_for_answers
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
    p99_us: list[float] = field(default_factory=list)
    """Of the calls under load."""

    @property
    def name(self) -> str:
        return self.proxy.name


def cpu_ratio(row: Row, other: Row) -> float:
    return median(mine / its for mine, its in zip(row.cpu_us, other.cpu_us, strict=True))


def latency_ratio(row: Row, other: Row) -> float:
    return median(mine / its for mine, its in zip(row.latency_us, other.latency_us, strict=True))


def p99_ratio(row: Row, other: Row) -> float:
    return median(mine / its for mine, its in zip(row.p99_us, other.p99_us, strict=True))


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
    for row in rows:
        wait_for_answers(row.name, row.proxy.port, row.pods, row.proxy.authority, row.proxy.rpc.metadata)
    requests = [trial(row, effort.run_s) for row in rows]
    for number in range(effort.rounds):
        say(f"round {number + 1} of {effort.rounds}: {', '.join(row.name for row in rows)}")
        for row, count in zip(rows, requests, strict=True):
            if row.proxy.pids:
                measure_cpu(row, count)
        for row in rows:
            row.latency_us.append(load_proxy(row.proxy, LATENCY_REQUESTS, 1, 1).mean_latency_us)
    for row in rows:
        check_answers(row.name, row.proxy.port, row.pods, row.proxy.authority, row.proxy.rpc.metadata)


def load_proxy(proxy: Proxy, requests: int, clients: int = CLIENTS, streams: int = STREAMS) -> Load:
    return run_h2load(proxy.name, proxy.port, requests, clients, streams, bool(proxy.authority), proxy.rpc)


def trial(row: Row, run_s: float) -> int:
    """Warm up; returns how many requests fill `run_s`."""
    load = load_proxy(row.proxy, TRIAL_REQUESTS)
    return max(TRIAL_REQUESTS, round(load.rpcs_per_s * run_s))


def measure_cpu(row: Row, requests: int) -> None:
    proxy = row.proxy
    control = (proxy.control_pid,) if isinstance(proxy, Gateway) else ()
    before_s, control_before_s = cpu_s(proxy.pids), cpu_s(control)
    load = run_checked(proxy, requests)
    row.cpu_us.append(1e6 * (cpu_s(proxy.pids) - before_s) / requests)
    row.control_us.append(1e6 * (cpu_s(control) - control_before_s) / requests)
    row.rpcs_per_s.append(load.rpcs_per_s)
    row.p99_us.append(load.p99_latency_us)


def run_checked(proxy: Proxy, requests: int) -> Load:
    """Under load; a gateway must also have counted every one of these RPCs as OK."""
    if not isinstance(proxy, Gateway):
        return load_proxy(proxy, requests)
    before = proxy.ended_rpcs()
    load = load_proxy(proxy, requests)
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
    p99 = f"{median(row.p99_us) / 1000:.1f} ms" if row.p99_us else "-"
    return [row.name, *ratios, cpu, rate, p99, f"{median(row.latency_us):.0f} us"]


def header(yardsticks: Sequence[Row]) -> list[str]:
    times = [f"CPU, x {other.name}" for other in yardsticks]
    load = f"{CLIENTS} connections x {STREAMS} streams"
    return ["", *times, f"CPU per RPC (least to most), {load}", "RPC/s", "p99", "mean latency, 1 call at a time"]
