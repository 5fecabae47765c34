"""Reports over time: a worker that replaces a dead one carries its numbers on, so that no counter ever goes back."""

from __future__ import annotations

from dataclasses import replace

from grpcgw.telemetry.report import MethodReport, PodReport, WorkerReport


def carry_on(report: WorkerReport, former: WorkerReport | None) -> WorkerReport:
    """`report` plus what `former` (the last report of the worker it replaced) had counted."""
    if former is None:
        return report
    methods = {(m.mapping, m.service, m.method): replace(m, in_flight=0) for m in former.methods}
    for method in report.methods:
        key = (method.mapping, method.service, method.method)
        methods[key] = add_methods(methods[key], method) if key in methods else method
    before = {(pod.cluster, pod.address): pod for pod in former.pods}
    pods = tuple(_add_pod(pod, before.get((pod.cluster, pod.address))) for pod in report.pods)
    return replace(
        report,
        methods=tuple(methods.values()),
        pods=pods,
        retries=report.retries + former.retries,
        restarts=former.restarts + 1,
    )


def add_methods(one: MethodReport, other: MethodReport) -> MethodReport:
    """Both reports' RPCs, under the names of `one`."""
    codes = {code: one.codes.get(code, 0) + other.codes.get(code, 0) for code in one.codes | other.codes}
    return replace(
        one,
        codes=codes,
        latency_counts=tuple(a + b for a, b in zip(one.latency_counts, other.latency_counts, strict=True)),
        latency_sum_s=one.latency_sum_s + other.latency_sum_s,
        in_flight=one.in_flight + other.in_flight,
    )


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
