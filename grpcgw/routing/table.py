"""Match table: finds the first Route in evaluation order that matches an RPC, without trying each.

Built once per snapshot and read by any number of threads. Routes are indexed by path, then by host, then by the
rarest exact header they require; only regexes and rare coincidences are tried one by one. `split` applies weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from string import ascii_lowercase, ascii_uppercase
from typing import TypeVar

from grpcgw.model.match import HostMatch, MatchKind, PathMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.regex import FullRegex
from grpcgw.model.route import Route
from grpcgw.routing.header_match import Condition, Values, as_text, bind, join_values
from grpcgw.routing.host_match import HostIndex

_CACHE_ENTRIES = 4096
_CACHED_LENGTH = 256
"""Of a path, and of an authority. Together with the entries this bounds a cache to about 2 MB."""

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_NEVER = 2**62
"""A rank behind all others. A rank is a place in the evaluation order: the lowest match wins."""


K = TypeVar("K")
V = TypeVar("V")


class RouteTable:
    """Routes in evaluation order, indexed.

    Raises InvalidRegex for a pattern that the compiler would have rejected.
    """

    def __init__(self, routes: Iterable[Route]) -> None:
        self._routes = tuple(routes)
        self._as_written, self._folded = _PathIndex(), _PathIndex()
        for rank, route in enumerate(self._routes):
            conditions = bind(route.headers) if route.headers else ()
            if conditions is not None:
                self._place(route).add(rank, route.host, conditions)
        self._folds = self._folded.seal()
        self._as_written.seal()
        self._by_path: dict[str, Route | tuple[_Candidates, ...]] = {}
        self._by_host: dict[tuple[str, str], _Narrowed] = {}

    def _place(self, route: Route) -> _Candidates:
        if route.case_sensitive:
            return self._as_written.at(route.match, case_sensitive=True)
        if route.match.kind is MatchKind.REGEX:
            return self._as_written.at(route.match, case_sensitive=False)
        return self._folded.at(PathMatch(route.match.kind, _fold(route.match.value)), case_sensitive=True)

    def match(self, path: str, authority: str = "", metadata: Metadata = ()) -> Route | None:
        """The first Route in evaluation order that matches, or None.

        `path` is `/package.Service/Method`; keys of `metadata` are lower case and may repeat. Only paths that
        some Route may match are cached. Threads share the caches without a lock: each operation on them is
        atomic, and a lost entry costs one search.
        """
        found = self._by_path.get(path)
        if found is None:
            found = self._search(path)
            if not found:
                return None
            if len(path) <= _CACHED_LENGTH:
                _remember(self._by_path, path, found)
        return found if isinstance(found, Route) else self._decide(found, path, authority, metadata)

    def _search(self, path: str) -> Route | tuple[_Candidates, ...]:
        """The candidates for `path`, best first; the Route itself where only the path matters."""
        found = list(self._as_written.matching(path))
        if self._folds:
            found += self._folded.matching(_fold(path))
        found.sort(key=_lowest)
        plain = min((candidates.plain for candidates in found), default=_NEVER)
        if found and plain <= found[0].lowest:
            return self._routes[plain]
        return tuple(candidates for candidates in found if candidates.lowest <= plain)

    def _decide(self, found: tuple[_Candidates, ...], path: str, authority: str, metadata: Metadata) -> Route | None:
        narrowed = self._by_host.get((path, authority))
        if narrowed is None:
            narrowed = _narrow(found, authority)
            if narrowed != _NOTHING and len(path) <= _CACHED_LENGTH and len(authority) <= _CACHED_LENGTH:
                _remember(self._by_host, (path, authority), narrowed)
        best, leaves = narrowed
        if leaves:
            values = join_values(metadata)
            for leaf in leaves:
                best = leaf.find(values, best)
        return self._routes[best] if best < _NEVER else None


def _remember(cache: dict[K, V], key: K, value: V) -> None:
    # Clients choose paths and hosts. A full cache is cleared, so that a flood does not keep others out of it.
    if len(cache) >= _CACHE_ENTRIES:
        cache.clear()
    cache[key] = value


def _narrow(found: Iterable[_Candidates], authority: str) -> _Narrowed:
    best, leaves = _NEVER, dict[_Leaf, None]()  # a host may match one leaf with its port and without
    for candidates in found:
        if candidates.lowest >= best:
            break
        best = min(best, candidates.plain)
        for leaf in candidates.hosts.matching(authority) if candidates.hosts is not None else ():
            best = min(best, leaf.plain)
            leaves[leaf] = None
    return best, tuple(leaf for leaf in leaves if leaf.lowest_conditional < best)


def _fold(text: str) -> str:
    return text.translate(_LOWER)


class _Entry:
    """One Route's rank and its conditions on metadata."""

    __slots__ = ("conditions", "rank")

    def __init__(self, rank: int, conditions: tuple[Condition, ...]) -> None:
        self.rank = rank
        self.conditions = conditions


class _Leaf:
    """The Routes of one path match and one host; they differ only in headers."""

    __slots__ = ("_by_value", "_entries", "_others", "lowest_conditional", "plain")

    def __init__(self) -> None:
        self.plain = self.lowest_conditional = _NEVER
        """Ranks of the first Routes without and with conditions on metadata."""
        self._entries: list[_Entry] = []
        self._by_value: dict[str, dict[str, list[_Entry]]] = {}
        self._others: list[_Entry] = []

    def add(self, entry: _Entry) -> None:
        """Entries must be added in the order of their ranks."""
        if not entry.conditions:
            self.plain = min(self.plain, entry.rank)
        elif entry.rank < self.plain:  # else it is hidden
            self._entries.append(entry)
            self.lowest_conditional = min(self.lowest_conditional, entry.rank)

    def seal(self) -> None:
        """Index each entry by the exact value that the fewest others require."""
        exact = [[one for one in entry.conditions if one.exact is not None] for entry in self._entries]
        wanted = Counter((one.name, one.exact) for conditions in exact for one in conditions)
        for entry, conditions in zip(self._entries, exact, strict=True):
            if conditions:
                rarest = min(conditions, key=lambda one: wanted[one.name, one.exact])
                self._by_value.setdefault(rarest.name, {}).setdefault(rarest.exact or "", []).append(entry)
            else:
                self._others.append(entry)

    def find(self, values: Values, best: int) -> int:
        """The lowest rank with conditions that hold, if lower than `best`; else `best`."""
        for name, by_value in self._by_value.items():
            value = values.get(name)
            if value is not None:
                best = _first(by_value.get(as_text(value), ()), values, best)
        return _first(self._others, values, best)


_Narrowed = tuple[int, tuple[_Leaf, ...]]
"""Candidates for a path and host: rank of the first Route without conditions, and leaves with Routes before it."""
_NOTHING: _Narrowed = (_NEVER, ())


def _first(entries: Iterable[_Entry], values: Values, best: int) -> int:
    for entry in entries:
        if entry.rank >= best:
            break
        for condition in entry.conditions:
            if not condition.holds(values):
                break
        else:  # all of them hold
            return entry.rank
    return best


class _Candidates:
    """The Routes of one path match. Most are one Route without other conditions: only its rank is kept."""

    __slots__ = ("hosts", "lowest", "plain")

    def __init__(self) -> None:
        self.lowest = _NEVER
        self.plain = _NEVER
        """Rank of the first Route without other conditions."""
        self.hosts: HostIndex[_Leaf] | None = None
        """The Routes before it; None: there are none."""

    def add(self, rank: int, host: HostMatch | None, conditions: tuple[Condition, ...]) -> None:
        """Routes must be added in the order of their ranks."""
        if rank > self.plain:  # hidden
            return
        self.lowest = min(self.lowest, rank)
        if host is None and not conditions:
            self.plain = rank
            return
        if self.hosts is None:
            self.hosts = HostIndex(_Leaf)
        self.hosts.at(host).add(_Entry(rank, conditions))

    def seal(self) -> None:
        if self.hosts is not None:
            for leaf in self.hosts.values():
                leaf.seal()


def _lowest(candidates: _Candidates) -> int:
    return candidates.lowest


class _PathIndex:
    """Index of path matches by text. A regex is indexed by the literal prefix of all its matches."""

    def __init__(self) -> None:
        self._exact: dict[str, _Candidates] = {}
        self._prefixes: dict[int, dict[str, _Candidates]] = {}
        self._regexes: dict[int, dict[str, list[tuple[FullRegex, _Candidates]]]] = {}
        self._by_pattern: dict[tuple[str, bool], _Candidates] = {}

    def at(self, match: PathMatch, case_sensitive: bool) -> _Candidates:
        """`case_sensitive` says how a regex is compared; other texts are compared as they are."""
        text = match.value
        if match.kind is MatchKind.REGEX:
            return self._by_pattern.get((text, case_sensitive)) or self._file_regex(text, case_sensitive)
        texts = self._exact if match.kind is MatchKind.EXACT else self._prefixes.setdefault(len(text), {})
        candidates = texts.get(text)
        if candidates is None:
            candidates = texts[text] = _Candidates()
        return candidates

    def _file_regex(self, pattern: str, case_sensitive: bool) -> _Candidates:
        candidates = self._by_pattern[pattern, case_sensitive] = _Candidates()
        regex = FullRegex(pattern, case_sensitive)
        literal = regex.literal_prefix()
        self._regexes.setdefault(len(literal), {}).setdefault(literal, []).append((regex, candidates))
        return candidates

    def seal(self) -> bool:
        """All Routes are added. Returns whether there is any."""
        filed = [
            self._exact.values(),
            self._by_pattern.values(),
            *(texts.values() for texts in self._prefixes.values()),
        ]
        for candidates in chain.from_iterable(filed):
            candidates.seal()
        return any(filed)

    def matching(self, path: str) -> Iterator[_Candidates]:
        if path in self._exact:
            yield self._exact[path]
        for length, prefixes in self._prefixes.items():
            candidates = prefixes.get(path[:length])
            if candidates is not None:
                yield candidates
        for length, regexes in self._regexes.items():
            for regex, candidates in regexes.get(path[:length], ()):
                if regex.matches(path):
                    yield candidates
