"""The route table finds what walking the evaluation order would find, at a cost that does not grow with it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.match import HeaderMatch, HostKind, HostMatch, MatchKind, PathMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.regex import FullRegex, InvalidRegex
from grpcgw.model.route import Destination, Route
from grpcgw.model.route_order import rank_route
from grpcgw.routing.header_match import Condition
from grpcgw.routing.table import RouteTable


def order_routes(routes: Iterable[Route]) -> tuple[Route, ...]:
    """In evaluation order, as the compiler sorts them."""
    return tuple(sorted(routes, key=rank_route, reverse=True))


def route(kind: MatchKind, value: str, precedence: int = 0, **conditions: Any) -> Route:
    destination = Destination(ObjectKey("Mapping", "ns", value), ())
    return Route(f"Mapping {value}", PathMatch(kind, value), precedence, (destination,), **conditions)


def prefix(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.PREFIX, value, precedence)


def exact(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.EXACT, value, precedence)


def regex(value: str, precedence: int = 0) -> Route:
    return route(MatchKind.REGEX, value, precedence)


Call = tuple[str, str, tuple[tuple[str, str | bytes], ...]]


def walk(routes: tuple[Route, ...], path: str, authority: str = "", metadata: Metadata = ()) -> Route | None:
    """What the table must find, in the most obvious way."""
    return next((route for route in routes if matches(route, path, authority, metadata)), None)


def matches(route: Route, path: str, authority: str, metadata: Metadata) -> bool:
    names = {authority.lower(), re.sub(r":[0-9]+$", "", authority.lower())}
    return (
        path_matches(route, path)
        and (route.host is None or any(host_matches(route.host, name) for name in names))
        and all(header_matches(header, metadata) for header in route.headers)
    )


def path_matches(route: Route, path: str) -> bool:
    value, pattern = route.match.value, route.match.value
    if not route.case_sensitive:
        value, path, pattern = value.lower(), path.lower(), f"(?i){pattern}"
    match route.match.kind:
        case MatchKind.PREFIX:
            return path.startswith(value)
        case MatchKind.EXACT:
            return path == value
        case MatchKind.REGEX:
            return re2.fullmatch(pattern, path) is not None


def host_matches(host: HostMatch, name: str) -> bool:
    match host.kind:
        case HostKind.EXACT:
            return name == host.value
        case HostKind.SUFFIX:
            return name.endswith(host.value) and name != host.value
        case HostKind.PREFIX:
            return name.startswith(host.value) and name != host.value
        case HostKind.REGEX:
            return re2.fullmatch(f"(?i){host.value}", name) is not None


def header_matches(header: HeaderMatch, metadata: Metadata) -> bool:
    given = [("content-type", "application/grpc"), (":method", "POST"), *metadata]
    values = [value for name, value in given if name == header.name]
    if not values:
        return False
    joined = ",".join(str(value) for value in values)
    if header.exact is not None:
        return joined == header.exact
    return header.regex is None or re2.fullmatch(header.regex, joined) is not None


TEXT = st.text(alphabet="/ab", max_size=5).map("/".__add__)
PRECEDENCE = st.integers(-1, 2)
PATTERN = st.sampled_from(["/a.*", ".*b", "/[ab]+/?", "/a/b", ".*", "/(a|b)/.+"])
HOST = st.none() | st.builds(
    HostMatch, st.sampled_from(HostKind), st.sampled_from(["a", "a.b", ".b", "b:1", "a.b:1", "[ab.]+"])
)
VALUE = st.sampled_from(["", "v", "w", "v,w"])
HEADER = st.one_of(
    st.builds(HeaderMatch, st.sampled_from("xy"), exact=VALUE),
    st.builds(HeaderMatch, st.sampled_from("xy"), regex=st.sampled_from(["v", "[vw]*", ".+"])),
    st.builds(HeaderMatch, st.sampled_from("xy")),
    st.builds(HeaderMatch, st.just("content-type"), exact=st.sampled_from(["application/grpc", "text/html"])),
    st.builds(HeaderMatch, st.just(":method"), exact=st.sampled_from(["POST", "GET"])),
)


def routes(conditions: bool) -> st.SearchStrategy[Route]:
    kinds = [(MatchKind.PREFIX, TEXT), (MatchKind.EXACT, TEXT), (MatchKind.REGEX, PATTERN)]
    others: dict[str, st.SearchStrategy[object]] = {}
    if conditions:
        headers = st.lists(HEADER, max_size=2).map(tuple)
        others = {"host": HOST, "headers": headers, "case_sensitive": st.booleans()}
    return st.one_of(st.builds(route, st.just(kind), text, PRECEDENCE, **others) for kind, text in kinds)


PATH = st.text(alphabet="/abA", max_size=5).map("/".__add__)
AUTHORITY = st.sampled_from(["a", "A.B", "a.b:1", "c.b", "b:1", "a:80", "[::1]:1", "", "ab"])
METADATA = st.lists(st.tuples(st.sampled_from("xyz"), VALUE), max_size=3).map(tuple)
CALLS = st.lists(st.tuples(PATH, AUTHORITY, METADATA), min_size=1, max_size=20)


@given(routes=st.lists(routes(conditions=False), max_size=25), paths=st.lists(PATH, min_size=1, max_size=20))
def test_the_table_finds_what_walking_the_order_finds(routes: list[Route], paths: list[str]) -> None:
    table = RouteTable(routes)
    for path in [*paths, *paths]:  # the second time from the cache
        assert table.match(path) is walk(tuple(routes), path)


@given(routes=st.lists(routes(conditions=True), max_size=25), calls=CALLS, in_order=st.booleans())
def test_hosts_headers_and_case_decide_as_walking_the_order_does(
    routes: list[Route], calls: list[Call], in_order: bool
) -> None:
    evaluated = order_routes(routes) if in_order else tuple(routes)
    table = RouteTable(evaluated)
    for path, authority, metadata in [*calls, *calls]:
        assert table.match(path, authority, metadata) is walk(evaluated, path, authority, metadata)


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
    with pytest.raises(InvalidRegex):
        RouteTable([regex("/(")])


def test_a_client_that_makes_up_paths_cannot_grow_the_cache_without_bound() -> None:
    table = RouteTable([prefix("/a/"), route(MatchKind.PREFIX, "/b/", headers=(HeaderMatch("x", exact="1"),))])
    for number in range(20_000):
        assert table.match(f"/a/{number}") is not None
        assert table.match(f"/b/{number}", f"host-{number}", (("x", "1"),)) is not None
        assert table.match(f"/unknown/{number}") is None
    for path, authority in (("/a/" + "x" * 10_000, ""), ("/b/m", "h" * 10_000)):
        assert table.match(path, authority, (("x", "1"),)) is not None
    assert len(table._by_path) <= 4096
    assert all(len(path) <= 256 for path in table._by_path)
    assert 0 < len(table._by_host) <= 4096
    assert all(len(text) <= 256 for key in table._by_host for text in key)


class Counted(str):
    """A path that tells how often it was cut."""

    __slots__ = ("cuts",)

    def __new__(cls, text: str) -> Counted:
        counted = super().__new__(cls, text)
        counted.cuts = 0
        return counted

    def __getitem__(self, key: object) -> str:
        self.cuts += 1
        return super().__getitem__(key)  # type: ignore[index]

    def __hash__(self) -> int:
        return super().__hash__()


def test_a_search_does_not_walk_the_other_routes() -> None:
    table = RouteTable(order_routes(prefix(f"/pkg.Service{number:05}/") for number in range(10_000)))
    path = Counted("/pkg.Service09999/Method")
    found = table.match(path)
    assert found is not None
    assert found.match.value == "/pkg.Service09999/"
    assert path.cuts <= 1  # one look-up per length of prefix


MANY = 3_000
CROWDS: dict[str, Callable[[int], Route]] = {
    "hosts": lambda n: route(MatchKind.PREFIX, "/", host=HostMatch(HostKind.EXACT, f"h{n}")),
    "globs": lambda n: route(MatchKind.PREFIX, "/", host=HostMatch(HostKind.SUFFIX, f".h{n:04}")),
    "headers": lambda n: route(MatchKind.PREFIX, "/", headers=(HeaderMatch("x-tenant", exact=f"t{n}"),)),
    "two headers": lambda n: route(
        MatchKind.PREFIX, "/", headers=(HeaderMatch("env", exact="live"), HeaderMatch("x-tenant", exact=f"t{n}"))
    ),
    "regexes": lambda n: route(MatchKind.REGEX, f"/pkg{n}[.].*"),
}


@pytest.mark.parametrize("crowd", CROWDS)
def test_what_is_alike_is_not_tried_one_by_one(crowd: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    holds, regex_matches = Condition.holds, FullRegex.matches

    def count_condition(self: Condition, value: str | None) -> bool:
        tried.append(value)
        return holds(self, value)

    def count_regex(self: FullRegex, text: str) -> bool:
        tried.append(text)
        return regex_matches(self, text)

    every = order_routes(CROWDS[crowd](number) for number in range(MANY))
    table = RouteTable(every)
    monkeypatch.setattr(Condition, "holds", count_condition)
    monkeypatch.setattr(FullRegex, "matches", count_regex)
    number = MANY // 2
    metadata = (("env", "live"), ("x-tenant", f"t{number}"))
    path = f"/pkg{number}.Service/Method"
    found = table.match(path, f"h{number}" if crowd == "hosts" else f"x.h{number:04}", metadata)
    assert found == CROWDS[crowd](number)
    assert len(tried) <= 4


def test_a_name_holds_with_every_port_and_one_with_a_port_for_that_alone() -> None:
    plain = route(MatchKind.PREFIX, "/", host=HostMatch(HostKind.EXACT, "greet"))
    ported = route(MatchKind.PREFIX, "/", host=HostMatch(HostKind.EXACT, "greet:8443"))
    assert RouteTable([plain]).match("/a", "Greet:1") is plain
    assert RouteTable([ported]).match("/a", "greet:8443") is ported
    assert RouteTable([ported]).match("/a", "greet") is None


@pytest.mark.parametrize("host", [HostMatch(HostKind.SUFFIX, ".greet"), HostMatch(HostKind.PREFIX, ".greet")])
def test_the_star_of_a_glob_stands_for_something(host: HostMatch) -> None:
    only = route(MatchKind.PREFIX, "/", host=host)
    assert RouteTable([only]).match("/a", ".greet") is None
    assert RouteTable([only]).match("/a", "a.greet" if host.kind is HostKind.SUFFIX else ".greet.a") is only


def test_an_ipv6_authority_keeps_its_brackets() -> None:
    only = route(MatchKind.PREFIX, "/", host=HostMatch(HostKind.EXACT, "[::1]"))
    assert RouteTable([only]).match("/a", "[::1]:50051") is only
    assert RouteTable([only]).match("/a", "[::1]") is only


@pytest.mark.parametrize("written", ["AAECAw", "AAECAw=="])
def test_bytes_are_compared_in_base64_with_or_without_padding(written: str) -> None:
    only = route(MatchKind.PREFIX, "/", headers=(HeaderMatch("token-bin", exact=written),))
    assert RouteTable([only]).match("/a", "", (("token-bin", b"\0\1\2\3"),)) is only
    assert RouteTable([only]).match("/a", "", (("token-bin", b"\0\1\2"),)) is None


def test_several_values_of_a_key_are_one_joined_by_commas() -> None:
    only = route(MatchKind.PREFIX, "/", headers=(HeaderMatch("x", exact="a,b"),))
    assert RouteTable([only]).match("/a", "", (("x", "a"), ("y", "c"), ("x", "b"))) is only


def test_a_path_without_conditions_is_one_look_up_whoever_calls() -> None:
    plain = prefix("/a/")
    guarded = route(MatchKind.PREFIX, "/b/", headers=(HeaderMatch("x", exact="1"),))
    table = RouteTable([plain, guarded])
    assert table.match("/a/m", "host", (("x", "1"),)) is plain
    assert table._by_path["/a/m"] is plain
    assert table.match("/b/m") is None
    assert table.match("/b/m", "", (("x", "1"),)) is guarded


def test_threads_share_a_table() -> None:
    routes = order_routes(prefix(f"/s{number}/") for number in range(50))
    table = RouteTable(routes)
    paths = [f"/s{number % 50}/m{number}" for number in range(10_000)]

    def search(offset: int) -> bool:
        return all(table.match(path) is walk(routes, path) for path in paths[offset::4])

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(search, range(4)))


def test_a_table_that_is_dropped_leaves_nothing_to_the_garbage_collector() -> None:
    host = HostMatch(HostKind.SUFFIX, ".example.com")
    guards = (HeaderMatch("x", exact="1"), HeaderMatch("y", regex="a+"))
    routes = [
        prefix("/a/"),
        route(MatchKind.PREFIX, "/a/", host=host, headers=guards),
        route(MatchKind.REGEX, "/b/.*", case_sensitive=False),
    ]
    gc.collect()
    gc.disable()
    try:
        RouteTable(routes).match("/a/m", "b.example.com", (("x", "1"),))
        assert gc.collect() == 0
    finally:
        gc.enable()
