"""The parts of the benchmark: what each measures, its duration, and the targets of its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench.changes import measure_file_changes, measure_pod_changes
from bench.locks import measure_locks
from bench.mappings import measure_compilation, measure_match
from bench.pods import describe_full_mapping, running_pods
from bench.proxies import grpcgw, installed
from bench.report import Figure, at_most, fewer_than, for_information, none_of, percentile, render_table
from bench.restart import LOAD_BALANCERS, measure_rolling_restart
from bench.side_by_side import (
    Effort,
    Row,
    cpu_ratio,
    describe,
    header,
    latency_ratio,
    measure,
    running_rows,
    straight_to,
)
from bench.streams import measure_open_streams

OPEN_STREAMS = 5000
MANY_PODS = 64
POD_COUNTS = (2, 16, 64, 256)
PROCESSES = 3
FEW_MAPPINGS, MANY_MAPPINGS = 10, 10_000


@dataclass(frozen=True, slots=True)
class Findings:
    figures: tuple[Figure, ...]
    tables: tuple[str, ...] = ()


Part = Callable[[bool], Findings]
"""Measures; True: with fewer rounds."""


def compare_proxies(quick: bool) -> Findings:
    """grpcgw compared with other proxies, two pods"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        starts = installed()
        running = stack.enter_context(running_rows([(start, pods) for start in starts.values()]))
        rows = dict(zip(starts, running, strict=True))
        floor = straight_to(pods[0])
        measure([floor, *running], Effort(2, 0.5) if quick else Effort(6, 1.2))
    gateway, aio, envoy, emissary = (rows[n] for n in ("grpcgw", "bare grpc.aio", "Envoy", "Envoy as Emissary"))
    figures = (
        at_most("CPU per unary RPC, x bare grpc.aio", cpu_ratio(gateway, aio), 0.35),
        at_most("CPU per unary RPC, x Envoy", cpu_ratio(gateway, envoy), 7),
        at_most("mean latency, one call at a time, x Envoy", latency_ratio(gateway, envoy), 1.25),
        for_information("CPU per unary RPC, x Envoy as Emissary sets it up", f"{cpu_ratio(gateway, emissary):.2f}"),
        for_information("CPU per unary RPC of the control process", f"{median(gateway.control_us):.1f} us"),
    )
    return Findings(figures, (draw([floor, *running], (aio, envoy)),))


def compare_variants(quick: bool) -> Findings:
    """grpcgw compared with itself under other settings"""
    own_event_engine = grpcgw("grpcgw, grpcio's event engine on", environment={"GRPC_EXPERIMENTS": ""})
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(MANY_PODS))
        rows = stack.enter_context(
            running_rows(
                [
                    (grpcgw("grpcgw, 2 pods"), pods[:2]),
                    (grpcgw("grpcgw, 1 pod"), pods[:1]),
                    (grpcgw(f"grpcgw, {MANY_PODS} pods"), pods),
                    (own_event_engine, pods[:2]),
                    (grpcgw("grpcgw, generic-handler engine", ("--engine", "generic-handler")), pods[:2]),
                ]
            )
        )
        measure(rows, Effort(1, 0.5) if quick else Effort(3, 1.2))
    return Findings((), (draw(rows, rows[:1]),))


def draw(rows: Sequence[Row], yardsticks: Sequence[Row]) -> str:
    return render_table(header(yardsticks), [describe(row, yardsticks) for row in rows])


def count_streams(quick: bool) -> Findings:
    """open streams in one worker"""
    held = measure_open_streams(OPEN_STREAMS // 10 if quick else OPEN_STREAMS)
    what = f"{held.count:,} open streams in one worker"
    return Findings(
        (
            at_most(f"{what}: memory each", held.bytes_each / 1000, 60, " KB"),
            fewer_than(f"{what}: threads", held.threads, 40),
        )
    )


def time_pods(quick: bool) -> Findings:
    """pods leave and join"""
    delays_ms = measure_pod_changes(20 if quick else 120)
    name = f"pod leaves or joins → first RPC that knows, p99 of {len(delays_ms)}"
    halves = (_half("leaving pods", delays_ms[0::2]), _half("joining pods", delays_ms[1::2]))
    return Findings((at_most(name, percentile(delays_ms, 99), 100, " ms"), *halves))


def time_files(quick: bool) -> Findings:
    """a saved Mapping goes live"""
    delays_ms = measure_file_changes(10 if quick else 60).delays_ms
    name = f"saved Mapping → first RPC that follows it, p99 of {len(delays_ms)}"
    return Findings((at_most(name, percentile(delays_ms, 99), 200, " ms"), _half("saved Mappings", delays_ms)))


def time_reload(quick: bool) -> Findings:
    """a saved Mapping among thousands goes live"""
    seen = measure_file_changes(10 if quick else 60, MANY_MAPPINGS)
    name = f"one Mapping saved among {MANY_MAPPINGS:,} → first RPC that follows it, p99 of {len(seen.delays_ms)}"
    return Findings(
        (
            at_most(name, percentile(seen.delays_ms, 99), 300, " ms"),
            _half("saved Mappings", seen.delays_ms),
            for_information("slowest RPC meanwhile", f"{seen.slowest_rpc_ms:.0f} ms"),
        )
    )


def time_compilation(quick: bool) -> Findings:
    """thousands of Mappings are compiled"""
    times = 2 if quick else 7
    plain_s, full_s = (measure_compilation(MANY_MAPPINGS, full, times) for full in (False, True))
    return Findings(
        (
            at_most(f"compilation of {MANY_MAPPINGS:,} Mappings", 1000 * plain_s, 1000, " ms"),
            for_information(
                f"compilation of {MANY_MAPPINGS:,} Mappings with every field set", f"{1000 * full_s:.0f} ms"
            ),
        )
    )


def time_match(quick: bool) -> Findings:
    """finding the Mapping of a path"""
    few_ns, many_ns = measure_match((FEW_MAPPINGS, MANY_MAPPINGS))
    return Findings(
        (
            at_most(f"match among {MANY_MAPPINGS:,} Mappings, x among {FEW_MAPPINGS}", many_ns / few_ns, 2),
            for_information(f"match among {MANY_MAPPINGS:,} Mappings", f"{many_ns:.0f} ns"),
        )
    )


def compare_mappings(quick: bool) -> Findings:
    """one Mapping with every field set, compared with the plain one"""
    full = describe_full_mapping("greet", "greet")
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        # Several processes of each: memory layout differs per process and is worth some percent.
        starts = [grpcgw("plain Mapping"), grpcgw("every field set", mapping=full)] * (1 if quick else PROCESSES)
        rows = stack.enter_context(running_rows([(start, pods) for start in starts]))
        measure(rows, Effort(2, 0.5) if quick else Effort(6, 0.8))
    ratio = median(cpu_ratio(filled, plain) for plain, filled in zip(rows[::2], rows[1::2], strict=True))
    figure = at_most("CPU per unary RPC with every field of the Mapping set, x plain", ratio, 1.15)
    return Findings((figure,), (draw(rows, rows[:1]),))


def compare_pods(quick: bool) -> Findings:
    """an increasing number of pods"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(max(POD_COUNTS)))
        starts = [(grpcgw(f"{count} pods"), pods[:count]) for count in POD_COUNTS]
        rows = stack.enter_context(running_rows(starts))
        measure(rows, Effort(2, 0.5) if quick else Effort(6, 1.2))
    by_count = dict(zip(POD_COUNTS, rows, strict=True))
    return Findings(
        (
            at_most("CPU per unary RPC at 64 pods, x at 2", cpu_ratio(by_count[64], by_count[2]), 1.6),
            at_most("CPU per unary RPC at 256 pods, x at 64", cpu_ratio(by_count[256], by_count[64]), 1.1),
        ),
        (draw(rows, rows[:1]),),
    )


def _half(what: str, delays_ms: Sequence[float]) -> Figure:
    return for_information(f"half of the {what}: within", f"{median(delays_ms):.0f} ms")


def restart_pods(quick: bool) -> Findings:
    """all pods are replaced under load"""
    figures: list[Figure] = []
    for load_balancer in LOAD_BALANCERS:
        outcome = measure_rolling_restart(1 if quick else 3, load_balancer)
        name = f"rolling restarts under load ({len(outcome.answers)} pods, {load_balancer['policy']}): failed RPCs"
        figures.append(none_of(name, outcome.failures.total(), outcome.calls))
        figures += (for_information("failed", f"{count} x {what}") for what, count in outcome.failures.most_common(5))
    return Findings(tuple(figures))


def time_locks(quick: bool) -> Findings:
    """uncontended locks"""
    costs = measure_locks()
    return Findings(
        (
            for_information("a session's lock, per event", f"{costs.lock_ns:.0f} ns"),
            for_information("a method's counters, per RPC", f"{costs.method_counters_ns:.0f} ns"),
            for_information("a pod's counters, per RPC", f"{costs.pod_counters_ns:.0f} ns"),
        )
    )


PARTS: dict[str, Part] = {
    "proxies": compare_proxies,
    "variants": compare_variants,
    "fields": compare_mappings,
    "many-pods": compare_pods,
    "streams": count_streams,
    "pods": time_pods,
    "files": time_files,
    "reload": time_reload,
    "compile": time_compilation,
    "match": time_match,
    "restart": restart_pods,
    "locks": time_locks,
}
