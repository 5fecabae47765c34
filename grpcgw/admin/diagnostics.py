"""The diagnostics as JSON: Ambassador's keys with Ambassador's types where they are known, and grpcgw's own keys.

Ambassador's: route_info, cluster_info, cluster_stats, ambassador_resolvers, ambassador_services, errors, notices,
groups, tlscontexts, envoy_status, system. Own: pods, workers, sources, listeners, problems. Every value
comes from a named field, so a new field of the state cannot leak a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from grpcgw import __version__
from grpcgw.admin.cluster_views import ClusterView, PodView
from grpcgw.admin.humanize import format_age, format_duration
from grpcgw.admin.route_json import (
    Json,
    render_groups,
    render_resolvers,
    render_routes,
    render_services,
    show_health_share,
)
from grpcgw.admin.views import (
    GatewayView,
)
from grpcgw.model.objects import Problem


def render_diagnostics(view: GatewayView) -> Json:
    """Every key of `DIAGNOSTICS_KEYS`, in that order."""
    return {key: render(view) for key, render in _RENDERERS.items()}


def render_part(view: GatewayView, key: str) -> object:
    """One top-level key. KeyError for a key that does not exist."""
    return _RENDERERS[key](view)


def _system(view: GatewayView) -> Json:
    state = view.state
    return {
        "version": __version__,
        "hostname": state.hostname,
        "ambassador_id": state.ambassador_id,
        "ambassador_namespace": state.ambassador_namespace,
        "single_namespace": bool(state.namespace),
        "endpoints_enabled": True,
        "boot_time": _iso(state.started_at_s),
        "uptime": max(0.0, state.now_s - state.started_at_s),
        "hr_uptime": format_duration(state.now_s - state.started_at_s),
        "env_good": state.ready and not view.errors and not view.in_trouble,
        "configuration_version": state.snapshot.version,
        "configuration_since": _iso(state.configured_at_s),
        "configuration_age_s": _age_s(state.now_s, state.configured_at_s),
        "configuration_errors_total": state.configuration_errors_total,
        "compile_ms": state.compile_ms,
        "draining": state.draining,
    }


def _envoy_status(view: GatewayView) -> Json:
    """There is no Envoy: these keys describe grpcgw's own data plane."""
    state = view.state
    newest_s = max((source.last_contact_s for source in state.sources), default=0.0)
    return {
        "alive": True,
        "ready": state.ready,
        "uptime": format_duration(state.now_s - state.started_at_s),
        "since_update": format_age(state.now_s, newest_s) if newest_s else "Never updated",
    }


def _errors(view: GatewayView) -> list[list[str]]:
    """Pairs of subject and text, as in Ambassador; an empty list if there is no error."""
    return [[_subject(problem), _sentence(problem)] for problem in view.errors]


def _notices(view: GatewayView) -> list[Json]:
    return [{"level": "NOTICE", "message": f"{_subject(problem)}: {_sentence(problem)}"} for problem in view.notices]


def _problems(view: GatewayView) -> list[Json]:
    return [
        {
            "severity": str(problem.severity),
            "object": str(problem.object) if problem.object else "",
            "where": problem.where,
            "path": problem.path,
            "message": problem.message,
        }
        for problem in (*view.errors, *view.notices)
    ]


def _cluster_info(view: GatewayView) -> Json:
    return {cluster.cluster.name: _cluster(cluster) for cluster in view.clusters}


def _cluster(view: ClusterView) -> Json:
    cluster = view.cluster
    return {
        "name": cluster.name,
        "service": str(cluster.service),
        "_hostname": cluster.service.hostname or cluster.service.name,
        "_namespace": cluster.service.namespace,
        "_port": cluster.service.port,
        "_resolver": cluster.resolver_name,
        "_hcolor": str(view.health),
        "_health": view.health_in_words,
        "_hmetric": show_health_share(view),
        "type": str(cluster.resolver),
        "resolved": view.resolved,
        "error": view.error,
        "targets": [{"ip": ip, "port": port, "target_kind": "IPaddr"} for ip, port in map(_split, view.pods)],
    }


def _cluster_stats(view: GatewayView) -> Json:
    return {
        cluster.cluster.name: {
            "valid": cluster.success_share is not None,
            "health": cluster.health_in_words,
            "hmetric": show_health_share(cluster),
            "hcolor": str(cluster.health),
            "reason": cluster.error,
        }
        for cluster in view.clusters
    }


def _tlscontexts(view: GatewayView) -> list[Json]:
    """Names only: neither chains nor keys."""
    return [
        {"name": certificate.name, "hosts": list(certificate.hosts), "expires": _iso(certificate.not_after_s)}
        for certificate in view.state.snapshot.certificates
    ]


def _pods(view: GatewayView) -> Json:
    return {cluster.cluster.name: [_pod(pod) for pod in cluster.pods] for cluster in view.clusters}


def _pod(pod: PodView) -> Json:
    return {
        "address": pod.address,
        "name": pod.name,
        "zone": pod.zone,
        "state": pod.state,
        "states": {str(state): workers for state, workers in sorted(pod.states.items())},
        "in_flight": pod.in_flight,
        "total": pod.total,
        "failures": pod.failures,
        "latency_mean_ms": pod.latency_mean_ms,
        "last_error": pod.last_error,
        "note": pod.note,
    }


def _workers(view: GatewayView) -> list[Json]:
    return [
        {
            "worker": worker.worker,
            "pid": worker.pid,
            "engine": worker.engine,
            "configuration_version": worker.snapshot_version,
            "uptime_s": _age_s(view.state.now_s, worker.started_at_s),
            "restarts": worker.restarts,
            "retries": sum(worker.events.retries.values()),
            "handshake_failures": dict(sorted(worker.handshake_failures.items())),
            "in_flight": sum(method.in_flight for method in worker.methods),
        }
        for worker in view.state.workers
    ]


def _sources(view: GatewayView) -> list[Json]:
    return [
        {
            "name": source.name,
            "synced": source.synced,
            "watching": source.watching,
            "age_s": _age_s(view.state.now_s, source.last_contact_s),
            "error": source.error,
        }
        for source in view.state.sources
    ]


def _key_sets(view: GatewayView) -> list[Json]:
    return [
        {
            "url": one.name,
            "keys": [key.kid for key in one.keys],
            "fetched_at": _iso(one.fetched_at_s),
            "age_s": _age_s(view.state.now_s, one.fetched_at_s),
            "failures": one.failures,
            "early_fetches": one.early,
            "error": one.fault,
            "last_error": one.last_fault,
            "failed_at": _iso(one.failed_at_s),
        }
        for one in view.state.key_sets
    ]


def _listeners(view: GatewayView) -> list[Json]:
    return [
        {"address": listener.address, "protocol": listener.protocol, "detail": listener.detail}
        for listener in view.state.listeners
    ]


_RENDERERS: Mapping[str, Callable[[GatewayView], object]] = {
    "system": _system,
    "envoy_status": _envoy_status,
    "errors": _errors,
    "notices": _notices,
    "problems": _problems,
    "route_info": render_routes,
    "cluster_info": _cluster_info,
    "cluster_stats": _cluster_stats,
    "ambassador_resolvers": render_resolvers,
    "ambassador_services": render_services,
    "groups": render_groups,
    "tlscontexts": _tlscontexts,
    "pods": _pods,
    "workers": _workers,
    "sources": _sources,
    "key_sets": _key_sets,
    "listeners": _listeners,
}

DIAGNOSTICS_KEYS = tuple(_RENDERERS)


def _subject(problem: Problem) -> str:
    return str(problem.object) if problem.object else problem.where


def _sentence(problem: Problem) -> str:
    path = f"{problem.path}: " if problem.path else ""
    return f"{path}{problem.message} ({problem.where})"


def _split(pod: PodView) -> tuple[str, int]:
    ip, _, port = pod.address.rpartition(":")
    return ip.strip("[]"), int(port)


def _iso(time_s: float) -> str | None:
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds") if time_s else None


def _age_s(now_s: float, then_s: float) -> float | None:
    """None: never."""
    return max(0.0, now_s - then_s) if then_s else None
