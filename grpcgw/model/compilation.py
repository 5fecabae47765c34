"""Compiles objects with every dialect, and merges their results into one Snapshot with its version. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter

from grpcgw.model.cluster import Cluster
from grpcgw.model.content_hash import digest, hash_content
from grpcgw.model.environment import hide
from grpcgw.model.listener import Listener
from grpcgw.model.objects import FieldPath, KubeObject, ObjectKey, Problem, Severity, make_problem
from grpcgw.model.reach import UNREACHED, Reach
from grpcgw.model.route import PolicySettings
from grpcgw.model.route_source import (
    NOTHING_TO_REUSE,
    ClusterCandidate,
    Compiled,
    CompileOptions,
    GatewaySettings,
    ObjectsByKey,
    Reuse,
    RouteCandidate,
    RouteSource,
    RouteSourceResult,
)
from grpcgw.model.snapshot import Snapshot


def compile_configuration(
    sources: Sequence[RouteSource],
    objects: Iterable[KubeObject],
    last_good: ObjectsByKey,
    options: CompileOptions,
    reuse: Mapping[str, Reuse] = NOTHING_TO_REUSE,
) -> Compiled:
    """Compile the objects with all dialects. The order of `objects` does not matter; their keys are unique."""
    by_key = {obj.key: obj for obj in objects}
    results = [source.compile(by_key, last_good, options, reuse.get(source.name)) for source in sources]
    snapshot, conflicts = merge_results(results, options.policies)
    unreached = _find_unreached(snapshot, by_key, {kind: one.host_path for one in sources for kind in one.route_kinds})
    problems = [*(problem for result in results for problem in result.problems), *conflicts, *unreached]
    return Compiled(
        snapshot,
        tuple(_hide_filled(sorted(problems, key=_object_order), by_key.values())),
        {key: obj for result in results for key, obj in result.last_good.items()},
        {
            source.name: result.reuse
            for source, result in zip(sources, results, strict=True)
            if result.reuse is not None
        },
    )


def merge_results(
    results: Sequence[RouteSourceResult], policies: tuple[PolicySettings, ...] = ()
) -> tuple[Snapshot, list[Problem]]:
    """One Snapshot of the results, and the problems of what does not fit together.

    If two dialects have a cluster of one name with other contents, the first counts, and RPCs of the second's routes to
    it are refused; so are those of a second route of one name. Of two Listeners with one port the first is opened.
    Raises ValueError if two have GatewaySettings.
    """
    clusters, problems = dict[str, ClusterCandidate](), list[Problem]()
    candidates: list[RouteCandidate] = []
    for result in results:
        differing = _add_clusters(clusters, result.clusters)
        candidates += _close_routes_to(differing, result.routes, problems) if differing else result.routes
    if len(results) > 1:  # a dialect's own names are unique
        candidates = _with_unique_names(candidates, problems)
    candidates.sort(key=attrgetter("rank"), reverse=True)
    listeners = _merge_listeners(results, problems)
    settings = _choose_settings(results)
    version = hash_content(
        [
            *(candidate.digest for candidate in candidates),
            *(clusters[name].digest for name in sorted(clusters)),
            digest((listeners, settings, policies) if policies else (listeners, settings)),
        ]
    )
    snapshot = Snapshot(
        version,
        routes=tuple([candidate.route for candidate in candidates]),
        clusters={name: candidate.cluster for name, candidate in clusters.items()},
        certificates=settings.certificates,
        listeners=listeners,
        hosts=settings.hosts,
        access_log=settings.access_log,
        clients=settings.clients,
        policies=policies,
        client_idle_timeout_ms=settings.client_idle_timeout_ms,
        rate_limits=settings.rate_limits,
    )
    return snapshot, problems


def _add_clusters(known: dict[str, ClusterCandidate], added: Iterable[ClusterCandidate]) -> set[str]:
    """The names of those that are known with other contents."""
    differing = set()
    for candidate in added:
        cluster = candidate.cluster
        first = known.setdefault(cluster.name, candidate).cluster
        if first is not cluster and not _are_equal(first, cluster):
            differing.add(cluster.name)
    return differing


def _are_equal(one: Cluster, other: Cluster) -> bool:
    """The same clusters regardless of the name of their resolver object."""
    return one == replace(other, resolver_name=one.resolver_name)


def _close_routes_to(
    clusters: set[str], routes: Iterable[RouteCandidate], problems: list[Problem]
) -> Iterable[RouteCandidate]:
    """Refuse the RPCs of the routes to any of `clusters`."""
    for candidate in routes:
        used = (*candidate.route.all_destinations(), *candidate.route.policy_upstreams())
        lost = [one.cluster for each in used for one in each.clusters if one.cluster in clusters]
        if lost:
            why = f"cluster {lost[0]} has other settings in another dialect"
            yield _close(candidate, candidate.route.name, why, problems)
        else:
            yield candidate


def _with_unique_names(candidates: Iterable[RouteCandidate], problems: list[Problem]) -> list[RouteCandidate]:
    """Refuse the RPCs of routes whose name another dialect has too: statistics and xDS would mix the two up."""
    unique: dict[str, RouteCandidate] = {}
    for candidate in candidates:
        name, number = candidate.route.name, 2
        while name in unique:
            name, number = f"{candidate.route.name} ({number})", number + 1
        if name != candidate.route.name:
            why = f"the name of its route, {candidate.route.name}, is taken by a route of another dialect"
            unique[name] = _close(candidate, name, why, problems)
        else:
            unique[name] = candidate
    return list(unique.values())


def _close(candidate: RouteCandidate, name: str, why: str, problems: list[Problem]) -> RouteCandidate:
    """The route with `name` and without destinations: its RPCs are refused, and no other route gets them."""
    route = candidate.route
    problems += [
        Problem(Severity.ERROR, f"{why}; its calls are refused", one.where, one.key) for one in route.all_destinations()
    ]
    objects = ", ".join(str(one.key) for one in route.all_destinations())
    left_out = route.left_out or f"{objects or name}: {why}"
    closed = replace(route, name=name, destinations=(), shadow=None, unrouted_weight=1, left_out=left_out)
    return RouteCandidate(closed, candidate.rank, digest(closed))


def _merge_listeners(results: Iterable[RouteSourceResult], problems: list[Problem]) -> tuple[Listener, ...] | None:
    """In the order of their ports."""
    given = [result.listeners for result in results if result.listeners is not None]
    if len(given) < 2:
        return given[0] if given else None
    by_port: dict[int, Listener] = {}
    for listener in (listener for listeners in given for listener in listeners):
        first = by_port.setdefault(listener.port, listener)
        if first is not listener:
            message = f"{listener.name}: port {listener.port} is taken by {first.name}; left out"
            problems.append(Problem(Severity.ERROR, message, listener.name))
    return tuple(by_port[port] for port in sorted(by_port))


def _choose_settings(results: Iterable[RouteSourceResult]) -> GatewaySettings:
    given = [result.settings for result in results if result.settings is not None]
    if len(given) > 1:
        raise ValueError("two dialects have settings of the whole gateway")
    return given[0] if given else GatewaySettings()


def _find_unreached(snapshot: Snapshot, objects: ObjectsByKey, host_paths: Mapping[str, FieldPath]) -> list[Problem]:
    """A notice for each object whose routes no RPC reaches, unless another problem reports it."""
    reach = Reach(snapshot)
    reasons: dict[ObjectKey, set[str]] = {}
    for route in snapshot.routes:
        for destination in route.all_destinations():
            reasons.setdefault(destination.key, set()).add(reach.find_refusal(route, destination))
    return [
        make_problem(
            objects[key], Severity.NOTICE, f"serves no call: {', '.join(sorted(found))}", host_paths.get(key.kind, ())
        )
        for key, found in reasons.items()
        if found <= UNREACHED
    ]


def _hide_filled(problems: list[Problem], objects: Iterable[KubeObject]) -> list[Problem]:
    """Show texts filled in from the environment as they were written, in problems of any object."""
    filled = [one for obj in objects for _, one in obj.source.filled]
    if not filled:
        return problems
    return [replace(one, message=hide(one.message, filled), path=hide(one.path, filled)) for one in problems]


def _object_order(problem: Problem) -> tuple[str, str, str]:
    key = problem.object
    return (key.kind, key.namespace, key.name) if key else ("", "", "")
