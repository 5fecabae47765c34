"""Selects the Routes of a Host with a `mappingSelector`: those of the Mappings whose labels match.

Pure. Computed once per snapshot for each distinct selection.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from grpcgw.model.host_policy import Selectors
from grpcgw.model.route import Destination, Route
from grpcgw.model.snapshot import Snapshot


def find_selections(snapshot: Snapshot) -> frozenset[Selectors]:
    """The distinct selections of the Hosts of a snapshot."""
    ports = (listener.hosts for listener in snapshot.listeners or ())
    return frozenset(policy.selectors for policies in (snapshot.hosts, *ports) for policy in policies) - {()}


def select_routes(routes: Iterable[Route], selectors: Selectors) -> tuple[Route, ...]:
    """The Routes with only those Mappings that one of `selectors` matches; the same Route object where all match.

    Redirect Routes stay: they refuse their RPCs."""
    selected = (_select(route, frozenset(selectors)) for route in routes)
    return tuple(route for route in selected if route is not None)


def _select(route: Route, selectors: frozenset[object]) -> Route | None:
    kept = tuple(one for one in route.destinations if not selectors.isdisjoint(one.selected_by))
    if route.destinations and not kept:
        return None
    shadow = route.shadow
    if shadow is not None and selectors.isdisjoint(shadow.selected_by):
        shadow = None
    if len(kept) == len(route.destinations) and shadow is route.shadow:
        return route
    return replace(route, destinations=_share(kept, route.destinations), shadow=shadow)


def _share(kept: Collection[Destination], whole: Collection[Destination]) -> tuple[Destination, ...]:
    """`kept` with the shares of the other destinations divided among them, in proportion."""
    total, left = (sum(one.weight for one in some) for some in (whole, kept))
    if not left:
        return tuple(kept)
    shares = [one.weight * total // left for one in kept]
    shares[-1] += total - sum(shares)
    return tuple(replace(one, weight=share) for one, share in zip(kept, shares, strict=True))
