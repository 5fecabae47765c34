"""What one compilation can take over from the one before: Mappings that were read already, and their routes.

Pure and never needed: without it the result is the same, only later. An object is the same if it is the same in
memory, which costs nothing to find out; stores keep objects that did not change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from grpcgw.ambassador.compile.grouping import Candidate, GroupKey, Rank, make_route, rank_route
from grpcgw.ambassador.compile.mappings import CompiledMapping, MappingContext, compile_mapping
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.cluster import Cluster
from grpcgw.model.objects import KubeObject, Problem
from grpcgw.model.route import Route
from grpcgw.model.version import digest


@dataclass(frozen=True, slots=True)
class _ReadMapping:
    obj: KubeObject
    """Held, so that its id() stays its own."""
    compiled: CompiledMapping | None
    problems: tuple[Problem, ...]
    rejected: bool


@dataclass(frozen=True, slots=True)
class MadeRoute:
    members: tuple[Candidate, ...]
    route: Route
    digest: bytes
    rank: Rank


@dataclass(frozen=True, slots=True)
class Reuse:
    """Handed from one compilation to the next."""

    context: MappingContext | None = None
    mappings: Mapping[int, _ReadMapping] = field(default_factory=dict)
    routes: Mapping[GroupKey, MadeRoute] = field(default_factory=dict)
    clusters: Mapping[str, tuple[Cluster, bytes]] = field(default_factory=dict)
    """With their digests."""


NOTHING_TO_REUSE = Reuse()


class MappingReader:
    """Reads the Mappings of one compilation, each but once."""

    def __init__(self, context: MappingContext, earlier: Reuse) -> None:
        self._context = context
        self._earlier = earlier.mappings if earlier.context == context else {}
        self._earlier_routes, self._earlier_clusters = earlier.routes, earlier.clusters
        self._read: dict[int, _ReadMapping] = {}
        self._made: dict[GroupKey, MadeRoute] = {}
        self._clusters: dict[str, tuple[Cluster, bytes]] = {}

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

    def make_route(self, group: GroupKey, members: Sequence[Candidate]) -> MadeRoute | None:
        """None: there are shadows alone."""
        made = self._earlier_routes.get(group)
        if made is None or not _are_same(made.members, members):
            route = make_route(members)
            if route is None:
                return None
            made = MadeRoute(tuple(members), route, digest(route), rank_route(route))
        self._made[group] = made
        return made

    def digest_cluster(self, cluster: Cluster) -> bytes:
        known = self._earlier_clusters.get(cluster.name)
        if known is None or known[0] is not cluster:
            known = (cluster, digest(cluster))
        self._clusters[cluster.name] = known
        return known[1]

    def finish(self) -> Reuse:
        return Reuse(self._context, self._read, self._made, self._clusters)


def _are_same(some: Sequence[Candidate], others: Sequence[Candidate]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))
