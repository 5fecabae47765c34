"""What one snapshot has that another has not, so that one change among thousands of Mappings costs little to tell.

Pure. A route is unchanged if it is the same in memory, which costs nothing to find out: the compiler hands on what did
not change (`reuse`). One that is equal but another object is told again, which costs time and nothing else.
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
    """A difference says nothing about the snapshot it was to be applied to."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How to make one snapshot of another, the base. From EMPTY_SNAPSHOT it is the whole, and fits every base."""

    base: str
    """Version of the base."""
    rest: Snapshot
    """The new snapshot without its routes and clusters."""
    routes: tuple[range | tuple[Route, ...], ...]
    """All routes in their order, in pieces: a range of the base's, or new ones."""
    clusters: Mapping[str, Cluster]
    """Those that are new, or other than in the base."""
    gone: tuple[str, ...]
    """Names of the base's clusters that are no more."""

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
        """How far the route has moved, alike for neighbours that moved together; None: it is new."""
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
        raise WrongBase(f"this is what changed since configuration {difference.base}, not since {base.version}")
    routes: list[Route] = []
    for piece in difference.routes:
        routes += base.routes[piece.start : piece.stop] if isinstance(piece, range) else piece
    clusters = {**base.clusters, **difference.clusters}
    for name in difference.gone:
        del clusters[name]
    return replace(difference.rest, routes=tuple(routes), clusters=clusters)
