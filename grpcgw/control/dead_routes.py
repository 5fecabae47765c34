"""Finds routes that cannot serve although their Mappings are valid, and policies whose servers cannot: no such Service
or port, no pod that answers.

Pure: from the snapshot, the endpoint sets, and the connection states that workers report. The control process checks
whenever one of these changes; `grpcgw check` checks what files alone can tell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

from grpcgw.discovery.resolvers.kubernetes_endpoints import EndpointsResolver
from grpcgw.discovery.store import ObjectStore
from grpcgw.logs import count
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.endpoints import EndpointSet, PodState
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.route import Destination
from grpcgw.model.snapshot import Snapshot
from grpcgw.telemetry.report import PodReport, WorkerReport

MOST_NAMED_PODS = 3
"""Pods named in one problem."""

Objects = Mapping[ObjectKey, KubeObject]


def find_dead_routes(
    snapshot: Snapshot, endpoints: Mapping[str, EndpointSet], workers: Iterable[WorkerReport], objects: Objects
) -> tuple[Problem, ...]:
    """One problem for each Mapping without pods, or with pods that cannot be connected to, where the cause is known;
    and for each object whose policies ask such a service, as an AuthService.

    An error if no RPC gets through, a notice if fewer pods serve than should. Pods that are not ready yet are no
    problem. `endpoints`: by cluster. `objects`: where the Mappings are written.
    """
    failing = _find_failing(workers)
    judged = {name: _judge(endpoints[name], failing.get(name, {})) for name in snapshot.clusters if name in endpoints}
    bad = {name: verdict for name, verdict in judged.items() if verdict}
    if not bad:  # nearly always: saves a walk over thousands of Mappings
        return ()
    return tuple(
        _blame(destination, severity, message, objects)
        for destination, cluster in _destinations(snapshot)
        for severity, message in bad.get(cluster, ())
    )


def find_dead_in_files(
    snapshot: Snapshot, files: Collection[KubeObject], objects: Objects, origin: str
) -> tuple[Problem, ...]:
    """As `find_dead_routes`, by `files` alone: for Mappings whose resolver reads endpoints.

    If the files have no Service at all, they belong to a cluster that is not read: one notice at `origin` says so.
    """
    clusters = {
        name: cluster
        for name, cluster in snapshot.clusters.items()
        if cluster.resolver is ResolverKind.KUBERNETES_ENDPOINT
    }
    if clusters and not any(obj.key.kind == "Service" for obj in files):
        named = count(len(clusters), "Service") + (" is" if len(clusters) == 1 else " are")
        message = f"{named} named by Mappings and none is in the files: it was not checked whether they exist"
        return (Problem(Severity.NOTICE, message, origin),)
    return find_dead_routes(snapshot, _resolve(clusters, files), (), objects)


def _resolve(clusters: Mapping[str, Cluster], files: Iterable[KubeObject]) -> dict[str, EndpointSet]:
    store, found = ObjectStore(), dict[str, EndpointSet]()
    store.replace("files", files)
    resolver = EndpointsResolver(store)
    for name, cluster in clusters.items():
        resolver.watch(cluster, lambda endpoints, name=name: found.update({name: endpoints}))  # type: ignore[misc]
    return found


def _destinations(snapshot: Snapshot) -> Iterator[tuple[Destination, str]]:
    """Each Mapping, and what its policies ask, once with each of its clusters."""
    every = (each for route in snapshot.routes for each in (*route.all_destinations(), *route.policy_upstreams()))
    pairs = ((destination, one.cluster) for destination in every for one in destination.clusters)
    return iter({(destination.key, cluster): (destination, cluster) for destination, cluster in pairs}.values())


def _judge(known: EndpointSet, failing: Mapping[str, str]) -> list[tuple[Severity, str]]:
    found = []
    if known.error and known.endpoints:
        found.append((Severity.NOTICE, known.error))
    elif known.error:
        found.append((Severity.ERROR, known.error))
    bad = [address for address in map(str, known.endpoints) if address in failing] if failing else []
    if bad:
        named = ", ".join(f"{address} ({failing[address]})" for address in bad[:MOST_NAMED_PODS])
        more = ", …" if len(bad) > MOST_NAMED_PODS else ""
        which = f"{len(bad)} of {count(len(known.endpoints), 'pod')}"
        severity = Severity.ERROR if len(bad) == len(known.endpoints) else Severity.NOTICE
        found.append((severity, f"{which} cannot be connected to: {named}{more}"))
    return found


def _find_failing(workers: Iterable[WorkerReport]) -> dict[str, dict[str, str]]:
    """Why no worker can connect to a pod, by cluster and address."""
    reports: dict[tuple[str, str], list[PodReport]] = defaultdict(list)
    for worker in workers:
        for pod in worker.pods:
            reports[pod.cluster, pod.address].append(pod)
    failing: dict[str, dict[str, str]] = defaultdict(dict)
    for (cluster, address), pods in reports.items():
        if all(pod.state is PodState.FAILING for pod in pods):
            why = next((pod.last_error for pod in pods if pod.last_error), "")
            failing[cluster][address] = why or "no cause is known"
    return failing


_SERVICE_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Mapping": ("spec", "service"),
    "AuthService": ("spec", "auth_service"),
    "RateLimitService": ("spec", "service"),
}
"""By kind; others have it in one of several places."""


def _blame(destination: Destination, severity: Severity, message: str, objects: Objects) -> Problem:
    kind, obj = destination.key.kind, objects.get(destination.key)
    field = _SERVICE_FIELDS.get(kind, ("spec",))
    where = destination.where if obj is None else obj.source.locate(field)
    if severity is Severity.ERROR:
        message += "; its RPCs end UNAVAILABLE" if kind == "Mapping" else "; it gives no verdict on calls"
    return Problem(severity, message, where, destination.key, ".".join(field))
