"""Renders Prometheus metrics from the state of the gateway: one set of numbers, added up over all workers.

Each scrape builds a collector on its own registry: this module counts nothing and never touches prometheus_client's
global registry. docs/metrics.md explains each metric to users.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from grpcgw import __version__
from grpcgw.admin.metric_families import counter, gauge, histogram
from grpcgw.admin.policy_metrics import collect_key_sets, collect_policies
from grpcgw.admin.state import GatewayState
from grpcgw.model.codes import status_name
from grpcgw.model.expiry import list_expiries
from grpcgw.model.objects import Severity
from grpcgw.model.snapshot import Snapshot
from grpcgw.telemetry.merge import merge_clients, merge_events
from grpcgw.telemetry.report import ClientReport, MethodReport, WorkerReport
from grpcgw.telemetry.resource_usage import NOT_MEASURED, ProcessUse

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST


@dataclass(frozen=True, slots=True)
class HostReadings:
    """Values of the operating system at the moment of a scrape."""

    control: ProcessUse = NOT_MEASURED
    control_pid: int = 0
    client_connections: Mapping[int, int] | None = None
    """Open connections by port, of workers whose engine does not count them; None: unknown."""


NO_READINGS = HostReadings()
NOT_COUNTED = ClientReport()
"""No engine counts clients' connections."""


def render_metrics(state: GatewayState, host: HostReadings = NO_READINGS) -> bytes:
    """The text of one scrape, of the type `METRICS_CONTENT_TYPE`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_GatewayCollector(state, host))
    return generate_latest(registry)


class _GatewayCollector(Collector):
    def __init__(self, state: GatewayState, host: HostReadings) -> None:
        self._state, self._host = state, host

    def collect(self) -> Iterator[Metric]:
        state, names = self._state, name_upstreams(self._state.snapshot)
        yield from _collect_process(state)
        yield from _collect_configuration(state)
        yield from _collect_sources(state)
        yield from collect_key_sets(state.key_sets, state.now_s)
        yield from _collect_certificates(state)
        yield from _collect_workers(state)
        yield from _collect_processes(state.workers, self._host)
        yield from _collect_clients(state.workers, self._host.client_connections or {})
        yield from _collect_rpcs(state.workers)
        yield from _collect_events(state.workers, names)
        yield from collect_policies(state.workers)
        yield from _collect_shadows(state.workers)
        yield from _collect_pods(state.workers, names)


def _collect_process(state: GatewayState) -> Iterator[Metric]:
    yield gauge("build_info", "Always 1; the version of grpcgw is a label.", ["version"], [((__version__,), 1)])
    yield gauge("start_time_seconds", "When the gateway started, since the epoch.", [], [((), state.started_at_s)])
    yield gauge("ready", "1 while the readiness probe succeeds, else 0.", [], [((), state.ready)])


def _collect_configuration(state: GatewayState) -> Iterator[Metric]:
    version = state.snapshot.version
    yield gauge("configuration_info", "Always 1; the version served is a label.", ["version"], [((version,), 1)])
    yield gauge(
        "configuration_age_seconds",
        "Time since the served configuration went live; absent before the first.",
        [],
        [((), max(0.0, state.now_s - state.configured_at_s))] if state.configured_at_s else [],
    )
    found = Counter(problem.severity for problem in state.problems)
    yield gauge(
        "configuration_errors",
        "Problems in the configuration now, by severity: error or notice.",
        ["severity"],
        [((str(severity),), found[severity]) for severity in Severity],
    )
    yield counter(
        "configuration_errors_total",
        "Compilations of the configuration that found at least one error.",
        [],
        {(): state.configuration_errors_total},
    )
    names = name_upstreams(state.snapshot)
    endpoints: Counter[tuple[str, ...]] = Counter()
    for name, known in state.endpoints.items():
        endpoints[(names.get(name, name),)] += len(known.endpoints)
    yield gauge(
        "cluster_endpoints",
        "Ready pods known behind each cluster (a service through a resolver).",
        ["cluster"],
        sorted(endpoints.items()),
    )


def _collect_sources(state: GatewayState) -> Iterator[Metric]:
    yield gauge(
        "source_age_seconds",
        "Time since a source of configuration or pods last showed a sign of life; absent before the first.",
        ["source"],
        [((s.name,), max(0.0, state.now_s - s.last_contact_s)) for s in state.sources if s.last_contact_s],
    )
    yield gauge(
        "source_synced",
        "1 once a source has been read completely, else 0.",
        ["source"],
        [((source.name,), source.synced) for source in state.sources],
    )


def _collect_certificates(state: GatewayState) -> Iterator[Metric]:
    yield gauge(
        "certificate_expiry_seconds",
        "Time until a certificate in use expires; negative once it has.",
        ["certificate", "use"],
        [((one.certificate, one.use), one.not_after_s - state.now_s) for one in list_expiries(state.snapshot)],
    )


def _collect_workers(state: GatewayState) -> Iterator[Metric]:
    yield gauge("workers", "Data-plane workers that report.", [], [((), len(state.workers))])
    yield counter("worker_restarts_total", "Workers replaced because they died.", [], {(): state.worker_restarts_total})
    dropped = sum(worker.access_log_dropped for worker in state.workers)
    redis = [worker.redis_away for worker in state.workers if worker.redis_away is not None]
    if redis:
        yield gauge(
            "rate_limit_redis_up",
            "Whether every worker reaches the Redis that rate limits share; else they hold on this machine alone.",
            [],
            [((), int(not any(redis)))],
        )
    yield counter(
        "access_log_dropped_total", "RPCs missing in the access log: its reader was too slow.", [], {(): dropped}
    )


def _collect_processes(workers: Iterable[WorkerReport], host: HostReadings) -> Iterator[Metric]:
    """A worker inside the control process is the control process: it does not appear a second time."""
    cpu_s = {("control",): host.control.cpu_s}
    memory_bytes = {("control",): host.control.memory_bytes}
    for worker in workers:
        if worker.pid != host.control_pid:
            cpu_s[(f"worker-{worker.worker}",)] = worker.cpu_s
            memory_bytes[(f"worker-{worker.worker}",)] = worker.memory_bytes
    by = ["process"]
    yield counter("process_cpu_seconds_total", "Processor time taken by a process.", by, cpu_s)
    known = [(labels, number) for labels, number in sorted(memory_bytes.items()) if number]
    yield gauge("process_resident_memory_bytes", "Resident memory of a process.", by, known)


def _collect_clients(workers: Iterable[WorkerReport], connections: Mapping[int, int]) -> Iterator[Metric]:
    """`connections`: open ones by port, where the workers do not count them."""
    counted = merge_clients(worker.clients for worker in workers)
    if counted is not None:
        connections = counted.open
    by_port = [((str(port),), count) for port, count in sorted(connections.items())]
    yield gauge("client_connections", "Open connections of clients.", ["port"], by_port)
    yield from _collect_connections(counted or NOT_COUNTED)
    failures: Counter[tuple[str, ...]] = Counter()
    for worker in workers:
        failures.update({(cause,): count for cause, count in worker.handshake_failures.items()})
    yield counter("tls_handshake_failures_total", "TLS handshakes that failed.", ["cause"], failures)


def _collect_connections(clients: ClientReport) -> Iterator[Metric]:
    yield counter(
        "client_connections_accepted_total",
        "Connections of clients, open and closed.",
        ["port"],
        {(str(port),): count for port, count in clients.accepted.items()},
    )
    yield counter(
        "client_connections_closed_total",
        "Connections of clients that ended.",
        ["cause"],
        {(cause,): count for cause, count in clients.closed.items()},
    )
    yield counter(
        "malformed_requests_total",
        "Requests reset because they break HTTP/2.",
        [],
        {} if clients is NOT_COUNTED else {(): clients.malformed_requests},
    )
    yield counter(
        "http_requests_total",
        "Requests that are no gRPC, by the status of their answer.",
        ["http_status"],
        {(str(status),): count for status, count in clients.http_requests.items()},
    )


def _collect_rpcs(workers: Iterable[WorkerReport]) -> Iterator[Metric]:
    by_status: Counter[tuple[str, ...]] = Counter()
    in_flight: Counter[tuple[str, ...]] = Counter()
    buckets: dict[tuple[str, ...], Counter[int]] = defaultdict(Counter)
    latency_s: dict[tuple[str, ...], float] = defaultdict(float)
    request_bytes: Counter[tuple[str, ...]] = Counter()
    response_bytes: Counter[tuple[str, ...]] = Counter()
    for report in (method for worker in workers for method in worker.methods):
        labels = (report.mapping, report.service, report.method)
        for status, count in _list_statuses(report):
            by_status[*labels, *status] += count
        in_flight[(report.mapping,)] += report.in_flight
        buckets[labels].update(dict(enumerate(report.latency_counts)))
        latency_s[labels] += report.latency_sum_s
        request_bytes[labels] += report.request_bytes
        response_bytes[labels] += report.response_bytes
    names = ["mapping", "service", "method"]
    yield counter("rpcs_total", "RPCs ended, by gRPC status.", [*names, "grpc_status", "reason"], by_status)
    yield histogram("rpc_duration_seconds", "Time from an RPC's arrival to its status.", names, buckets, latency_s)
    yield gauge("rpcs_in_flight", "RPCs running now.", ["mapping"], sorted(in_flight.items()))
    yield counter("rpc_request_bytes_total", "Bytes of messages from clients.", names, request_bytes)
    yield counter("rpc_response_bytes_total", "Bytes of messages from pods.", names, response_bytes)


def _list_statuses(report: MethodReport) -> Iterator[tuple[tuple[str, str], int]]:
    """Name of the status and reason; the reason is empty for statuses that pods gave."""
    own: Counter[int] = Counter()
    for (code, reason), count in report.reasons.items():
        own[code] += count
        yield (status_name(code), reason), count
    for code, count in report.codes.items():
        if count > own[code]:
            yield (status_name(code), ""), count - own[code]


def _collect_events(workers: Iterable[WorkerReport], names: Mapping[str, str]) -> Iterator[Metric]:
    events = merge_events(worker.events for worker in workers)
    yield counter(
        "retries_total",
        "Further tries of RPCs on pods.",
        ["mapping"],
        {(mapping,): count for mapping, count in events.retries.items()},
    )
    yield counter(
        "circuit_breaker_refusals_total",
        "RPCs and retries that a circuit breaker refused.",
        ["mapping", "limit"],
        events.breaker_trips,
    )
    ejections: Counter[tuple[str, ...]] = Counter()
    for cluster, count in events.ejections.items():
        ejections[(names.get(cluster, cluster),)] += count
    yield counter("pod_ejections_total", "Times that a pod of a cluster was ejected.", ["cluster"], ejections)


def _collect_shadows(workers: Iterable[WorkerReport]) -> Iterator[Metric]:
    by_status: Counter[tuple[str, ...]] = Counter()
    dropped: Counter[tuple[str, ...]] = Counter()
    in_flight: Counter[tuple[str, ...]] = Counter()
    for report in (shadow for worker in workers for shadow in worker.shadows):
        for code, count in report.codes.items():
            by_status[report.mapping, status_name(code)] += count
        for reason, count in report.dropped.items():
            dropped[report.mapping, reason] += count
        in_flight[(report.mapping,)] += report.in_flight
    yield counter(
        "shadow_rpcs_total",
        "Copies of RPCs ended, by the gRPC status that was dropped.",
        ["mapping", "grpc_status"],
        by_status,
    )
    yield counter(
        "shadow_dropped_total",
        "Copies of RPCs not sent, or not to their end.",
        ["mapping", "reason"],
        dropped,
    )
    yield gauge("shadow_rpcs_in_flight", "Copies running now.", ["mapping"], sorted(in_flight.items()))


def name_upstreams(snapshot: Snapshot) -> dict[str, str]:
    """Metric names of clusters: the `stats_name` of the first Mapping over it that has one; absent: its own name."""
    names: dict[str, str] = {}
    for route in snapshot.routes:
        for destination in route.all_destinations():
            if destination.stats_name:
                for one in destination.clusters:
                    names.setdefault(one.cluster, destination.stats_name)
    return names


def _pods_by_worker(reports: Iterable[WorkerReport], names: Mapping[str, str]) -> Iterator[set[tuple[str, str]]]:
    for report in reports:
        yield {(names.get(pod.cluster, pod.cluster), pod.address) for pod in report.pods}


def _collect_pods(workers: Iterable[WorkerReport], names: Mapping[str, str]) -> Iterator[Metric]:
    total: Counter[tuple[str, ...]] = Counter()
    failures: Counter[tuple[str, ...]] = Counter()
    in_flight: Counter[tuple[str, ...]] = Counter()
    states: Counter[tuple[str, ...]] = Counter()
    reports = tuple(workers)
    for pod in (pod for worker in reports for pod in worker.pods):
        labels = (names.get(pod.cluster, pod.cluster), pod.address)
        total[labels] += pod.total
        failures[labels] += pod.failures
        in_flight[labels] += pod.in_flight
        states[*labels, str(pod.state)] += 1
    # A sum over some of the workers would be a counter that falls while a pod leaves or comes: it is absent, instead.
    seen_by = Counter(labels for pods in _pods_by_worker(reports, names) for labels in pods)
    for labels, count in seen_by.items():
        if count < len(reports):
            del total[labels], failures[labels]
    by = ["cluster", "pod"]
    yield counter("pod_rpcs_total", "RPCs sent to a pod (tries, not client calls).", by, total)
    yield counter("pod_failures_total", "RPCs a pod or its connection failed.", by, failures)
    yield gauge("pod_rpcs_in_flight", "RPCs running on a pod now.", by, sorted(in_flight.items()))
    yield gauge("pod_state", "Workers that see the pod in this state.", [*by, "state"], sorted(states.items()))
