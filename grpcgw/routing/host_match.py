"""Index of host matches: finds those that hold for an `:authority` without trying each, except regexes.

Pure. A HostMatch is compared with the authority with and without its port.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from grpcgw.model.authority import split_authority
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.regex import FullRegex

T = TypeVar("T")


class HostIndex(Generic[T]):
    """Values by host match; `make` makes the value of a new match."""

    __slots__ = ("_any", "_exact", "_make", "_prefixes", "_regexes", "_suffixes")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._any: T | None = None
        self._exact: dict[str, T] = {}
        self._suffixes: dict[int, dict[str, T]] = {}
        self._prefixes: dict[int, dict[str, T]] = {}
        self._regexes: dict[str, tuple[FullRegex, T]] = {}

    def at(self, host: HostMatch | None) -> T:
        """The value of `host`; None is the match that always holds."""
        if host is None:
            if self._any is None:
                self._any = self._make()
            return self._any
        value = host.value
        match host.kind:
            case HostKind.EXACT:
                return _get(self._exact, value, self._make)
            case HostKind.SUFFIX:
                return _get(self._suffixes.setdefault(len(value), {}), value, self._make)
            case HostKind.PREFIX:
                return _get(self._prefixes.setdefault(len(value), {}), value, self._make)
            case HostKind.REGEX:
                if value not in self._regexes:
                    self._regexes[value] = (FullRegex(value, case_sensitive=False), self._make())
                return self._regexes[value][1]

    def matching(self, authority: str) -> Iterator[T]:
        """The values of all matches that hold, in no order, possibly with duplicates.

        For an unknown authority (empty) only the match that always holds does, whatever the patterns.
        """
        if self._any is not None:
            yield self._any
        if not authority:
            return
        for name in split_authority(authority):
            if name in self._exact:
                yield self._exact[name]
            for length, suffixes in self._suffixes.items():
                if length < len(name) and name[-length:] in suffixes:
                    yield suffixes[name[-length:]]
            for length, prefixes in self._prefixes.items():
                if length < len(name) and name[:length] in prefixes:
                    yield prefixes[name[:length]]
            for regex, value in self._regexes.values():
                if regex.matches(name):
                    yield value

    def values(self) -> Iterator[T]:
        """The values of all matches."""
        if self._any is not None:
            yield self._any
        yield from self._exact.values()
        for by_length in (self._suffixes, self._prefixes):
            for values in by_length.values():
                yield from values.values()
        for _, value in self._regexes.values():
            yield value


def _get(values: dict[str, T], key: str, make: Callable[[], T]) -> T:
    if key not in values:
        values[key] = make()
    return values[key]


class HostTable:
    """The HostPolicy of an `:authority`. `policies` are in evaluation order."""

    def __init__(self, policies: Iterable[HostPolicy]) -> None:
        self._policies = tuple(policies)
        self._ranks: HostIndex[list[int]] = HostIndex(list)
        for rank, policy in enumerate(self._policies):
            self._ranks.at(policy.host).append(rank)

    def find(self, authority: str) -> HostPolicy | None:
        """The first policy that matches; None: no Host has this name."""
        found = [ranks[0] for ranks in self._ranks.matching(authority)]
        return self._policies[min(found)] if found else None
