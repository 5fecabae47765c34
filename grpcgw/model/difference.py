"""Differences between snapshots, so that a change of one Mapping among thousands is small to send.

Pure. A route is unchanged if it is the same in memory, which costs nothing to check: the compiler reuses
routes that did not change. An equal route that is another object is sent again, which only costs time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from grpcgw.errors import GrpcgwError
from grpcgw.model.cluster import Cluster
from grpcgw.model.route import Route
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot


class WrongBase(GrpcgwError):
    """A difference was applied to another snapshot than its base."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Changes from one snapshot, the base, to another. From EMPTY_SNAPSHOT it is the whole snapshot and fits any
    base."""

    base: str
    """Version of the base."""
    rest: Snapshot
    """The new snapshot without its routes and clusters."""
    routes: tuple[range | tuple[Route, ...], ...]
    """All routes in their order, in pieces: a range of the base's, or new ones."""
    clusters: Mapping[str, Cluster]
    """Clusters that are new or differ from the base."""
    gone: tuple[str, ...]
    """Names of clusters that only the base has."""

    def is_whole(self) -> bool:
        return self.base == EMPTY_SNAPSHOT.version


def find_difference(base: Snapshot, snapshot: Snapshot) -> Difference:
    return Difference(
        base.version,
        replace(snapshot, routes=(), clusters={}),
        _cut(base.routes, snapshot.routes),
        {name: one for name, one in snapshot.clusters.items() if base.clusters.get(name) is not one},
        tuple(name for name in base.clusters if name not in snapshot.clusters),
    )


def _cut(base: tuple[Route, ...], routes: tuple[Route, ...]) -> tuple[range | tuple[Route, ...], ...]:
    places = {id(route): place for place, route in enumerate(base)}

    def shift(numbered: tuple[int, Route]) -> int | None:
        """By how many places the route moved: equal for neighbours that moved together; None: it is new."""
        place = places.get(id(numbered[1]))
        return None if place is None else place - numbered[0]

    pieces: list[range | tuple[Route, ...]] = []
    for moved, run in groupby(enumerate(routes), shift):
        numbered = list(run)
        first = numbered[0][0]
        if moved is None:
            pieces.append(tuple(route for _, route in numbered))
        else:
            pieces.append(range(first + moved, first + moved + len(numbered)))
    return tuple(pieces)


def apply_difference(base: Snapshot, difference: Difference) -> Snapshot:
    """The new snapshot, which shares with `base` what did not change. Raises WrongBase."""
    if difference.is_whole():
        base = EMPTY_SNAPSHOT
    if difference.base != base.version:
        raise WrongBase(f"the difference is from configuration {difference.base}, not from {base.version}")
    routes: list[Route] = []
    for piece in difference.routes:
        routes += base.routes[piece.start : piece.stop] if isinstance(piece, range) else piece
    clusters = {**base.clusters, **difference.clusters}
    for name in difference.gone:
        del clusters[name]
    return replace(difference.rest, routes=tuple(routes), clusters=clusters)
