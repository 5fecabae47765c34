"""The path as a pod gets it: `rewrite` and `regex_rewrite` of a Mapping, worked out once per snapshot. Pure."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.config.regex import Replacement
from grpcgw.config.snapshot import Destination, MatchKind, Route

Rewrite = Callable[[str], str]


def make_rewrite(route: Route, destination: Destination) -> Rewrite | None:
    """From the client's path to the pod's; None leaves every path alone.

    A `rewrite` takes the place of the matched prefix, whatever its case was. `regex_rewrite` wins over it and replaces
    each match of its pattern. Raises InvalidRegex for a pattern the compiler would not have let pass.
    """
    regex, prefix = destination.regex_rewrite, destination.rewrite
    if regex is not None:
        return Replacement(regex.pattern, regex.substitution).apply
    if prefix is None or route.match.kind is MatchKind.REGEX or (prefix == route.match.value and route.case_sensitive):
        return None
    length = len(route.match.value)
    return lambda path: prefix + path[length:]
