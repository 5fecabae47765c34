"""Reuse of compiled Mappings, routes and clusters from one compilation to the next.

Without it the result is the same, only slower. An object is unchanged if it is the same in memory, which is free to
check: stores keep objects that did not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grpcgw.ambassador.compile.grouping import GroupKey, GroupMember, make_route
from grpcgw.ambassador.compile.mappings import CompiledMapping, MappingContext, compile_mapping
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.cluster import Cluster
from grpcgw.model.content_hash import digest
from grpcgw.model.objects import KubeObject, Problem
from grpcgw.model.route_order import rank_route
from grpcgw.model.route_source import ClusterCandidate, Reuse, RouteCandidate


@dataclass(frozen=True, slots=True)
class _ReadMapping:
    obj: KubeObject
    """Held, so that its id() stays its own."""
    compiled: CompiledMapping | None
    problems: tuple[Problem, ...]
    rejected: bool


@dataclass(frozen=True, slots=True)
class _MadeRoute:
    members: tuple[GroupMember, ...]
    candidate: RouteCandidate


@dataclass(frozen=True, slots=True)
class MappingReuse(Reuse):
    """Passed from one compilation to the next."""

    context: MappingContext | None = None
    mappings: Mapping[int, _ReadMapping] = field(default_factory=dict)
    routes: Mapping[GroupKey, _MadeRoute] = field(default_factory=dict)
    clusters: Mapping[str, ClusterCandidate] = field(default_factory=dict)


NO_MAPPINGS_TO_REUSE = MappingReuse()


class MappingReader:
    """Compiles the Mappings of one compilation, each at most once."""

    def __init__(self, context: MappingContext, earlier: MappingReuse) -> None:
        self._context = context
        self._earlier = earlier.mappings if earlier.context == context else {}
        self._earlier_routes, self._earlier_clusters = earlier.routes, earlier.clusters
        self._read: dict[int, _ReadMapping] = {}
        self._made: dict[GroupKey, _MadeRoute] = {}
        self._clusters: dict[str, ClusterCandidate] = {}

    def read(self, obj: KubeObject, findings: Findings) -> CompiledMapping | None:
        """As `compile_mapping`."""
        known = self._read.get(id(obj)) or self._earlier.get(id(obj))
        if known is None:
            compiled = compile_mapping(obj, self._context, findings)
            known = _ReadMapping(obj, compiled, tuple(findings.problems), findings.rejected)
        else:
            findings.problems += known.problems
            findings.rejected = known.rejected
        self._read[id(obj)] = known
        return known.compiled

    def make_route(self, group: GroupKey, members: Sequence[GroupMember]) -> RouteCandidate | None:
        """None: the group has shadows only."""
        made = self._earlier_routes.get(group)
        if made is None or not _are_same(made.members, members):
            route = make_route(members)
            if route is None:
                return None
            made = _MadeRoute(tuple(members), RouteCandidate(route, rank_route(route), digest(route)))
        self._made[group] = made
        return made.candidate

    def digest_cluster(self, cluster: Cluster) -> ClusterCandidate:
        known = self._earlier_clusters.get(cluster.name)
        if known is None or known.cluster is not cluster:
            known = ClusterCandidate(cluster, digest(cluster))
        self._clusters[cluster.name] = known
        return known

    def finish(self) -> MappingReuse:
        return MappingReuse(self._context, self._read, self._made, self._clusters)


def _are_same(some: Sequence[GroupMember], others: Sequence[GroupMember]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
