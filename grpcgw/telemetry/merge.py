"""Merges reports: of all workers, and of a worker with its dead predecessors, so that no counter ever falls."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from grpcgw.model.endpoints import PodState
from grpcgw.telemetry.client_counters import CloseCause
from grpcgw.telemetry.report import (
    CacheReport,
    ClientReport,
    EventReport,
    MethodReport,
    PodReport,
    PolicyReport,
    ShadowReport,
    WorkerReport,
)

K = TypeVar("K", bound=Hashable)

MOST_GONE_COUNTED = 1000
"""Of so many pods that were not in a worker's last report the counts are passed on."""


def leave_behind(last: WorkerReport, before: WorkerReport | None = None) -> WorkerReport:
    """What remains of a worker that is gone: its counts, with nothing in flight or connected any more. Its pid is 0.

    `before`: what would have remained of it, or remained of its predecessor, up to the report before `last`; the
    counts of pods that are not in `last`, because they left or are not known yet, are passed on.
    """
    known = {(pod.cluster, pod.address) for pod in last.pods}
    earlier = () if before is None else before.pods
    missing = [pod for pod in earlier if (pod.cluster, pod.address) not in known]
    pods = (*last.pods, *missing[:MOST_GONE_COUNTED])
    return replace(
        last,
        pid=0,
        memory_bytes=0,
        methods=tuple(replace(method, in_flight=0) for method in last.methods),
        pods=tuple(replace(pod, in_flight=0, state=PodState.IDLE, note="") for pod in pods),
        shadows=tuple(replace(shadow, in_flight=0) for shadow in last.shadows),
        clients=None if last.clients is None else _close_all(last.clients),
    )


def _close_all(clients: ClientReport) -> ClientReport:
    """The connections that were open ended with their worker."""
    still_open = sum(clients.open.values())
    closed = _add(clients.closed, {CloseCause.WORKER_DIED.value: still_open}) if still_open else clients.closed
    return replace(clients, open={}, closed=closed)


def carry_on(report: WorkerReport, former: WorkerReport | None) -> WorkerReport:
    """`report` plus `former`, what the worker it replaced left behind."""
    if former is None:
        return report
    methods = {(m.mapping, m.service, m.method): m for m in former.methods}
    for method in report.methods:
        key = (method.mapping, method.service, method.method)
        methods[key] = add_methods(methods[key], method) if key in methods else method
    pods = _add_pods(report.pods, former.pods)
    return replace(
        report,
        methods=tuple(methods.values()),
        pods=pods,
        events=merge_events((former.events, report.events)),
        shadows=merge_shadows((*former.shadows, *report.shadows)),
        policies=merge_policies((*former.policies, *report.policies)),
        caches=merge_caches((*former.caches, *report.caches)),
        slow_checks=_add(report.slow_checks, former.slow_checks),
        access_log_dropped=report.access_log_dropped + former.access_log_dropped,
        cpu_s=report.cpu_s + former.cpu_s,
        handshake_failures=_add(report.handshake_failures, former.handshake_failures),
        clients=merge_clients((former.clients, report.clients)),
    )


def add_methods(one: MethodReport, other: MethodReport) -> MethodReport:
    """Both reports' RPCs, under the names of `one`."""
    return replace(
        one,
        codes=_add(one.codes, other.codes),
        reasons=_add(one.reasons, other.reasons),
        request_bytes=one.request_bytes + other.request_bytes,
        response_bytes=one.response_bytes + other.response_bytes,
        latency_counts=tuple(a + b for a, b in zip(one.latency_counts, other.latency_counts, strict=True)),
        latency_sum_s=one.latency_sum_s + other.latency_sum_s,
        in_flight=one.in_flight + other.in_flight,
    )


def merge_events(events: Iterable[EventReport]) -> EventReport:
    """One report of what happened in all workers."""
    merged = EventReport()
    for one in events:
        merged = EventReport(
            _add(merged.retries, one.retries),
            _add(merged.breaker_trips, one.breaker_trips),
            _add(merged.ejections, one.ejections),
        )
    return merged


def merge_clients(clients: Iterable[ClientReport | None]) -> ClientReport | None:
    """One report over all of them; None: no engine counts them."""
    merged: ClientReport | None = None
    for one in clients:
        merged = one if merged is None else merged if one is None else _add_clients(merged, one)
    return merged


def _add_clients(one: ClientReport, other: ClientReport) -> ClientReport:
    return ClientReport(
        _add(one.open, other.open),
        _add(one.accepted, other.accepted),
        _add(one.closed, other.closed),
        one.malformed_requests + other.malformed_requests,
        _add(one.http_requests, other.http_requests),
    )


def _add(one: Mapping[K, int], other: Mapping[K, int]) -> dict[K, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in (*one, *other)}


def merge_policies(policies: Iterable[PolicyReport]) -> tuple[PolicyReport, ...]:
    """One report for each policy of a Mapping."""
    merged: dict[tuple[str, str], PolicyReport] = {}
    for one in policies:
        before = merged.get((one.mapping, one.policy))
        merged[one.mapping, one.policy] = one if before is None else _add_policy(before, one)
    return tuple(merged.values())


def _add_policy(one: PolicyReport, other: PolicyReport) -> PolicyReport:
    return PolicyReport(
        one.mapping,
        one.policy,
        one.allowed + other.allowed,
        one.denied + other.denied,
        _add(one.errors, other.errors),
        tuple(a + b for a, b in zip(one.wait_counts, other.wait_counts, strict=True)),
        one.wait_sum_s + other.wait_sum_s,
    )


def merge_caches(caches: Iterable[CacheReport]) -> tuple[CacheReport, ...]:
    """One report for each cache."""
    hits: dict[str, int] = {}
    misses: dict[str, int] = {}
    for one in caches:
        hits[one.cache] = hits.get(one.cache, 0) + one.hits
        misses[one.cache] = misses.get(one.cache, 0) + one.misses
    return tuple(CacheReport(name, hits[name], misses[name]) for name in hits)


def merge_shadows(shadows: Iterable[ShadowReport]) -> tuple[ShadowReport, ...]:
    """One report for each shadow Mapping."""
    merged: dict[str, ShadowReport] = {}
    for one in shadows:
        before = merged.get(one.mapping)
        merged[one.mapping] = one if before is None else _add_shadow(before, one)
    return tuple(merged.values())


def _add_shadow(one: ShadowReport, other: ShadowReport) -> ShadowReport:
    codes, dropped = _add(one.codes, other.codes), _add(one.dropped, other.dropped)
    return ShadowReport(one.mapping, codes, dropped, one.in_flight + other.in_flight)


def _add_pods(pods: Iterable[PodReport], former: Iterable[PodReport]) -> tuple[PodReport, ...]:
    """`pods` with what `former` counted. An address may be there twice, leaving and serving: its past counts once."""
    before: dict[tuple[str, str], PodReport] = {}
    for pod in former:
        key = (pod.cluster, pod.address)
        before[key] = _add_pod(pod, before.get(key))
    return tuple(_add_pod(pod, before.pop((pod.cluster, pod.address), None)) for pod in pods)


def _add_pod(pod: PodReport, before: PodReport | None) -> PodReport:
    if before is None:
        return pod
    total = pod.total + before.total
    mean_ms = (pod.latency_mean_ms * pod.total + before.latency_mean_ms * before.total) / total if total else 0.0
    return replace(
        pod,
        total=total,
        failures=pod.failures + before.failures,
        latency_mean_ms=mean_ms,
        last_error=pod.last_error or before.last_error,
    )
