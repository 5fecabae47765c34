"""The route table finds what walking the evaluation order would find, at a cost that does not grow with it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.config.grouping import order_routes
from grpcgw.config.objects import ObjectKey
from grpcgw.config.regex import InvalidRegex, FullRegex
from grpcgw.config.snapshot import Destination, MatchKind, PathMatch, Route
from grpcgw.routing.table import RouteTable


def route(kind: MatchKind, value: str, precedence: int = 0) -> Route:
    destination = Destination(ObjectKey("Mapping", "ns", value), value, "cluster")
    return Route(PathMatch(kind, value), precedence, (destination,))


def prefix(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.PREFIX, value, precedence)


def exact(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.EXACT, value, precedence)


def regex(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.REGEX, value, precedence)


def walk(routes: tuple[Route, ...], path: str) -> Route | None:
    """What the table must find, in the most obvious way."""
    return next((route for route in routes if matches(route.match, path)), None)


def matches(match: PathMatch, path: str) -> bool:
    match match.kind:
        case MatchKind.PREFIX:
            return path.startswith(match.value)
        case MatchKind.EXACT:
            return path == match.value
        case MatchKind.REGEX:
            return FullRegex(match.value).matches(path)


TEXT = st.text(alphabet="/ab", max_size=5).map("/".__add__)
PRECEDENCE = st.integers(-1, 2)
PATTERN = st.sampled_from(["/a.*", ".*b", "/[ab]+/?", "/a/b", ".*", "/(a|b)/.+"])
ROUTE = st.one_of(
    st.builds(prefix, TEXT, PRECEDENCE), st.builds(exact, TEXT, PRECEDENCE), st.builds(regex, PATTERN, PRECEDENCE)
)


@given(routes=st.lists(ROUTE, max_size=25), paths=st.lists(TEXT, min_size=1, max_size=20), in_order=st.booleans())
def test_the_table_finds_what_walking_the_order_finds(routes: list[Route], paths: list[str], in_order: bool) -> None:
    evaluated = order_routes(routes) if in_order else tuple(routes)
    table = RouteTable(evaluated)
    for path in [*paths, *paths]:  # the second time from the cache
        assert table.match(path) is walk(evaluated, path)


def test_an_empty_table_matches_nothing() -> None:
    assert RouteTable(()).match("/greet.GrpcService/Greet") is None


def test_a_prefix_is_a_plain_string_prefix() -> None:
    table = RouteTable([prefix("/man")])
    assert table.match("/mankind") is not None
    assert table.match("/ma") is None


def test_a_regex_must_match_the_whole_path() -> None:
    table = RouteTable([regex("/a[0-9]+")])
    assert table.match("/a12") is not None
    assert table.match("/a12/more") is None
    assert table.match("x/a12") is None


def test_precedence_beats_a_longer_prefix_and_an_exact_match() -> None:
    routes = order_routes([exact("/a/b"), prefix("/a/"), prefix("/", precedence=1)])
    assert RouteTable(routes).match("/a/b") is routes[0]
    assert routes[0].match.value == "/"


def test_paths_that_are_no_text_match_no_regex_and_raise_nothing() -> None:
    assert RouteTable([regex("/[a-z]+")]).match("/\udcff") is None


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidRegex, match="missing"):
        RouteTable([regex("/(")])


def test_a_client_that_makes_up_paths_cannot_grow_the_cache_without_bound() -> None:
    table = RouteTable([prefix("/a/")])
    for number in range(20_000):
        assert table.match(f"/a/{number}") is not None
        assert table.match(f"/unknown/{number}") is None
    assert table.match("/a/" + "x" * 10_000) is not None
    assert len(table._cache) <= 4096
    assert all(len(path) <= 256 for path in table._cache)


def test_a_search_does_not_walk_the_other_routes() -> None:
    searched = []

    class Counted(str):
        """A path that tells how often it was cut or compared as a whole."""

        __slots__ = ()

        def __getitem__(self, key: object) -> str:
            searched.append(key)
            return super().__getitem__(key)  # type: ignore[index]

        def __hash__(self) -> int:
            return super().__hash__()

    table = RouteTable(order_routes(prefix(f"/pkg.Service{number:05}/") for number in range(10_000)))
    found = table.match(Counted("/pkg.Service09999/Method"))
    assert found is not None
    assert found.match.value == "/pkg.Service09999/"
    assert len(searched) == 1  # one look-up per length of prefix


def test_threads_share_a_table() -> None:
    routes = order_routes(prefix(f"/s{number}/") for number in range(50))
    table = RouteTable(routes)
    paths = [f"/s{number % 50}/m{number}" for number in range(10_000)]

    def search(offset: int) -> bool:
        return all(table.match(path) is walk(routes, path) for path in paths[offset::4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(search, range(4)))
