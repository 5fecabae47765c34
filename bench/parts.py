"""The parts of the benchmark: what each measures, its duration, and the targets of its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

from bench import messages, policies
from bench.abuse import Outcome, measure_attacks
from bench.changes import measure_file_changes, measure_pod_changes
from bench.children import thread_count
from bench.contenders import AIO, BUSY, EMISSARY, ENVOY, TLS_ENVOY, clear_text_rows, engine_rows, missing, tls_rows
from bench.distinct_keys import COUNT, LIMIT_BOUND_BYTES, TOKEN_BOUND_BYTES, grow_by_limit_keys, grow_by_tokens
from bench.envoy import envoy
from bench.handshakes import measure_storm
from bench.idle import measure_idle
from bench.limit_accuracy import measure_limit
from bench.locks import measure_locks
from bench.mappings import measure_compilation, measure_match
from bench.messages import rate_ratio
from bench.pods import Pod, describe_full_mapping, running_pods
from bench.proxies import Start, grpcgw
from bench.report import Figure, at_least, at_most, count_at_most, for_information, none_of, percentile, render_table
from bench.restart import LOAD_BALANCERS, measure_rolling_restart
from bench.side_by_side import (
    Effort,
    Row,
    cpu_ratio,
    describe,
    header,
    latency_ratio,
    measure,
    p99_ratio,
    running_rows,
    straight_to,
)
from bench.streams import measure_open_streams
from grpcgw.settings import EngineName

OPEN_STREAMS = 10_000
POD_COUNTS = (2, 64, 1000)
IDLE_PODS = 5000
STORM_CLIENTS = 1000
STORMS = (
    ("ECDSA", False, False),
    ("RSA", True, False),
    ("ECDSA with client certificates", False, True),
    ("RSA with client certificates", True, True),
)
WORKER_THREADS = 8
ATTACKED_RATIO = 2
PROCESSES = 3
LIMITED = {"one worker": (1, 1), "4 workers": (4, 1), "2 gateways with Redis": (1, 2)}
"""Workers and gateways."""
FEW_MAPPINGS, MANY_MAPPINGS = 10, 10_000


@dataclass(frozen=True, slots=True)
class Plan:
    quick: bool
    """With fewer rounds: a look, not a result."""
    engine: EngineName
    """The one whose figures are compared with the targets. Comparisons of proxies measure all of them."""

    def effort(self, rounds: int, run_s: float) -> Effort:
        return Effort(min(rounds, 2), 0.5) if self.quick else Effort(rounds, run_s)

    def times(self, count: int) -> int:
        return max(2, count // 6) if self.quick else count


@dataclass(frozen=True, slots=True)
class Findings:
    figures: tuple[Figure, ...]
    tables: tuple[str, ...] = ()


Part = Callable[[Plan], Findings]


def compare_proxies(plan: Plan) -> Findings:
    """every engine compared with other proxies, two pods, clear text"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        rows = start_rows(stack, clear_text_rows(), pods)
        floor = straight_to(pods[0])
        measure([floor, *rows.values()], plan.effort(6, 1.2))
    gateway, busy, aio, envoy, emissary = (rows[name] for name in (plan.engine, BUSY, AIO, ENVOY, EMISSARY))
    figures = (
        at_most("CPU per unary RPC, x Envoy as Emissary sets it up", cpu_ratio(gateway, emissary), 1.25),
        at_most("mean latency, one call at a time, x Envoy", latency_ratio(gateway, envoy), 0.85),
        at_most("mean latency, one call at a time, with --busy-poll 200, x Envoy", latency_ratio(busy, envoy), 0.85),
        at_most("p99 under load, x Envoy", p99_ratio(gateway, envoy), 1),
        at_most("CPU per unary RPC, x bare grpc.aio", cpu_ratio(gateway, aio), 0.35),
        for_information("CPU per unary RPC, x Envoy", f"{cpu_ratio(gateway, envoy):.2f}"),
        for_information("CPU per unary RPC of the control process", f"{median(gateway.control_us):.1f} us"),
    )
    return Findings(figures, (draw([floor, *rows.values()], (emissary, envoy), missing()),))


def compare_tls(plan: Plan) -> Findings:
    """every engine compared with Envoy, two pods, clients over TLS"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        rows = start_rows(stack, tls_rows(), pods)
        measure(list(rows.values()), plan.effort(6, 1.0))
    gateway, envoy = rows[plan.engine], rows[TLS_ENVOY]
    figures = (
        at_most("CPU per unary RPC over TLS, x Envoy over TLS", cpu_ratio(gateway, envoy), 1.5),
        for_information("mean latency over TLS, one call at a time, x Envoy", f"{latency_ratio(gateway, envoy):.2f}"),
    )
    return Findings(figures, (draw(list(rows.values()), (envoy,)),))


def start_rows(stack: ExitStack, starts: Mapping[str, Start], pods: Sequence[Pod]) -> dict[str, Row]:
    rows = stack.enter_context(running_rows([(start, pods) for start in starts.values()]))
    return dict(zip(starts, rows, strict=True))


def compare_variants(plan: Plan) -> Findings:
    """grpcgw compared with itself: one pod"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        starts = [
            (grpcgw(plan.engine, f"{plan.engine}, 2 pods"), pods),
            (grpcgw(plan.engine, f"{plan.engine}, 1 pod"), pods[:1]),
        ]
        rows = stack.enter_context(running_rows(starts))
        measure(rows, plan.effort(3, 1.2))
    return Findings((), (draw(rows, rows[:1]),))


def draw(rows: Sequence[Row], yardsticks: Sequence[Row], not_installed: Sequence[str] = ()) -> str:
    columns = header(yardsticks)
    blank = ["not installed", *["-"] * (len(columns) - 2)]
    return render_table(
        columns, [*(describe(row, yardsticks) for row in rows), *([name, *blank] for name in not_installed)]
    )


def count_streams(plan: Plan) -> Findings:
    """open streams in one worker"""
    held = measure_open_streams(OPEN_STREAMS // 10 if plan.quick else OPEN_STREAMS, plan.engine)
    what = f"{held.count:,} open streams in one worker"
    return Findings(
        (
            at_most(f"{what}: memory each", held.bytes_each / 1000, 20, " KB"),
            count_at_most(f"{what}: threads", held.threads, WORKER_THREADS),
        )
    )


def exchange_messages(plan: Plan) -> Findings:
    """messages on open streams, back and forth, every engine compared with Envoy"""
    starts = {**engine_rows(), ENVOY: envoy(ENVOY)}
    floor, rows = messages.measure_messages(starts, plan.times(5), 0.5 if plan.quick else 1.5)
    gateway, yardstick = rows[plan.engine], rows[ENVOY]
    figures = (
        at_least("messages/s of 100 bytes on 64 streams, x Envoy", rate_ratio(gateway.small, yardstick.small), 0.8),
        at_least("throughput of 1 MB messages, x Envoy", rate_ratio(gateway.large, yardstick.large), 0.8),
    )
    lines = [messages.describe(row, yardstick) for row in (floor, *rows.values())]
    return Findings(figures, (render_table(messages.header(yardstick), lines),))


def time_pods(plan: Plan) -> Findings:
    """pods leave and join"""
    delays_ms = measure_pod_changes(plan.times(120), plan.engine)
    name = f"pod leaves or joins → first RPC that knows, p99 of {len(delays_ms)}"
    halves = (_half("leaving pods", delays_ms[0::2]), _half("joining pods", delays_ms[1::2]))
    return Findings((at_most(name, percentile(delays_ms, 99), 100, " ms"), *halves))


def time_files(plan: Plan) -> Findings:
    """a saved Mapping goes live"""
    delays_ms = measure_file_changes(plan.times(60), plan.engine).delays_ms
    name = f"saved Mapping → first RPC that follows it, p99 of {len(delays_ms)}"
    return Findings((at_most(name, percentile(delays_ms, 99), 200, " ms"), _half("saved Mappings", delays_ms)))


def time_reload(plan: Plan) -> Findings:
    """a saved Mapping among thousands goes live"""
    seen = measure_file_changes(plan.times(60), plan.engine, MANY_MAPPINGS)
    name = f"one Mapping saved among {MANY_MAPPINGS:,} → first RPC that follows it, p99 of {len(seen.delays_ms)}"
    return Findings(
        (
            at_most(name, percentile(seen.delays_ms, 99), 300, " ms"),
            _half("saved Mappings", seen.delays_ms),
            for_information("slowest RPC meanwhile", f"{seen.slowest_rpc_ms:.0f} ms"),
        )
    )


def time_compilation(plan: Plan) -> Findings:
    """thousands of Mappings are compiled"""
    times = plan.times(7)
    plain_s, full_s = (measure_compilation(MANY_MAPPINGS, full, times) for full in (False, True))
    return Findings(
        (
            at_most(f"compilation of {MANY_MAPPINGS:,} Mappings", 1000 * plain_s, 1000, " ms"),
            for_information(
                f"compilation of {MANY_MAPPINGS:,} Mappings with every field set", f"{1000 * full_s:.0f} ms"
            ),
        )
    )


def time_match(plan: Plan) -> Findings:
    """finding the Mapping of a path"""
    few_ns, many_ns = measure_match((FEW_MAPPINGS, MANY_MAPPINGS))
    return Findings(
        (
            at_most(f"match among {MANY_MAPPINGS:,} Mappings, x among {FEW_MAPPINGS}", many_ns / few_ns, 2),
            for_information(f"match among {MANY_MAPPINGS:,} Mappings", f"{many_ns:.0f} ns"),
        )
    )


def compare_mappings(plan: Plan) -> Findings:
    """one Mapping with every field set, compared with the plain one"""
    full = describe_full_mapping("greet", "greet")
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        # Several processes of each: memory layout differs per process and is worth some percent.
        pair = [grpcgw(plan.engine, "plain Mapping"), grpcgw(plan.engine, "every field set", mapping=full)]
        starts = pair * (1 if plan.quick else PROCESSES)
        rows = stack.enter_context(running_rows([(start, pods) for start in starts]))
        measure(rows, plan.effort(6, 0.8))
    ratio = median(cpu_ratio(filled, plain) for plain, filled in zip(rows[::2], rows[1::2], strict=True))
    figure = at_most("CPU per unary RPC with every field of the Mapping set, x plain", ratio, 1.15)
    return Findings((figure,), (draw(rows, rows[:1]),))


def compare_policies(plan: Plan) -> Findings:
    """policies, each compared with the plain Mapping; a service of authorization also with Envoy"""
    direct, rows = policies.measure_policies(plan.engine, plan.effort(6, 1.0))
    yardsticks = (rows[policies.PLAIN], rows[policies.ENVOY])
    return Findings(policies.list_figures(direct, rows), (draw([direct, *rows.values()], yardsticks),))


def count_limited(plan: Plan) -> Findings:
    """limits: RPCs at twice the rate, and a million distinct keys and tokens"""
    run_s, count = (3.0, COUNT // 10) if plan.quick else (10.0, COUNT)
    off = {what: measure_limit(plan.engine, workers, run_s, n) for what, (workers, n) in LIMITED.items()}
    keys, tokens = grow_by_limit_keys(count) / 1e6, grow_by_tokens(count) / 1e6
    return Findings(
        (
            *(at_most(f"{run_s:g} s at twice a limit, {what}: off by", wrong, 2, " %") for what, wrong in off.items()),
            at_most(f"{count:,} keys of a limit: memory of the worker", keys, LIMIT_BOUND_BYTES / 1e6, " MB"),
            at_most(f"{count:,} tokens: memory of the worker", tokens, TOKEN_BOUND_BYTES / 1e6, " MB"),
        )
    )


def compare_pods(plan: Plan) -> Findings:
    """an increasing number of pods, and Envoy before as many"""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(max(POD_COUNTS)))
        starts = [(grpcgw(plan.engine, f"{count:,} pods"), pods[:count]) for count in POD_COUNTS]
        starts += [(envoy(f"Envoy, {count:,} pods"), pods[:count]) for count in (min(POD_COUNTS), max(POD_COUNTS))]
        rows = stack.enter_context(running_rows(starts))
        measure(rows, plan.effort(6, 1.2))
        few, more, most, envoy_few, envoy_most = rows
        threads = thread_count(most.proxy.pids[0])
    figures = (
        at_most("CPU per unary RPC at 64 pods, x at 2", cpu_ratio(more, few), 1.25),
        at_most("CPU per unary RPC at 1,000 pods, x at 2", cpu_ratio(most, few), 1.3),
        count_at_most("threads of a worker at 1,000 pods", threads, WORKER_THREADS),
        for_information("CPU per unary RPC of Envoy at 1,000 pods, x at 2", f"{cpu_ratio(envoy_most, envoy_few):.2f}"),
        for_information("CPU per unary RPC at 1,000 pods, x Envoy", f"{cpu_ratio(most, envoy_most):.2f}"),
    )
    return Findings(figures, (draw(rows, rows[:1]),))


def storm_handshakes(plan: Plan) -> Findings:
    """1,000 clients begin TLS at once while another makes calls"""
    figures = []
    for what, use_rsa, client_certificates in STORMS:
        storms = [measure_storm(STORM_CLIENTS, plan.engine, use_rsa, client_certificates) for _ in range(plan.times(5))]
        name = f"{STORM_CLIENTS:,} TLS handshakes at once, {what}"
        figures += [
            at_most(f"{name}: running RPCs stop for", median(one.longest_ms for one in storms), 50, " ms"),
            for_information(f"{name}: longest call before", f"{median(one.quiet_ms for one in storms):.0f} ms"),
            for_information(f"{name}: until the last", f"{median(one.took_s for one in storms):.1f} s"),
        ]
    return Findings(tuple(figures))


def beside_attacks(plan: Plan) -> Findings:
    """an ordinary client beside attacks"""
    outcomes = sorted(measure_attacks(1 if plan.quick else 3, plan.engine), key=lambda one: -one.ratio)
    worst, most = outcomes[0], max(one.worker_bytes for outcome in outcomes for one in outcome.rounds)
    beyond = sum(one.ratio > ATTACKED_RATIO for one in outcomes)
    figures = (
        at_most(
            f"p99 beside the worst of {len(outcomes)} attacks, {worst.attack}, x alone", worst.ratio, ATTACKED_RATIO
        ),
        for_information("attacks beside which it is more", f"{beyond} of {len(outcomes)}"),
        for_information("memory of the worker, most", f"{most / 1e6:.0f} MB"),
    )
    columns = (
        "attack",
        "p99, x alone",
        "alone",
        "beside",
        "straight to the pod",
        "sent",
        "connections",
        "memory of the worker",
    )
    return Findings(figures, (render_table(columns, [_describe_attack(one) for one in outcomes]),))


def _describe_attack(outcome: Outcome) -> tuple[str, ...]:
    rounds = outcome.rounds
    return (
        outcome.attack,
        f"{outcome.ratio:.2f}",
        f"{median(one.alone_ms for one in rounds):.1f} ms",
        f"{median(one.beside_ms for one in rounds):.1f} ms",
        f"{median(one.direct_ms for one in rounds):.1f} ms",
        f"{median(one.sent_bytes for one in rounds) / 1e6:.1f} MB",
        f"{median(one.connections for one in rounds):.0f}",
        f"{max(one.worker_bytes for one in rounds) / 1e6:.0f} MB",
    )


def watch_idle(plan: Plan) -> Findings:
    """a worker with thousands of pods and no RPC"""
    idle = measure_idle(IDLE_PODS // 10 if plan.quick else IDLE_PODS, plan.engine)
    what = f"idle with {idle.pods:,} pods"
    return Findings(
        (
            at_most(f"{what}: processor time of the worker, of a core", idle.core_percent, 3, " %"),
            count_at_most(f"{what}: threads of the worker", idle.threads, WORKER_THREADS),
            for_information(f"{what}: memory of the worker", f"{idle.resident_bytes / 1e6:.0f} MB"),
            for_information(f"{what}: processor time of the control process", f"{idle.control_percent:.1f} %"),
        )
    )


def _half(what: str, delays_ms: Sequence[float]) -> Figure:
    return for_information(f"half of the {what}: within", f"{median(delays_ms):.0f} ms")


def restart_pods(plan: Plan) -> Findings:
    """all pods are replaced under load"""
    figures: list[Figure] = []
    for load_balancer in LOAD_BALANCERS:
        outcome = measure_rolling_restart(1 if plan.quick else 3, plan.engine, load_balancer)
        name = f"rolling restarts under load ({len(outcome.answers)} pods, {load_balancer['policy']}): failed RPCs"
        figures.append(none_of(name, outcome.failures.total(), outcome.calls))
        figures += (for_information("failed", f"{count} x {what}") for what, count in outcome.failures.most_common(5))
    return Findings(tuple(figures))


def time_locks(plan: Plan) -> Findings:
    """uncontended locks"""
    costs = measure_locks()
    return Findings(
        (
            for_information("one lock, acquired and released", f"{costs.lock_ns:.0f} ns"),
            for_information("a method's counters, per RPC", f"{costs.method_counters_ns:.0f} ns"),
            for_information("a pod's counters, per RPC", f"{costs.pod_counters_ns:.0f} ns"),
        )
    )


PARTS: dict[str, Part] = {
    "proxies": compare_proxies,
    "tls": compare_tls,
    "variants": compare_variants,
    "fields": compare_mappings,
    "policies": compare_policies,
    "limits": count_limited,
    "many-pods": compare_pods,
    "handshakes": storm_handshakes,
    "abuse": beside_attacks,
    "idle": watch_idle,
    "streams": count_streams,
    "messages": exchange_messages,
    "pods": time_pods,
    "files": time_files,
    "reload": time_reload,
    "compile": time_compilation,
    "match": time_match,
    "restart": restart_pods,
    "locks": time_locks,
}
