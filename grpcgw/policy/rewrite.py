"""Path rewriting: `rewrite` and `regex_rewrite`, compiled once to a callable. Pure."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.regex import Replacement, remember
from grpcgw.model.route import Destination

RewritePath = Callable[[str], str]


def compile_rewrite(match: PathMatch, destination: Destination) -> RewritePath | None:
    """The rewrite of paths that `match` on their way to `destination`; None: unchanged. Raises InvalidRegex.

    `regex_rewrite` takes precedence and replaces every match in the path; `rewrite` replaces the part that the route
    matched, and does not apply to a regular expression.
    """
    regex = destination.regex_rewrite
    if regex is not None:
        return remember(Replacement(regex.pattern, regex.substitution).apply)
    rewrite, matched = destination.rewrite, len(match.value)
    if rewrite is None or match.kind is MatchKind.REGEX:
        return None
    return lambda path: rewrite + path[matched:]
