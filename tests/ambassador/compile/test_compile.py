"""From objects to a snapshot: what serves, what is left out and why, and what keeps serving."""

from __future__ import annotations

import pickle
import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.ambassador.compile.grouping import share_weights
from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.objects import KubeObject, ObjectKey, Severity, Source
from grpcgw.model.route import Destination, Route, WeightedCluster
from grpcgw.model.route_source import CompileOptions
from tests.compiling import compile_objects, destinations, mapping, module, obj, only, order, said
from tests.parsing import parse_objects
from tests.pems import key_pair, secret

ON_GRPC = CompileOptions(first_bytes_hidden_by="generic-handler")
GREET_YAML = Path(__file__).parents[3] / "examples/greet/greet.yaml"


# The scenario


SCENARIO = """\
    apiVersion: getambassador.io/v2
    kind: KubernetesEndpointResolver
    metadata:
      name: grpcserver-endpoint-resolver
    ---
    apiVersion: getambassador.io/v2
    kind: Mapping
    metadata:
      name: grpcserver
    spec:
      grpc: true
      prefix: /greet.GrpcService/
      rewrite: /greet.GrpcService/
      service: grpcserver.grpcserver:50051
      resolver: grpcserver-endpoint-resolver
      load_balancer:
        policy: round_robin
    """


def test_the_greet_scenario_compiles_unchanged_without_a_word() -> None:
    objects, _ = parse_objects(textwrap.dedent(SCENARIO), "greet.yaml")
    compiled = compile_objects(*objects)
    assert compiled.problems == ()
    name = "grpcserver.grpcserver:50051/KubernetesEndpointResolver"
    assert compiled.snapshot.clusters == {
        name: Cluster(
            name,
            ResolverKind.KUBERNETES_ENDPOINT,
            "grpcserver-endpoint-resolver",
            ServiceRef("grpcserver", "grpcserver", 50051, "grpcserver.grpcserver"),
        )
    }
    assert compiled.snapshot.routes == (
        Route(
            "Mapping /greet.GrpcService/",
            PathMatch(MatchKind.PREFIX, "/greet.GrpcService/"),
            0,
            (
                Destination(
                    ObjectKey("Mapping", "default", "grpcserver"),
                    (WeightedCluster(name),),
                    rewrite="/greet.GrpcService/",
                    timeout_ms=None,
                    idle_timeout_ms=300_000,
                ),
            ),
        ),
    )
    assert only(compiled).where == "greet.yaml:6"


def test_the_example_of_the_repository_compiles_without_a_word() -> None:
    objects, _ = parse_objects(GREET_YAML.read_text(), "greet.yaml")
    assert compile_objects(*objects).problems == ()


def test_a_snapshot_can_be_sent_to_another_process() -> None:
    snapshot = compile_objects(mapping()).snapshot
    assert pickle.loads(pickle.dumps(snapshot)) == snapshot


# Whose objects, which kinds


@pytest.mark.parametrize(
    ("given_id", "own_id", "serves"),
    [
        (None, "default", True),
        (None, "blue", False),
        ("blue", "blue", True),
        ("blue", "default", False),
        (["green", "blue"], "blue", True),
        (["green"], "blue", False),
        ("_automatic_", "blue", True),
        ([], "default", False),
    ],
)
def test_objects_of_another_ambassador_id_are_passed_over_in_silence(
    given_id: object, own_id: str, serves: bool
) -> None:
    broken = mapping("broken", ambassador_id=given_id, grpc="yes")
    compiled = compile_objects(mapping(ambassador_id=given_id), broken, options=CompileOptions(own_id))
    assert bool(compiled.snapshot.routes) is serves
    assert bool(compiled.problems) is serves


@pytest.mark.parametrize(
    ("fields", "own_id", "serves"),
    [
        ({"ambassadorId": ["blue"]}, "blue", True),
        ({"ambassadorId": "blue"}, "default", False),
        ({"ambassadorId": "blue", "ambassador_id": "green"}, "green", True),
    ],
)
def test_a_host_may_spell_its_ambassador_id_in_two_ways(fields: dict[str, object], own_id: str, serves: bool) -> None:
    compiled = compile_objects(obj("Host", "host", fields), options=CompileOptions(own_id))
    assert bool(compiled.snapshot.hosts) is serves
    assert compiled.problems == ()


def test_an_ambassador_id_of_the_wrong_type_is_reported() -> None:
    compiled = compile_objects(mapping(ambassador_id=3))
    assert said(compiled) == [
        "greet.yaml: error: Mapping greet.shop spec.ambassador_id: should be a valid list, not 3; left out"
    ]


def test_the_older_name_of_the_api_group_is_read_too() -> None:
    fields = {"prefix": "/a.B/", "service": "a"}
    assert list(destinations(compile_objects(obj("Mapping", "old", fields, api="ambassador/v1")))) == ["old.shop"]


def test_kinds_that_are_no_configuration_are_passed_over() -> None:
    objects = [obj("Service", "greet", api="v1"), obj("Mapping", "other", {"x": 1}, api="example.com/v1")]
    assert compile_objects(*objects).problems == ()


def test_kinds_for_later_are_notices_and_unknown_ones_errors() -> None:
    compiled = compile_objects(obj("LogService", "log", {"service": "log"}), obj("Maping", "greet", {}))
    assert said(compiled) == [
        "log.yaml: notice: LogService log.shop: LogService is not supported yet: calls are not logged remotely",
        "greet.yaml: error: Maping greet.shop: kind Maping is unknown in getambassador.io/v2, did you mean Mapping;"
        " left out",
    ]


def test_a_kind_of_the_preview_of_emissary_2_is_told_its_name_of_today() -> None:
    old = obj("AmbassadorMapping", "greet", {}, api="x.getambassador.io/v3alpha1")
    assert (
        "kind AmbassadorMapping is unknown in x.getambassador.io/v3alpha1, did you mean Mapping"
        in said(compile_objects(old))[0]
    )


# One Mapping


def test_a_bad_mapping_leaves_out_only_itself() -> None:
    compiled = compile_objects(mapping("bad", service="greet..shop"), mapping("good"))
    assert list(destinations(compiled)) == ["good.shop"]
    assert len(said(compiled, Severity.ERROR)) == 1


def test_defaults_leave_the_path_alone_and_bound_only_quiet_calls() -> None:
    destination = only(compile_objects(mapping()))
    assert (destination.rewrite, destination.timeout_ms, destination.idle_timeout_ms) == (None, None, 300_000)


@pytest.mark.parametrize(
    ("fields", "config", "expected"),
    [
        ({}, {}, None),
        ({"timeout_ms": 0}, {}, None),
        ({"timeout_ms": 5}, {}, 5),
        ({}, {"cluster_request_timeout_ms": 7}, 7),
        ({"timeout_ms": 5}, {"cluster_request_timeout_ms": 7}, 5),
        ({"timeout_ms": 0}, {"cluster_request_timeout_ms": 7}, None),
        ({}, {"cluster_request_timeout_ms": 0}, None),
    ],
)
def test_the_timeout_is_the_mappings_else_the_modules_and_0_is_none(
    fields: dict[str, object], config: dict[str, object], expected: int | None
) -> None:
    assert only(compile_objects(mapping(**fields), module(**config))).timeout_ms == expected


@pytest.mark.parametrize(("given_ms", "expected"), [(0, None), (1, 1)])
def test_an_idle_timeout_of_0_is_none(given_ms: int, expected: int | None) -> None:
    assert only(compile_objects(mapping(idle_timeout_ms=given_ms))).idle_timeout_ms == expected


@pytest.mark.parametrize(
    ("fields", "rewrite", "notice"),
    [
        ({"rewrite": ""}, None, ""),
        ({"rewrite": "/other.Service/"}, "/other.Service/", ""),
        ({"rewrite": "/"}, "/", "cuts the matched prefix"),
        ({"rewrite": "/", "prefix": "/"}, "/", ""),
        ({"rewrite": "/x/", "prefix_regex": True}, None, "no prefix to replace"),
        ({"rewrite": "/a/B", "prefix": "/greet/Say", "prefix_exact": True}, "/a/B", ""),
    ],
)
def test_a_rewrite_is_honoured_where_there_is_a_prefix_to_replace(
    fields: dict[str, object], rewrite: str | None, notice: str
) -> None:
    compiled = compile_objects(mapping(**fields))
    assert only(compiled).rewrite == rewrite
    assert (notice in "".join(said(compiled))) if notice else not compiled.problems


def test_grpc_false_is_a_notice() -> None:
    assert [problem.severity for problem in compile_objects(mapping(grpc=False)).problems] == [Severity.NOTICE]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, MatchKind.PREFIX),
        ({"prefix_exact": True}, MatchKind.EXACT),
        ({"prefix_regex": True}, MatchKind.REGEX),
        ({"prefix_regex": True, "prefix_exact": True}, MatchKind.REGEX),
        ({"prefix_regex": False, "prefix_exact": False}, MatchKind.PREFIX),
    ],
)
def test_the_kind_of_match(fields: dict[str, object], kind: MatchKind) -> None:
    assert compile_objects(mapping(**fields)).snapshot.routes[0].match.kind is kind


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prefix": "/(", "prefix_regex": True}, "spec.prefix: '/(' is no RE2 pattern"),
        ({"prefix": "/(?=a)", "prefix_regex": True}, "no RE2 pattern"),
        ({"service": "10.0.0.1:80"}, "10.0.0.1 is an address, and resolver endpoint needs the name"),
        ({"resolver": "nobody"}, "spec.resolver: resolver nobody is unknown; declare it or use one of consul, "),
        (
            {"load_balancer": {"policy": "round_robin"}, "resolver": "kubernetes-service"},
            "spec.load_balancer: resolver kubernetes-service is a KubernetesServiceResolver, and Kubernetes",
        ),
    ],
)
def test_a_mapping_that_cannot_be_served_as_written_is_left_out(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(mapping(**fields))
    assert compiled.snapshot.routes == ()
    (error,) = said(compiled)
    assert reason in error
    assert error.endswith("; left out")


def test_all_errors_of_a_mapping_are_told_at_once() -> None:
    compiled = compile_objects(mapping(prefix="greet", resolver="nobody", tls="nobody"))
    assert [problem.path for problem in compiled.problems] == ["spec.prefix", "spec.resolver", "spec.tls"]


# Clusters and resolvers


@pytest.mark.parametrize(
    ("service", "cluster"),
    [
        ("greet", "greet.shop:80/KubernetesServiceResolver"),
        ("greet.other:50051", "greet.other:50051/KubernetesServiceResolver"),
        ("api.example.com:50051", "api.example.com:50051/KubernetesServiceResolver"),
        ("10.0.0.1:50051", "10.0.0.1:50051/KubernetesServiceResolver"),
        ("[::1]:50051", "[::1]:50051/KubernetesServiceResolver"),
    ],
)
def test_without_a_resolver_the_service_is_resolved_by_dns(service: str, cluster: str) -> None:
    compiled = compile_objects(mapping(resolver=None, service=service))
    assert list(compiled.snapshot.clusters) == [cluster]
    assert compiled.snapshot.clusters[cluster].resolver is ResolverKind.KUBERNETES_SERVICE
    assert compiled.problems == ()


def test_the_modules_resolver_is_the_default() -> None:
    compiled = compile_objects(mapping(resolver=None), module(resolver="endpoint"))
    assert only(compiled).clusters[0].cluster == "greet.shop:50051/KubernetesEndpointResolver"


def test_resolver_names_are_global_across_namespaces() -> None:
    resolver = obj("KubernetesEndpointResolver", "pods", namespace="far-away")
    assert (
        only(compile_objects(mapping(resolver="pods"), resolver))
        .clusters[0]
        .cluster.endswith("/KubernetesEndpointResolver")
    )


def test_a_resolver_name_means_one_kind() -> None:
    first = obj("KubernetesEndpointResolver", "pods", namespace="a")
    second = obj("KubernetesServiceResolver", "pods", namespace="b")
    compiled = compile_objects(mapping(resolver="pods"), second, first)
    assert only(compiled).clusters[0].cluster.endswith("/KubernetesEndpointResolver")
    assert "the name is taken by a KubernetesEndpointResolver" in said(compiled)[0]


def test_mappings_to_one_service_share_the_cluster_and_not_the_settings() -> None:
    compiled = compile_objects(
        obj("KubernetesEndpointResolver", "pods"),
        mapping("a", service="greet:50051", timeout_ms=1),
        mapping("b", service="http://greet.shop.svc.cluster.local:50051", resolver="pods", prefix="/b/", timeout_ms=2),
    )
    (cluster,) = compiled.snapshot.clusters.values()
    assert cluster.resolver_name == "endpoint"
    assert {one.clusters[0].cluster for one in destinations(compiled).values()} == {cluster.name}
    assert {label: one.timeout_ms for label, one in destinations(compiled).items()} == {"a.shop": 1, "b.shop": 2}


def test_a_service_is_the_same_cluster_however_it_is_written() -> None:
    short, long = (compile_objects(mapping(service=text)) for text in ("greet", "http://greet.shop.svc.cluster.local"))
    assert short.snapshot == long.snapshot


def test_the_module_can_move_unqualified_services_to_the_gateways_namespace() -> None:
    compiled = compile_objects(
        mapping(),
        module(use_ambassador_namespace_for_service_resolution=True),
        options=CompileOptions(gateway_namespace="gateways"),
    )
    assert only(compiled).clusters[0].cluster == "greet.gateways:50051/KubernetesEndpointResolver"


def test_name_parts_without_meaning_to_the_endpoint_resolver_are_a_notice() -> None:
    compiled = compile_objects(mapping(service="greet.other.example.com:50051"))
    assert only(compiled).clusters[0].cluster == "greet.other:50051/KubernetesEndpointResolver"
    assert "'.example.com' has no effect" in said(compiled, Severity.NOTICE)[0]


# The Module


def test_a_module_of_another_name_is_an_error() -> None:
    assert "named ambassador; no other is read" in said(compile_objects(obj("Module", "other", {"config": {}})))[0]
    assert "named ambassador; write a TLSContext instead" in said(compile_objects(obj("Module", "tls", {})))[0]


def test_of_several_modules_the_one_beside_the_gateway_is_read() -> None:
    compiled = compile_objects(
        mapping(),
        module("aaa", cluster_request_timeout_ms=1),
        module("gateways", cluster_request_timeout_ms=2),
        options=CompileOptions(gateway_namespace="gateways"),
    )
    assert only(compiled).timeout_ms == 2
    assert said(compiled) == [
        "ambassador.yaml: error: Module ambassador.aaa: another Module is in use, and only one is read; left out"
    ]


def test_a_module_that_breaks_keeps_its_last_good_version() -> None:
    before = compile_objects(mapping(), module(cluster_request_timeout_ms=1))
    after = compile_objects(mapping(), module(cluster_request_timeout_ms="x"), last=before)
    assert only(after).timeout_ms == 1
    assert said(after)[0].endswith("; the last good version keeps serving")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"no_such_key": 1}, "config.no_such_key: is an unknown field"),
        ({"defaults": {"udpmapping": {}}}, "config.defaults.udpmapping: is an unknown field"),
        ({"cluster_request_timeout_ms": "x"}, "config.cluster_request_timeout_ms: "),
    ],
)
def test_of_a_module_that_never_was_whole_each_wrong_key_leaves_out_itself(
    wrong: dict[str, object], message: str
) -> None:
    """Otherwise a key that Ambassador takes and grpcgw does not know would let in whom `ip_allow` keeps out."""
    broken = module(**wrong, ip_allow=[{"peer": "10.0.0.0/8"}])
    first = compile_objects(mapping(), broken)
    again = compile_objects(mapping(), broken, last=first)
    for compiled in (first, again):
        assert compiled.snapshot.clients.allow is not None
        (problem,) = said(compiled)
        assert message in problem
        assert problem.endswith("; the rest of the Module holds")
    mended = compile_objects(mapping(), module(ip_allow=[{"peer": "10.0.0.0/8"}]), last=again)
    assert said(mended) == []
    assert said(compile_objects(mapping(), broken, last=mended))[0].endswith("; the last good version keeps serving")


@pytest.mark.parametrize(
    "wrong",
    [
        {"ip_allow": "10.0.0.0/8"},
        {"ip_deny": 5},
        {"ip_deny": [{"remote": "10.0.0.0/8"}, {"remote": "10.0.0.256"}]},
        {"ip_deny": [{"remotes": "10.0.0.0/8"}]},
        {"ip_alow": [{"remote": "10.0.0.0/8"}]},
        {"ipAllow": [{"remote": "10.0.0.0/8"}]},
        {"ip_allow": [{"remote": "10.0.0.0/8"}], "use_proxy_proto": True},
        {"ip_allow": [{"remote": "10.0.0.0/8"}], "xff_num_trusted_hops": "1"},
        {"ip_deny": [{"remote": "10.0.0.0/8"}], "use_remote_adress": False},
    ],
    ids=str,
)
def test_a_module_that_never_was_whole_and_does_not_say_whom_to_serve_serves_nobody(wrong: dict[str, object]) -> None:
    first = compile_objects(mapping(), module(**wrong, cluster_request_timeout_ms=5), options=ON_GRPC)
    assert first.snapshot.clients.allow == ()
    assert only(first).timeout_ms == 5
    assert said(first)[0].endswith("; no client is served until it is corrected")
    assert compile_objects(mapping(), module(), last=first).snapshot.clients.allow is None


@pytest.mark.parametrize("spec", ["text", {"config": ["text"]}, {"config": "text"}], ids=str)
def test_a_module_of_which_nothing_can_be_read_serves_nobody(spec: object) -> None:
    compiled = compile_objects(mapping(), obj("Module", "ambassador", spec))
    assert compiled.snapshot.clients.allow == ()
    assert "no client is served until it is corrected" in said(compiled)[0]


@pytest.mark.parametrize(
    "broken",
    [
        obj("Module", "ambassador", {"config": {"ip_allow": [{"peer": "10.0.0.0/8"}]}, "typo": 1}),
        obj("Module", "ambassador", {"config": {"ip_allow": [{"peer": "10.0.0.0/8"}]}}, api="getambassador.io/v9"),
        module(ip_allow=[{"peer": "10.0.0.0/8"}, {"peer": "none"}], ip_deny=[]),
    ],
    ids=str,
)
def test_whom_a_module_lets_in_holds_whatever_else_is_wrong_with_it(broken: KubeObject) -> None:
    compiled = compile_objects(mapping(), broken)
    assert [rule.network for rule in compiled.snapshot.clients.allow or ()] == ["10.0.0.0/8"]
    assert len(said(compiled)) == 1


def test_a_bad_entry_of_ip_deny_keeps_the_last_good_module() -> None:
    before = compile_objects(mapping(), module(ip_deny=[{"peer": "10.0.0.0/8"}]))
    after = compile_objects(mapping(), module(ip_deny=[{"peer": "10.0.0.0/8"}, {"peer": "x"}]), last=before)
    assert after.snapshot == before.snapshot
    assert said(after)[0].endswith("; the last good version keeps serving")


def test_the_proxy_protocol_is_an_error_where_the_engine_cannot_read_it() -> None:
    asking = module(use_proxy_proto=True, cluster_request_timeout_ms=5)
    (problem,) = said(compile_objects(asking, options=ON_GRPC), Severity.ERROR)
    assert "config.use_proxy_proto: the generic-handler engine cannot read PROXY headers" in problem
    assert said(compile_objects(module(use_proxy_proto=False), options=ON_GRPC)) == []
    compiled = compile_objects(asking)
    assert said(compiled) == []
    assert compiled.snapshot.clients.proxy_protocol


def test_another_module_that_asks_for_proxy_headers_serves_nobody() -> None:
    other = obj("Module", "ambassador", {"config": {"use_proxy_proto": True}}, "elsewhere")
    for proxy_protocol, allow in ((False, ()), (True, None)):
        compiled = compile_objects(mapping(), module("default", use_proxy_proto=proxy_protocol), other)
        assert compiled.snapshot.clients.allow == allow


# Groups, weights, order


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ([None], [100]),
        ([10], [100]),
        ([0], [100]),
        ([None, None], [50, 50]),
        ([None, None, None], [33, 33, 34]),
        ([10, None], [10, 90]),
        ([10, None, None, None], [10, 30, 30, 30]),
        ([25, None, None], [25, 37, 38]),
        ([100, None], [100, 0]),
        ([30, 20], [30, 20]),
        ([0, 0], [0, 0]),
        ([60, 40], [60, 40]),
        ([60, 41], None),
        ([60, 41, None], None),
    ],
)
def test_shares_of_a_group(weights: list[int | None], shares: list[int] | None) -> None:
    assert share_weights(weights) == shares


@given(st.lists(st.none() | st.integers(0, 100), min_size=1, max_size=8))
def test_shares_never_exceed_100_and_weightless_members_fill_it_up(weights: list[int | None]) -> None:
    shares = share_weights(weights)
    if shares is None:
        assert sum(weight or 0 for weight in weights) > 100
    elif None in weights or len(weights) == 1:
        assert sum(shares) == 100
    else:
        assert shares == weights


def test_mappings_that_match_alike_are_one_route() -> None:
    compiled = compile_objects(mapping("canary", weight=10), mapping("main"), mapping("main", namespace="other"))
    (route,) = compiled.snapshot.routes
    assert [(one.label, one.weight) for one in route.destinations] == [
        ("main.other", 45),
        ("canary.shop", 10),
        ("main.shop", 45),
    ]


def test_precedence_makes_a_separate_route() -> None:
    compiled = compile_objects(mapping("usual"), mapping("first", precedence=1))
    assert list(destinations(compiled)) == ["first.shop", "usual.shop"]
    assert compiled.problems == ()


def test_routes_are_evaluated_by_precedence_then_length_then_text_descending() -> None:
    prefixes = {"/a/": 0, "/b/": 0, "/": 1, "/longest/of/all/": -1, "/long/": 0}
    objects = [
        mapping(f"m{index}", prefix=prefix, precedence=precedence)
        for index, (prefix, precedence) in enumerate(prefixes.items())
    ]
    assert order(compile_objects(*objects)) == [
        "prefix /", "prefix /long/", "prefix /b/", "prefix /a/", "prefix /longest/of/all/",
    ]  # fmt: skip


def test_a_group_with_too_much_weight_gets_nothing_and_all_members_say_so() -> None:
    compiled = compile_objects(mapping("a", weight=60), mapping("b", weight=50), mapping("other", prefix="/o/"))
    assert list(destinations(compiled)) == ["other.shop"]
    assert said(compiled) == [
        f"{name}.yaml: error: Mapping {name}.shop spec.weight: the weights over /greet.GrpcService/ add up to 110"
        " (a.shop 60, b.shop 50); at most 100 are allowed; left out"
        for name in ("a", "b")
    ]


@pytest.mark.parametrize(("weights", "total"), [((10, 20), 30), ((0, 0), 0)])
def test_who_leaves_calls_without_a_mapping_is_told(weights: tuple[int, int], total: int) -> None:
    a, b = weights
    compiled = compile_objects(mapping("a", weight=a), mapping("b", weight=b), mapping("c", weight=5, shadow=True))
    assert said(compiled) == [
        f"a.yaml: notice: Mapping a.shop spec.weight: the weights over /greet.GrpcService/ add up to {total}, so"
        f" {100 - total} of 100 calls end with UNAVAILABLE; leave the weight of one Mapping out, and it gets the rest"
    ]
    assert compile_objects(mapping("a", weight=a), mapping("b")).problems == ()


def test_both_names_of_the_keepalive_time_are_one_field_to_a_group() -> None:
    compiled = compile_objects(mapping("a", keepalive={"time": 9}), mapping("b", keepalive={"idle_time": 9}))
    assert said(compiled, Severity.ERROR) == []
    other = compile_objects(mapping("a", keepalive={"time": 9}), mapping("b", keepalive={"idle_time": 8}))
    assert "mismatched keepalive: {'time': 8} != {'time': 9}" in said(other)[0]


def test_a_mismatch_is_told_in_the_words_of_the_mapping() -> None:
    headers = compile_objects(
        mapping("a", headers={"x": "1", "y": True}), mapping("b", regex_headers={"x": "1", "y": ""})
    )
    assert "mismatched headers: x like a pattern, y like a pattern != x equal to a value;" in said(headers)[0]
    hosts = compile_objects(mapping("a", host="a.b"), mapping("b", host="a.b", host_regex=True))
    assert "mismatched host: regex 'a.b' != exact 'a.b';" in said(hosts)[0]


def test_a_change_that_overloads_a_group_leaves_the_former_shares() -> None:
    before = compile_objects(mapping("a", weight=60), mapping("b", weight=40))
    changed = (mapping("a", weight=60), mapping("b", weight=50), mapping("c", weight=1))
    after = compile_objects(*changed, last=before)
    assert after.snapshot == before.snapshot
    assert [problem.message.rpartition("; ")[2] for problem in after.problems] == [
        "the last good version keeps serving", "the last good version keeps serving", "left out",
    ]  # fmt: skip
    assert compile_objects(*changed, last=after).snapshot == before.snapshot


# Last good versions


def test_the_last_good_version_of_a_broken_object_keeps_serving() -> None:
    before = compile_objects(mapping(timeout_ms=1))
    after = compile_objects(mapping(timeout_ms="x"), last=before)
    assert after.snapshot == before.snapshot
    assert said(after) == [
        "greet.yaml: error: Mapping greet.shop spec.timeout_ms: should be a valid integer, not 'x';"
        " the last good version keeps serving"
    ]
    still = compile_objects(mapping(timeout_ms="y"), last=after)
    assert still.snapshot == before.snapshot
    mended = compile_objects(mapping(timeout_ms=2), last=still)
    assert only(mended).timeout_ms == 2
    assert mended.problems == ()


def test_the_last_good_version_must_fit_todays_context_and_comes_back_with_it() -> None:
    resolver = obj("KubernetesEndpointResolver", "pods")
    good, bad = mapping(resolver="pods"), mapping(resolver="pods", grpc=3)
    first = compile_objects(resolver, good)
    broken = compile_objects(resolver, bad, last=first)
    alone = compile_objects(bad, last=broken)
    assert alone.snapshot.routes == ()
    assert said(alone)[0].endswith("; left out")
    again = compile_objects(resolver, bad, last=alone)
    assert again.snapshot == first.snapshot


def test_an_object_that_is_gone_is_gone() -> None:
    before = compile_objects(mapping())
    gone = compile_objects(last=before)
    assert gone.snapshot.routes == ()
    assert compile_objects(mapping(grpc=3), last=gone).snapshot.routes == ()


def test_an_object_that_goes_to_another_gateway_is_gone() -> None:
    before = compile_objects(mapping())
    after = compile_objects(mapping(ambassador_id="other"), last=before)
    assert after.snapshot.routes == ()
    assert not after.last_good


# Versions


def test_the_version_is_12_hex_digits_of_the_content() -> None:
    version = compile_objects(mapping()).snapshot.version
    assert len(version) == 12
    assert int(version, 16) >= 0
    elsewhere = KubeObject("getambassador.io/v2", mapping().key, mapping().body, Source("elsewhere.yaml"))
    assert compile_objects(elsewhere).snapshot.version == version


@given(st.randoms(use_true_random=False))
def test_neither_snapshot_nor_problems_depend_on_the_order_of_the_objects(random: object) -> None:
    objects = list(POPULATION)
    random.shuffle(objects)  # type: ignore[attr-defined]
    expected, found = compile_objects(*POPULATION), compile_objects(*objects)
    assert found.snapshot == expected.snapshot
    assert found.snapshot.version == expected.snapshot.version
    assert found.problems == expected.problems


CHANGES: Mapping[str, dict[str, object]] = {
    "prefix": {"prefix": "/other/"},
    "kind of match": {"prefix_exact": True},
    "precedence": {"precedence": 1},
    "service": {"service": "other:50051"},
    "port": {"service": "greet:1"},
    "resolver": {"resolver": None},
    "name of the resolver": {"resolver": "kubernetes-endpoint"},
    "rewrite": {"rewrite": "/x/"},
    "timeout": {"timeout_ms": 1},
    "idle timeout": {"idle_timeout_ms": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_what_is_served_changes_the_version(change: str) -> None:
    changed = compile_objects(mapping(**CHANGES[change])).snapshot
    assert changed.routes
    assert changed.version != compile_objects(mapping()).snapshot.version


POPULATION = (
    module(),
    obj("KubernetesEndpointResolver", "pods"),
    obj("KubernetesServiceResolver", "pods", namespace="z"),
    mapping("a", weight=10),
    mapping("b", resolver="pods"),
    mapping("b", namespace="other"),
    mapping("bad", grpc=3, timeout_ms="x"),
    mapping("c", prefix="/c/", connect_timeout_ms=1),
    obj("Host", "host", {"hostname": "example.com", "tlsSecret": {"name": "cert"}}),
    obj("TLSContext", "tls", {"hosts": ["*"], "secret": "cert"}),
    secret(*key_pair("a")),
)
