"""Which Route a path belongs to: the first match in evaluation order, found without walking the order.

Built once per snapshot and read by any number of threads. Knows paths only; weights are `split`'s business.
"""

from __future__ import annotations

from collections.abc import Iterable

from grpcgw.config.regex import PathRegex
from grpcgw.config.snapshot import MatchKind, Route

_CACHE_ENTRIES = 4096
_CACHED_PATH_LENGTH = 256
"""Together with the entries this bounds the cache to about 2 MB."""


class RouteTable:
    """Routes in evaluation order, indexed. A rank is a place in that order: the lowest match wins.

    Raises InvalidRegex for a pattern the compiler would not have let pass.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._exact: dict[str, int] = {}
        self._regexes: list[tuple[int, PathRegex]] = []
        by_length: dict[int, dict[str, int]] = {}
        for rank, route in enumerate(self._routes):
            text = route.match.value
            match route.match.kind:
                case MatchKind.EXACT:
                    self._exact.setdefault(text, rank)
                case MatchKind.PREFIX:
                    by_length.setdefault(len(text), {}).setdefault(text, rank)
                case MatchKind.REGEX:
                    self._regexes.append((rank, PathRegex(text)))
        # Lowest rank first, so that the search can end as soon as a better one is in hand. Without precedence that is
        # longest first, and the first hit ends it.
        self._prefixes = sorted((min(ranks.values()), length, ranks) for length, ranks in by_length.items())
        self._cache: dict[str, Route] = {}

    def match(self, path: str) -> Route | None:
        """The first Route in evaluation order that matches `path` (`/package.Service/Method`), or None.

        Only hits are remembered. Threads share the cache without a lock: each operation on it is atomic, and a lost
        entry costs one search.
        """
        route = self._cache.get(path)
        if route is None:
            route = self._search(path)
            if route is not None and len(path) <= _CACHED_PATH_LENGTH:
                self._remember(path, route)
        return route

    def _remember(self, path: str, route: Route) -> None:
        # Paths are the client's choice, so whoever floods the cache must not freeze it: start anew.
        if len(self._cache) >= _CACHE_ENTRIES:
            self._cache.clear()
        self._cache[path] = route

    def _search(self, path: str) -> Route | None:
        none = len(self._routes)
        best = self._exact.get(path, none)
        for lowest, length, ranks in self._prefixes:
            if lowest >= best:
                break
            best = min(best, ranks.get(path[:length], none))
        for rank, regex in self._regexes:
            if rank >= best:
                break
            if regex.matches(path):
                best = rank
        return self._routes[best] if best < none else None
