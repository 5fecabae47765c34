"""A snapshot bound to its clusters: match tables, Host rules and Targets. Immutable; swapped as a whole.

Pure: `bind` builds it once per snapshot; RPCs read it.
"""

from __future__ import annotations

from collections.abc import Mapping

from grpcgw.model.host_policy import Selectors
from grpcgw.model.metadata import Metadata
from grpcgw.model.route import Route
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.routing.host_rules import compile_rules
from grpcgw.routing.table import RouteTable
from grpcgw.routing.targets import RouteTargets


class RoutingSnapshot:
    """One snapshot, ready for look-ups."""

    __slots__ = ("_by_route", "_routes", "_selected", "rules", "snapshot")

    def __init__(
        self, snapshot: Snapshot, selected: Mapping[Selectors, RouteTable], by_route: Mapping[int, RouteTargets]
    ) -> None:
        """`selected`: a match table for each selection of the Hosts; `()` is all routes. `by_route`: the targets of
        each Route by its id()."""
        self.snapshot = snapshot
        self.rules = compile_rules(snapshot)
        """Restrictions that Hosts put on RPCs; None: there are none."""
        self._routes, self._selected = selected[()], selected
        self._by_route = by_route  # by id(): the snapshot keeps the routes alive, and hashing one costs microseconds

    def find(self, path: str, authority: str, metadata: Metadata, selectors: Selectors = ()) -> RouteTargets | None:
        """The targets of the first Route that matches; None if no Route matches."""
        routes = self._selected[selectors] if selectors else self._routes
        route = routes.match(path, authority, metadata)
        return None if route is None else self._by_route[id(route)]

    def find_bound(self, route: Route) -> RouteTargets | None:
        """The targets of this very Route object; None: it is not in this snapshot."""
        return self._by_route.get(id(route))


NO_ROUTES = RoutingSnapshot(EMPTY_SNAPSHOT, {(): RouteTable(())}, {})
