"""The evaluation order of routes: the rank of each, whatever dialect it comes from.

The rules are Ambassador's (`_route_weight`): precedence, length of the path, length of all conditions, then text.
"""

from __future__ import annotations

from typing import NamedTuple

from grpcgw.model.match import HostKind, MatchKind
from grpcgw.model.route import Route

_KIND_ORDER = {MatchKind.PREFIX: 0, MatchKind.REGEX: 1, MatchKind.EXACT: 2}


class RouteRank(NamedTuple):
    """Compared field by field; the route with the greatest rank is tried first."""

    precedence: int
    path_length: int
    conditions_length: int
    """Characters of all header conditions; the host counts as a condition on `:authority`."""
    path: str
    conditions: tuple[tuple[str, str], ...]
    kind: int
    """An exact path is tried before a regex, and a regex before a prefix."""


def rank_route(route: Route) -> RouteRank:
    text = route.match.value
    if not route.headers and route.host is None:  # as most are
        return RouteRank(route.precedence, len(text), 0, text, (), _KIND_ORDER[route.match.kind])
    headers = tuple((match.name, match.exact or match.regex or "*") for match in route.headers)
    length = sum(len(name) + len(value) for name, value in headers) + sum(
        match.regex is not None for match in route.headers
    )
    if route.host is not None:
        host = str(route.host)
        length += len(":authority") + len(host) + (route.host.kind is HostKind.REGEX)
        headers = (*headers, (":authority", host))
    return RouteRank(route.precedence, len(text), length, text, headers, _KIND_ORDER[route.match.kind])
