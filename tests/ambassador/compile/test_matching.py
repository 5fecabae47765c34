"""Which calls a Mapping asks for, whom it shares them with, and in what order routes are tried."""

from __future__ import annotations

import pytest

from grpcgw.model.match import HeaderMatch, HostKind, HostMatch
from grpcgw.model.objects import Severity
from grpcgw.model.route import Route
from grpcgw.routing.table import RouteTable
from tests.compiling import compile_objects, destinations, mapping, module, obj, only_route, said


def route_of(**fields: object) -> Route:
    compiled = compile_objects(mapping(**fields))
    assert compiled.problems == ()
    return only_route(compiled)


def exact(value: str) -> HostMatch:
    return HostMatch(HostKind.EXACT, value)


# Hosts


@pytest.mark.parametrize(
    ("fields", "host"),
    [
        ({"hostname": "*"}, None),
        ({"hostname": ""}, None),
        ({"hostname": "*:*"}, None),
        ({"hostname": "Greet.example.com"}, exact("greet.example.com")),
        ({"hostname": "greet.example.com:8443"}, exact("greet.example.com:8443")),
        ({"hostname": "greet.example.com:*"}, exact("greet.example.com")),
        ({"hostname": "*.example.com"}, HostMatch(HostKind.SUFFIX, ".example.com")),
        ({"hostname": "greet.*"}, HostMatch(HostKind.PREFIX, "greet.")),
        ({"hostname": "[::1]"}, exact("[::1]")),
        ({"host": "greet.example.com"}, exact("greet.example.com")),
        ({"host": "greet[0-9]+", "host_regex": True}, HostMatch(HostKind.REGEX, "greet[0-9]+")),
        ({"headers": {":authority": "greet"}}, exact("greet")),
        ({"headers": {"Host": "greet"}}, exact("greet")),
        ({"headers": {":authority": True}}, None),
        ({"regex_headers": {":authority": "g.*"}}, HostMatch(HostKind.REGEX, "g.*")),
        ({"hostname": "greet", "host": "greet"}, exact("greet")),
    ],
)
def test_the_host_a_mapping_asks_for(fields: dict[str, object], host: HostMatch | None) -> None:
    route = route_of(**fields)
    assert (route.host, route.headers) == (host, ())


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hostname": "a*b"}, "spec.hostname: 'a*b' may have one '*', at its beginning or its end"),
        ({"hostname": "*.a.*"}, "may have one '*'"),
        ({"hostname": "a b"}, "'a b' is no host name"),
        ({"host": "a*b"}, "spec.host: 'a*b' may have one '*', at its beginning or its end"),
        ({"host": "(", "host_regex": True}, "spec.host: '(' is no RE2 pattern"),
        ({"headers": {":authority": "*.a"}}, "spec.headers.:authority: '*.a' is compared exactly"),
        ({"hostname": "a", "regex_headers": {":authority": "b"}}, "hostname names the host as well; keep one"),
        ({"headers": {":path": "/a"}}, "only :authority and :method can"),
        ({"headers": {"grpc-timeout": "1S"}}, "cannot be matched: grpc does not show it"),
        ({"headers": {"a b": "1"}}, "is no metadata key"),
        ({"headers": {"x": 1}}, "spec.headers.x: should be the text to compare with, or true"),
        ({"headers": {"x": False}}, "or true where the key need only be there"),
        ({"regex_headers": {"x": "("}}, "spec.regex_headers.x: the value is no RE2 pattern"),
        ({"regex_headers": {"x": True}}, "should be a valid string"),
        ({"v2BoolHeaders": ["a b"]}, "spec.v2BoolHeaders: 'a b' is no metadata key"),
        ({"prefix": "/(", "prefix_regex": True}, "spec.prefix: '/(' is no RE2 pattern"),
        ({"prefix": "/greet/\n"}, "spec.prefix: '/greet/\\n' matches no path"),
        ({"prefix": "/gr\x7feet/"}, "spec.prefix: '/gr\\x7feet/' matches no path"),
        ({"prefix": "/greet/.*\n", "prefix_regex": True}, "spec.prefix: '/greet/.*\\n' matches no path"),
    ],
)
def test_a_match_that_cannot_be_is_an_error_where_it_stands(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(mapping(**fields))
    assert compiled.snapshot.routes == ()
    assert any(reason in error for error in said(compiled, Severity.ERROR)), said(compiled)


def test_hostname_wins_over_host_and_host_over_authority_with_a_notice() -> None:
    compiled = compile_objects(mapping(hostname="a", host="b", headers={":authority": "c"}))
    assert only_route(compiled).host == exact("a")
    assert [problem.path for problem in compiled.problems] == ["spec.host", "spec.headers.:authority"]
    assert {problem.severity for problem in compiled.problems} == {Severity.NOTICE}


# Headers


def test_headers_of_all_spellings_become_conditions_in_the_order_of_their_names() -> None:
    route = route_of(
        headers={"X-Tenant": "a", "x-debug": True}, regex_headers={"x-build": "[0-9]+"}, v2BoolHeaders=["x-any"]
    )
    assert route.headers == (
        HeaderMatch("x-any"),
        HeaderMatch("x-build", regex="[0-9]+"),
        HeaderMatch("x-debug"),
        HeaderMatch("x-tenant", exact="a"),
    )


@pytest.mark.parametrize(
    ("fields", "serves"),
    [
        ({"method": "POST"}, True),
        ({"method": "GET"}, False),
        ({"method": "P.*", "method_regex": True}, True),
        ({"method": "G.*", "method_regex": True}, False),
        ({"headers": {"content-type": "application/grpc"}}, True),
        ({"headers": {"content-type": True}}, True),
        ({"headers": {"content-type": "application/json"}}, False),
        ({"regex_headers": {"content-type": "application/grpc.*"}}, True),
    ],
)
def test_conditions_on_what_every_grpc_call_has_hold_for_all_or_for_none(
    fields: dict[str, object], serves: bool
) -> None:
    compiled = compile_objects(mapping(**fields))
    found = RouteTable(compiled.snapshot.routes).match("/greet.GrpcService/Greet")
    assert (found is not None) is serves
    assert ("matches no gRPC call" in "".join(said(compiled))) is not serves


@pytest.mark.parametrize("field", ["query_parameters", "regex_query_parameters"])
def test_a_mapping_that_asks_for_a_query_serves_no_call_and_says_so(field: str) -> None:
    compiled = compile_objects(mapping(**{field: {"a": "b"}}))
    assert (compiled.snapshot.routes, compiled.snapshot.clusters) == ((), {})
    assert "so the Mapping serves no call" in said(compiled, Severity.NOTICE)[0]


def test_case_does_not_count_where_it_should_not() -> None:
    table = RouteTable([route_of(case_sensitive=False)])
    assert table.match("/GREET.grpcservice/Greet") is not None


# Regular expressions


def test_a_pattern_larger_than_the_module_allows_is_an_error() -> None:
    pattern = "/[a-z]{50}"
    fields = {"prefix": pattern, "prefix_regex": True}
    assert compile_objects(mapping(**fields)).problems == ()
    compiled = compile_objects(mapping(**fields), module(regex_max_size=20))
    assert "its program size is" in said(compiled)[0]
    assert "more than the 20 allowed; simplify it or raise regex_max_size" in said(compiled)[0]


def test_200_is_allowed_by_default() -> None:
    large = mapping(prefix="/(a|b|c){1,900}", prefix_regex=True)
    assert "more than the 200 allowed" in said(compile_objects(large))[0]
    assert compile_objects(large, module(regex_max_size=100_000)).problems == ()


# Groups


SAME = {"headers": {"x": "1"}, "hostname": "greet", "precedence": 3}


def test_one_group_has_the_same_prefix_host_headers_and_precedence() -> None:
    route = only_route(compile_objects(mapping("a", **SAME), mapping("b", **SAME)))
    assert [one.weight for one in route.destinations] == [50, 50]


@pytest.mark.parametrize(
    "change",
    [
        {"headers": {"x": "2"}},
        {"headers": {"y": "1"}},
        {"headers": {"x": "1", "y": "1"}},
        {"hostname": "*.greet"},
        {"precedence": 0},
        {"prefix": "/other/"},
        {"method": "POST"},
    ],
)
def test_another_match_is_another_group(change: dict[str, object]) -> None:
    compiled = compile_objects(mapping("a", **SAME), mapping("b", **{**SAME, **change}))
    assert len(compiled.snapshot.routes) == 2
    assert compiled.problems == ()


MISMATCHES = {
    "prefix_exact": ({}, {"prefix_exact": True}, "prefix_exact: True != -unset-"),
    "prefix_regex": ({"prefix_regex": False}, {"prefix_regex": True}, "prefix_regex: True != False"),
    "case_sensitive": ({}, {"case_sensitive": False}, "case_sensitive: False != -unset-"),
    "connect_timeout_ms": ({"connect_timeout_ms": 1}, {"connect_timeout_ms": 2}, "connect_timeout_ms: 2 != 1"),
    "cluster_idle_timeout_ms": ({}, {"cluster_idle_timeout_ms": 2}, "cluster_idle_timeout_ms: 2 != -unset-"),
    "cluster_max_connection_lifetime_ms": ({}, {"cluster_max_connection_lifetime_ms": 2}, "2 != -unset-"),
    "keepalive": ({"keepalive": {"time": 1}}, {"keepalive": {"time": 2}}, "{'time': 2} != {'time': 1}"),
    "circuit_breakers": ({}, {"circuit_breakers": [{"max_requests": 1}]}, "[{'priority': 'default', "),
    "labels": ({}, {"labels": {"a": [{"b": ["c"]}]}}, "labels: "),
    "bypass_auth": ({}, {"bypass_auth": True}, "bypass_auth: True != -unset-"),
    "load_balancer": (
        {"load_balancer": {"policy": "round_robin"}},
        {"load_balancer": {"policy": "maglev", "source_ip": True}},
        "load_balancer: {'policy': 'maglev', 'source_ip': True} != {'policy': 'round_robin'}",
    ),
    "headers": ({"headers": {"x": "1"}}, {"regex_headers": {"x": "1"}}, "headers: "),
    "host": ({"host": "a"}, {"host": "a", "host_regex": True}, "host: "),
}


@pytest.mark.parametrize("field", MISMATCHES)
def test_a_newcomer_that_disagrees_with_the_first_of_its_group_is_not_accepted(field: str) -> None:
    first, newcomer, told = MISMATCHES[field]
    compiled = compile_objects(mapping("b-newcomer", **newcomer), mapping("a-first", **first))
    assert list(destinations(compiled)) == ["a-first.shop"]
    (error,) = said(compiled, Severity.ERROR)
    assert "Mapping b-newcomer.shop" in error
    assert f"cannot accept new mapping b-newcomer.shop with mismatched {field}: " in error
    assert told in error
    assert error.endswith("a-first.shop was first in its group, set the same in both; left out")


def test_what_a_newcomer_does_not_set_is_not_compared() -> None:
    first = mapping("a", load_balancer={"policy": "least_request"}, connect_timeout_ms=1, prefix_exact=True)
    compiled = compile_objects(first, mapping("b"))
    assert sorted(destinations(compiled)) == ["a.shop", "b.shop"]
    assert said(compiled, Severity.ERROR) == []


def test_what_the_module_says_counts_as_said_by_the_first() -> None:
    breakers = [{"max_requests": 1}]
    objects = (mapping("a"), mapping("b", circuit_breakers=breakers))
    for given in (module(circuit_breakers=breakers), module(defaults={"httpmapping": {"circuit_breakers": breakers}})):
        assert said(compile_objects(*objects, given), Severity.ERROR) == []
    assert len(said(compile_objects(*objects), Severity.ERROR)) == 1


@pytest.mark.parametrize("field", ["timeout_ms", "idle_timeout_ms"])
def test_settings_of_one_call_may_differ_within_a_group(field: str) -> None:
    compiled = compile_objects(mapping("a", **{field: 1}), mapping("b", **{field: 2}))
    assert said(compiled, Severity.ERROR) == []


@pytest.mark.parametrize(
    ("weights", "is_noted"), [((None, None), True), ((None, None, None), True), ((None, 10), False), ((50, 50), False)]
)
def test_mappings_that_share_a_prefix_without_any_weight_are_a_notice(
    weights: tuple[int | None, ...], is_noted: bool
) -> None:
    compiled = compile_objects(*(mapping(f"m{number}", weight=weight) for number, weight in enumerate(weights)))
    assert said(compiled) == (
        [
            "m1.yaml: notice: Mapping m1.shop spec.prefix: shares the calls of /greet.GrpcService/ equally with"
            " m0.shop, as none of them has a weight; give one a weight, or a prefix, host or headers of its own"
        ]
        if is_noted
        else []
    )


def test_a_shadow_shares_no_calls() -> None:
    assert compile_objects(mapping("a"), mapping("b", shadow=True)).problems == ()


def test_the_oldest_of_a_group_is_the_first_then_the_name_decides() -> None:
    old, young = ({"creationTimestamp": f"202{year}-01-01T00:00:00Z"} for year in (0, 5))
    compiled = compile_objects(
        mapping("a", metadata=young, connect_timeout_ms=1), mapping("b", metadata=old, connect_timeout_ms=2)
    )
    assert list(destinations(compiled)) == ["b.shop"]


def test_a_change_that_does_not_fit_its_group_leaves_the_former_version() -> None:
    before = compile_objects(mapping("a"), mapping("b", timeout_ms=1))
    after = compile_objects(mapping("a"), mapping("b", timeout_ms=2, prefix_exact=True), last=before)
    assert after.snapshot == before.snapshot
    assert said(after, Severity.ERROR)[0].endswith("; the last good version keeps serving")


# Shadows and sticky groups


def test_a_shadow_takes_no_part_in_the_shares() -> None:
    compiled = compile_objects(mapping("a"), mapping("copy", shadow=True, weight=10), mapping("b", weight=30))
    route = only_route(compiled)
    assert [(one.label, one.weight) for one in route.destinations] == [("a.shop", 70), ("b.shop", 30)]
    assert route.shadow is not None
    assert (route.shadow.label, route.shadow.weight) == ("copy.shop", 10)
    assert compiled.problems == ()


@pytest.mark.parametrize(("weight", "percent"), [(None, 100), (0, 0), (1, 1)])
def test_the_weight_of_a_shadow_is_the_percent_of_calls_it_gets_copies_of(weight: int | None, percent: int) -> None:
    route = only_route(compile_objects(mapping("a"), mapping("copy", shadow=True, weight=weight)))
    assert route.shadow is not None
    assert route.shadow.weight == percent


def test_a_second_shadow_is_an_error_and_ignored() -> None:
    compiled = compile_objects(mapping("a"), mapping("b", shadow=True), mapping("c", shadow=True))
    assert only_route(compiled).shadow is not None
    assert said(compiled) == [
        "c.yaml: error: Mapping c.shop spec.shadow: cannot accept c.shop as second shadow after b.shop; left out"
    ]


def test_a_shadow_with_nothing_to_copy_serves_nothing_and_says_so() -> None:
    compiled = compile_objects(mapping(shadow=True))
    assert compiled.snapshot.routes == ()
    assert "gets no copies of calls: its group has no other Mapping" in said(compiled, Severity.NOTICE)[0]


def sticky(name: str, header: str, **fields: object) -> object:
    return mapping(name, metadata={"annotations": {"grpcgw.io/sticky-header": header}}, **fields)


def test_one_annotation_makes_the_whole_group_sticky() -> None:
    compiled = compile_objects(mapping("a", weight=90), sticky("b", "X-User", weight=10))
    assert only_route(compiled).sticky_header == "x-user"
    assert compiled.problems == ()


def test_two_sticky_headers_in_a_group_are_an_error() -> None:
    compiled = compile_objects(sticky("a", "x-user"), sticky("b", "x-tenant"))
    assert list(destinations(compiled)) == ["a.shop"]
    assert "its group is sticky by x-user, not x-tenant" in said(compiled)[0]


def test_a_sticky_header_that_is_no_key_is_an_error() -> None:
    assert "is no metadata key" in said(compile_objects(sticky("a", "a b")))[0]


# Order


def ordered(*objects: object) -> list[str]:
    return [route.destinations[0].label.removesuffix(".shop") for route in compile_objects(*objects).snapshot.routes]


def test_routes_are_tried_by_precedence_prefix_headers_and_text() -> None:
    assert ordered(
        mapping("short", prefix="/a/", headers={"x-long-header-name": "1"}),
        mapping("long", prefix="/aa/"),
        mapping("hosted", prefix="/aa/", hostname="a.b"),
        mapping("tagged", prefix="/aa/", headers={"x": "1"}),
        mapping("urgent", prefix="/", precedence=1),
        mapping("late", prefix="/aaaa/", precedence=-1),
        mapping("other", prefix="/ab/"),
    ) == ["urgent", "hosted", "tagged", "other", "long", "short", "late"]


def test_a_presence_counts_as_one_letter_and_a_pattern_as_one_more() -> None:
    assert ordered(
        mapping("present", headers={"xxx": True}),
        mapping("exact", headers={"xxx": "abc"}),
        mapping("pattern", regex_headers={"xxx": "abd"}),
    ) == ["pattern", "exact", "present"]


# Hosts that take Mappings by their labels


def host(name: str, hostname: str, **labels: str) -> object:
    return obj("Host", name, {"hostname": hostname, "mappingSelector": {"matchLabels": labels}})


def test_a_host_that_selects_a_mapping_gives_it_its_name() -> None:
    labelled = mapping("a", metadata={"labels": {"app": "greet", "tier": "x"}})
    compiled = compile_objects(
        labelled,
        mapping("b"),
        host("one", "one.example.com", app="greet"),
        host("two", "two.example.com", app="greet"),
        host("three", "three.example.com", app="greet", tier="y"),
    )
    assert {(route.host, route.destinations[0].label) for route in compiled.snapshot.routes} == {
        (exact("one.example.com"), "a.shop"),
        (exact("two.example.com"), "a.shop"),
        (None, "b.shop"),
    }
    assert compiled.problems == ()


def test_a_host_of_its_own_wins_over_labels() -> None:
    labelled = mapping("a", hostname="own", metadata={"labels": {"app": "greet"}})
    assert only_route(compile_objects(labelled, host("one", "one", app="greet"))).host == exact("own")


NO_CALL = "matches no gRPC call, whose path is /service/method: the Mapping serves none"


@pytest.mark.parametrize(
    ("fields", "serves"),
    [
        ({"prefix": "/"}, True),
        ({"prefix": "/greet"}, True),
        ({"prefix": "/greet.Greeter/"}, True),
        ({"prefix": "/greet.Greeter/Say"}, True),
        ({"prefix": "/api/v1/"}, False),
        ({"prefix": "/api/v1/users"}, False),
        ({"prefix": "//"}, False),
        ({"prefix": "/greet?x="}, False),
        ({"prefix": "greet.Greeter/"}, False),
        ({"prefix": "/greet.Greeter/Say", "prefix_exact": True}, True),
        ({"prefix": "/greet.Greeter/", "prefix_exact": True}, False),
        ({"prefix": "/", "prefix_exact": True}, False),
        ({"prefix": "/api/v1/.*", "prefix_regex": True}, False),
        ({"prefix": "/api/v1/?", "prefix_regex": True}, True),
        ({"prefix": "/greet\\.Greeter/(A|B)", "prefix_regex": True}, True),
        ({"prefix": "/api/v1/x|/greet.Greeter/.*", "prefix_regex": True}, True),
        ({"prefix": ".*", "prefix_regex": True}, True),
        ({"prefix": "greet.*", "prefix_regex": True}, False),
        ({"prefix": "/api/v1/", "host_redirect": True}, False),
    ],
    ids=str,
)
def test_a_prefix_that_no_call_can_have_gets_a_notice(fields: dict[str, object], serves: bool) -> None:
    notices = [one for one in said(compile_objects(mapping(**fields)), Severity.NOTICE) if "spec.prefix: " in one]
    assert [NO_CALL in one for one in notices] == ([] if serves else [True])
