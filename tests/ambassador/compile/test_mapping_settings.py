"""The settings of a Mapping as values: what is written, what the Module gives, what cannot be."""

from __future__ import annotations

import pytest

from grpcgw.model.balancing import HealthCheck, LoadBalancer, OutlierDetection
from grpcgw.model.edits import HeaderAdd, RegexRewrite
from grpcgw.model.objects import Severity
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy
from grpcgw.model.route_source import CompileOptions
from tests.compiling import compile_objects, destinations, mapping, module, only, said

UNAVAILABLE, ABORTED = 14, 10

GOOD = {
    "least_request": (
        {"load_balancer": {"policy": "least_request"}},
        {"load_balancer": LoadBalancer("least_request")},
    ),
    "ring_hash by header": (
        {"load_balancer": {"policy": "ring_hash", "header": "X-User"}},
        {"load_balancer": LoadBalancer("ring_hash", header="x-user")},
    ),
    "maglev by source_ip": (
        {"load_balancer": {"policy": "maglev", "source_ip": True}},
        {"load_balancer": LoadBalancer("maglev", source_ip=True)},
    ),
    "additions": (
        {"load_balancer": {"policy": "weighted_round_robin", "slow_start_ms": 9, "prefer_same_zone": True}},
        {"load_balancer": LoadBalancer("weighted_round_robin", slow_start_ms=9, prefer_same_zone=True)},
    ),
    "regex_rewrite": (
        {"regex_rewrite": {"pattern": "/v1[.](.*)", "substitution": "/v2.\\1"}},
        {"regex_rewrite": RegexRewrite("/v1[.](.*)", "/v2.\\1")},
    ),
    "host_rewrite": ({"host_rewrite": "pod.example.com:1"}, {"authority": "pod.example.com:1"}),
    "auto_host_rewrite": ({"auto_host_rewrite": True}, {"authority": "greet.shop"}),
    "priority": ({"priority": "high"}, {"priority": Priority.HIGH}),
    "stats_name": ({"stats_name": "one"}, {"stats_name": "one"}),
    "v3StatsName": ({"v3StatsName": "one"}, {"stats_name": "one"}),
    "retry_policy": (
        {"retry_policy": {"retry_on": "unavailable"}},
        {"retry": RetryPolicy(frozenset({UNAVAILABLE}), 1, None, 20)},
    ),
    "retry_policy in full": (
        {"retry_policy": {"retry_on": ["cancelled", "deadline-exceeded"], "num_retries": 0, "per_try_timeout": "1.5s",
                          "budget_percent": 0}},
        {"retry": RetryPolicy(frozenset({1, 4}), 0, 1_500, 0)},
    ),
    "retry_on with commas": (
        {"retry_policy": {"retry_on": "5xx, resource-exhausted,internal"}},
        {"retry": RetryPolicy(frozenset({UNAVAILABLE, 8, 13}))},
    ),
    "retry_on in words of HTTP": (
        {"retry_policy": {"retry_on": ["gateway-error", "retriable-4xx"], "per_try_timeout": "0s"}},
        {"retry": RetryPolicy(frozenset({UNAVAILABLE, ABORTED}))},
    ),
    "retry_on of RPCs that never reached a pod": (
        {"retry_policy": {"retry_on": ["connect-failure", "refused-stream"], "num_retries": 3}},
        {"retry": RetryPolicy(frozenset(), 3)},
    ),
    "circuit_breakers": (
        {"circuit_breakers": [{"priority": "high", "max_retries": 0}, {"max_requests": 5, "max_connections": 2}]},
        {"circuit_breakers": (
            CircuitBreaker(max_connections=2, max_requests=5), CircuitBreaker(Priority.HIGH, max_retries=0),
        )},
    ),
    "health_checks": (
        {"health_checks": [{"health_check": {"grpc": {"upstream_name": "greet"}}}]},
        {"health_check": HealthCheck("greet", "", 3_000, 5_000, 2, 1)},
    ),
    "health_checks in full": (
        {"v3health_checks": [{"timeout": "500ms", "interval": "1m30s", "unhealthy_threshold": 3, "healthy_threshold": 4,
                              "health_check": {"grpc": {"upstream_name": "", "authority": "a"}}}]},
        {"health_check": HealthCheck("", "a", 500, 90_000, 3, 4)},
    ),
    "outlier_detection": ({"outlier_detection": {}}, {"outlier_detection": OutlierDetection()}),
    "outlier_detection in full": (
        {"outlier_detection": {"consecutive_failures": 0, "interval_ms": 1, "base_ejection_ms": 2, "max_ejection_ms": 3,
                               "max_ejection_percent": 4, "success_rate_stdev_factor": 5,
                               "success_rate_minimum_pods": 6, "success_rate_request_volume": 7}},
        {"outlier_detection": OutlierDetection(None, 1, 2, 3, 4, 5, 6, 7)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", GOOD)
def test_a_setting_becomes_its_value(case: str) -> None:
    fields, expected = GOOD[case]
    compiled = compile_objects(mapping(**fields))
    assert compiled.problems == ()
    made = only(compiled)
    holders = {name: made.balancing if hasattr(made.balancing, name) else made for name in expected}
    assert {name: getattr(holder, name) for name, holder in holders.items()} == expected


BAD = {
    "policy": ({"load_balancer": {"policy": "random"}}, "load_balancer.policy: should be 'round_robin', 'least_req"),
    "policy alone": ({"load_balancer": "round_robin"}, "load_balancer: should be an object of fields, not 'round_"),
    "no hash source": ({"load_balancer": {"policy": "maglev"}}, "policy maglev needs exactly one of header, source_ip"),
    "slow start of a hash": (
        {"load_balancer": {"policy": "maglev", "source_ip": True, "slow_start_ms": 1}}, "maglev takes no slow_start_ms",
    ),
    "hash header": ({"load_balancer": {"policy": "maglev", "header": "a b"}}, "header: 'a b' is no metadata key"),
    "rewrite pattern": ({"regex_rewrite": {"pattern": "(", "substitution": ""}}, "regex_rewrite.pattern: '(' is no"),
    "rewrite group": (
        {"regex_rewrite": {"pattern": "(a)", "substitution": "\\2"}},
        "regex_rewrite.substitution: the substitution names group 2, but the pattern has 1",
    ),
    "rewrite escape": ({"regex_rewrite": {"pattern": "a", "substitution": "\\n"}}, "'\\n' in the substitution means"),
    "rewrite half": ({"regex_rewrite": {"pattern": "a"}}, "regex_rewrite.substitution: is required"),
    "host_rewrite": ({"host_rewrite": "a b"}, "host_rewrite: 'a b' is no :authority"),
    "host_rewrite with a brace": ({"host_rewrite": "example.com}"}, "host_rewrite: 'example.com}' is no :authority"),
    "host_rewrite with a path": ({"host_rewrite": "a/b"}, "host_rewrite: 'a/b' is no :authority"),
    "host_rewrite without a host": ({"host_rewrite": ":80"}, "host_rewrite: ':80' is no :authority"),
    "rewrite without its slash": ({"rewrite": "other.Service/"}, "rewrite: 'other.Service/' is no path"),
    "rewrite with a newline": ({"rewrite": "/a\n/"}, "rewrite: '/a\\n/' is no path"),
    "rewrite to a space": (
        {"regex_rewrite": {"pattern": "a", "substitution": "a b"}}, "regex_rewrite.substitution: 'a b' should have",
    ),
    "priority": ({"priority": "low"}, "priority: should be 'default' or 'high', not 'low'"),
    "connect timeout": ({"connect_timeout_ms": 0}, "connect_timeout_ms: should be greater than or equal to 1, not 0"),
    "keepalive": ({"keepalive": {"time": "1s"}}, "keepalive.time: should be a valid integer"),
    "keepalive twice": ({"keepalive": {"time": 1, "idle_time": 2}}, "time 1 and idle_time 2 are one field"),
    "retry_on": ({"retry_policy": {"retry_on": "never"}}, "retry_policy.retry_on.0: should be '5xx', 'gateway-error'"),
    "retry_on in a list": ({"retry_policy": {"retry_on": ["5xx", "reset"]}}, "retry_policy.retry_on.1: should be"),
    "no retry_on": ({"retry_policy": {"num_retries": 1}}, "retry_policy.retry_on: is required"),
    "empty retry_on": ({"retry_policy": {"retry_on": []}}, "retry_policy.retry_on: "),
    "num_retries": ({"retry_policy": {"retry_on": "5xx", "num_retries": -1}}, "retry_policy.num_retries: should be"),
    "per_try_timeout": (
        {"retry_policy": {"retry_on": "5xx", "per_try_timeout": "1"}},
        "retry_policy.per_try_timeout: '1' is no duration: write a number with a unit, like 1500ms, 3s or 1m30s",
    ),
    "misspelt key": (
        {"retry_policy": {"retry_on": "5xx", "num_retry": 1}}, "is an unknown field; did you mean num_retries?",
    ),
    "breaker": ({"circuit_breakers": [{"max_requests": "1"}]}, "circuit_breakers.0.max_requests: should be a"),
    "breaker of no priority": ({"circuit_breakers": [{"priority": "low"}]}, "circuit_breakers.0.priority: should be"),
    "two breakers": ({"circuit_breakers": [{}, {}]}, "circuit_breakers.1: there is another circuit breaker"),
    "no health check": ({"health_checks": []}, "health_checks: "),
    "added authority": ({"add_request_headers": {":authority": "a"}}, "add_request_headers.:authority: "),
    "added operator": ({"add_request_headers": {"x": "%NOBODY%"}}, "add_request_headers.x: %NOBODY% is not among"),
    "added percent": ({"add_response_headers": {"x": "5%"}}, "add_response_headers.x: "),
    "added letter": ({"add_request_headers": {"x": "\u00e9"}}, "add_request_headers.x: "),
    "added number": ({"add_request_headers": {"x": 1}}, "add_request_headers.x: "),
    "removed": ({"remove_request_headers": ["x", "a b"]}, "remove_request_headers.1: 'a b' is no header name"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_setting_that_cannot_be_is_an_error_with_its_path(case: str) -> None:
    fields, reason = BAD[case]
    compiled = compile_objects(mapping(**fields))
    assert compiled.snapshot.routes == ()
    (error,) = said(compiled)
    assert reason in error
    assert error.endswith("; left out")


# What is reported and does not keep the Mapping from serving


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"rewrite": "/x/", "regex_rewrite": {"pattern": "a", "substitution": "b"}}, "rewrite: has no effect beside"),
        ({"host_rewrite": "a", "auto_host_rewrite": True}, "auto_host_rewrite: has no effect beside host_rewrite"),
        ({"load_balancer": {"policy": "maglev", "cookie": {"name": "c"}}}, "gRPC clients keep no cookies"),
        (
            {"load_balancer": {"policy": "maglev", "header": "Host"}},
            "load_balancer.header: Host has no effect: grpc does not show this key",
        ),
        (
            {"load_balancer": {"policy": "ring_hash", "header": "grpc-timeout"}},
            "grpc-timeout has no effect: grpc does not show this key",
        ),
        (
            {"load_balancer": {"policy": "ring_hash", "header": "content-type"}},
            "content-type has no effect: grpc does not show this key",
        ),
        ({"retry_policy": {"retry_on": "retriable-status-codes"}}, "retriable-status-codes has no effect"),
        ({"health_checks": [{"health_check": {"http": {"path": "/"}}}]}, "health_checks.0.health_check: has no effect"),
        ({"dns_type": "logical_dns"}, "dns_type: has no effect: resolver endpoint does not use DNS"),
        ({"dns_type": "dns", "resolver": None}, "dns_type: 'dns' is neither strict_dns nor logical_dns; strict_dns is"),
        ({"respect_dns_ttl": True}, "respect_dns_ttl: has no effect"),
        ({"host_regex": True}, "host_regex: has no effect without host"),
        (
            {"add_response_headers": {"Content-Type": "text/plain"}},
            "add_response_headers.Content-Type: has no effect: Content-Type is set by gRPC itself",
        ),
        (
            {"add_request_headers": {"grpc-timeout": "1S"}},
            "grpc-timeout: has no effect: grpc-timeout cannot be changed as",
        ),
        ({"headers": {"X-Forwarded-Proto": "https"}}, "is compared with what the client sent"),
        ({"regex_headers": {"x-request-id": ".+"}}, "is compared with what the client sent"),
        (
            {"add_request_headers": {"x-san": "%DOWNSTREAM_PEER_URI_SAN%"}},
            "add_request_headers.x-san: %DOWNSTREAM_PEER_URI_SAN% is empty: grpcgw does not know its value",
        ),
        ({"circuit_breakers": [{"max_requests": 1}], "priority": "high"}, "circuit_breakers: has no effect: calls of"),
        ({"circuit_breakers": [{"max_requests": 1, "priority": "high"}]}, "circuit_breakers: has no effect: calls of"),
    ],
)
def test_a_setting_without_effect_is_a_notice(fields: dict[str, object], reason: str) -> None:
    compiled = compile_objects(mapping(**fields))
    assert compiled.snapshot.routes
    (notice,) = said(compiled, Severity.NOTICE)
    assert reason in notice
    assert said(compiled, Severity.ERROR) == []


CHECK = {"health_check": {"grpc": {"upstream_name": "good"}}}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"timeout": "3"}, "spec.health_checks.0.health_check: is required; this entry is left out"),
        ({**CHECK, "timeout": "3"}, "spec.health_checks.0.timeout: '3' is no duration"),
        ({**CHECK, "interval": "0s"}, "spec.health_checks.0.interval: '0s' is no time at all"),
        ({"health_check": {"grpc": {"upstream_name": "a", "authority": "b c"}}}, "grpc.authority: 'b c' is no :auth"),
        ({**CHECK, "healthy_threshold": 0}, "spec.health_checks.0.healthy_threshold: should be greater"),
        ({"health_check": {"grpc": {"upstream_name": "a"}, "http": {}}}, "needs exactly one of grpc and http"),
        ({"health_check": {}}, "needs exactly one of grpc and http"),
        ("text", "spec.health_checks.0: "),
    ],
)
def test_a_bad_health_check_is_skipped_with_an_error_and_the_others_are_kept(bad: object, reason: str) -> None:
    compiled = compile_objects(mapping(health_checks=[bad, CHECK]))
    assert only(compiled).balancing.health_check == HealthCheck("good")
    assert any(reason in error for error in said(compiled, Severity.ERROR))


def test_only_the_first_health_check_is_made() -> None:
    compiled = compile_objects(mapping(health_checks=[CHECK, CHECK]))
    assert "spec.health_checks.1: only the first health check is used" in said(compiled, Severity.ERROR)[0]


def test_a_health_check_needs_a_resolver_that_knows_the_pods() -> None:
    compiled = compile_objects(mapping(health_checks=[CHECK], resolver="kubernetes-service"))
    assert only(compiled).balancing.health_check is None
    assert "spec.health_checks: resolver kubernetes-service is a KubernetesServiceResolver" in said(compiled)[0]


@pytest.mark.parametrize(("written", "reason"), [("x", "takes no text"), ({"interval_ms": 0}, "interval_ms")])
def test_outlier_detection_that_cannot_be_is_an_error_and_the_mapping_serves(written: object, reason: str) -> None:
    compiled = compile_objects(mapping(outlier_detection=written))
    assert only(compiled).balancing.outlier_detection is None
    (error,) = said(compiled, Severity.ERROR)
    assert reason in error


# Headers


def test_headers_are_added_and_removed_in_both_spellings() -> None:
    compiled = compile_objects(
        mapping(
            add_request_headers={"X-B": "%REQ(x-a?x-c):5% %%", "x-a": {"value": "1", "append": False}},
            remove_request_headers="X-Internal",
            add_response_headers={"x-from": {"value": "%DOWNSTREAM_REMOTE_ADDRESS%"}},
            remove_response_headers=["b", "a", "a"],
        )
    )
    destination = only(compiled)
    assert compiled.problems == ()
    assert destination.request_headers.add == (
        HeaderAdd("x-a", "1", append=False), HeaderAdd("x-b", "%REQ(x-a?x-c):5% %%"),
    )  # fmt: skip
    assert destination.request_headers.remove == ("x-internal",)
    assert destination.response_headers.add == (HeaderAdd("x-from", "%DOWNSTREAM_REMOTE_ADDRESS%"),)
    assert destination.response_headers.remove == ("a", "b")


def test_the_headers_of_a_group_are_those_of_all_its_mappings_and_the_later_wins() -> None:
    compiled = compile_objects(
        mapping("a", add_request_headers={"x": "a", "y": "a"}, remove_response_headers="r"),
        mapping("b", add_request_headers={"x": "b"}, remove_response_headers="s"),
    )
    for destination in destinations(compiled).values():
        assert {header.name: header.value for header in destination.request_headers.add} == {"x": "b", "y": "a"}
        assert destination.response_headers.remove == ("r", "s")


def test_linkerd_is_told_the_service_of_each_mapping() -> None:
    linkerd = module(add_linkerd_headers=True)
    compiled = compile_objects(mapping("a"), mapping("b", service="other.far:1"), linkerd)
    told = {label: one.request_headers.add for label, one in destinations(compiled).items()}
    assert told == {
        "a.shop": (HeaderAdd("l5d-dst-override", "greet.shop:50051", append=False),),
        "b.shop": (HeaderAdd("l5d-dst-override", "other.far:1", append=False),),
    }


# The Module's defaults


DEFAULTS = {
    "remove_request_headers": ["x"], "add_request_headers": {"y": "1"}, "priority": "high", "stats_name": "one",
    "idle_timeout_ms": 5, "retry_policy": {"retry_on": "5xx"}, "outlier_detection": {"interval_ms": 3},
}  # fmt: skip


def test_defaults_apply_where_a_mapping_says_nothing() -> None:
    destination = only(compile_objects(mapping(), module(defaults={"httpmapping": DEFAULTS})))
    assert destination == only(compile_objects(mapping(**DEFAULTS)))
    assert destination.priority is Priority.HIGH


def test_a_mapping_wins_over_defaults_and_defaults_over_the_modules_keys() -> None:
    keys = {"retry_policy": {"retry_on": "5xx", "num_retries": 1}, "cluster_request_timeout_ms": 1}
    defaults = {"httpmapping": {"retry_policy": {"retry_on": "5xx", "num_retries": 2}, "timeout_ms": 2}}
    own = {"retry_policy": {"retry_on": "5xx", "num_retries": 3}, "timeout_ms": 3}
    for fields, config, expected in [
        ({}, keys, 1),
        ({}, {**keys, "defaults": defaults}, 2),
        (own, {**keys, "defaults": defaults}, 3),
    ]:
        destination = only(compile_objects(mapping(**fields), module(**config)))
        assert destination.retry is not None
        assert (destination.retry.num_retries, destination.timeout_ms) == (expected, expected)


def test_an_empty_value_of_a_mapping_is_its_own() -> None:
    compiled = compile_objects(mapping(add_request_headers={}), module(defaults={"httpmapping": DEFAULTS}))
    assert only(compiled).request_headers.add == ()


def test_the_modules_load_balancer_is_for_mappings_whose_resolver_knows_the_pods() -> None:
    compiled = compile_objects(
        mapping("a"), mapping("b", prefix="/b/", resolver="kubernetes-service"),
        module(load_balancer={"policy": "ring_hash", "header": "x"}),
    )  # fmt: skip
    assert {label: one.balancing.load_balancer.policy for label, one in destinations(compiled).items()} == {
        "a.shop": "ring_hash",
        "b.shop": "round_robin",
    }
    assert compiled.problems == ()


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({"load_balancer": {"policy": "ring_hash", "header": "a b"}}, "spec.config.load_balancer.header"),
        ({"circuit_breakers": [{}, {}]}, "spec.config.circuit_breakers.1"),
        ({"defaults": {"httpmapping": {"add_request_headers": {"x": "%NO%"}}}},
         "spec.config.defaults.httpmapping.add_request_headers.x"),
        ({"defaults": {"httpmapping": {"prefix": "/"}}}, "spec.config.defaults.httpmapping.prefix"),
        ({"regex_max_size": 0}, "spec.config.regex_max_size"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_default_is_said_of_the_module(config: dict[str, object], path: str) -> None:
    compiled = compile_objects(mapping(), module(**config))
    (problem,) = compiled.problems
    assert (str(problem.object), problem.path) == ("Module ambassador.shop", path)
    assert compiled.snapshot.routes


def test_who_prefers_a_zone_is_told_that_the_gateway_does_not_know_its_own() -> None:
    preferring = mapping(load_balancer={"policy": "round_robin", "prefer_same_zone": True})
    (told,) = said(compile_objects(preferring, options=CompileOptions(zone_unknown=True)))
    assert "load_balancer.prefer_same_zone: has no effect: the gateway does not know its zone" in told
    assert said(compile_objects(preferring)) == []
    assert said(compile_objects(mapping(), options=CompileOptions(zone_unknown=True))) == []


def test_the_size_of_messages_is_a_mapping_s_or_the_module_s_default() -> None:
    def limit(*objects: object) -> int | None:
        (route,) = compile_objects(*objects).snapshot.routes  # type: ignore[arg-type]  # objects as `mapping` makes them
        return route.destinations[0].max_message_bytes

    assert limit(mapping()) is None
    assert limit(mapping(max_message_bytes=5)) == 5
    default = module(defaults={"httpmapping": {"max_message_bytes": 7}})
    assert limit(mapping(), default) == 7
    assert limit(mapping(max_message_bytes=5), default) == 5


def test_an_older_name_in_a_mapping_wins_over_the_default_of_its_field() -> None:
    check = {"health_check": {"grpc": {"upstream_name": "own"}}}
    default = {"stats_name": "default", "health_checks": [{"health_check": {"grpc": {"upstream_name": "default"}}}]}
    compiled = compile_objects(
        mapping(v3StatsName="own", v3health_checks=[check]), module(defaults={"httpmapping": default})
    )
    assert only(compiled).stats_name == "own"
    assert only(compiled).balancing.health_check == HealthCheck("own")


def test_null_in_a_mapping_leaves_the_default() -> None:
    null = mapping()
    spec = null.body["spec"]
    assert isinstance(spec, dict)
    spec["timeout_ms"] = None
    assert only(compile_objects(null, module(cluster_request_timeout_ms=7))).timeout_ms == 7


def test_what_is_odd_in_a_default_is_said_once_of_the_module_and_not_of_each_mapping() -> None:
    given = module(
        load_balancer={"policy": "ring_hash", "cookie": {"name": "c"}},
        defaults={"httpmapping": {"outlier_detection": "text", "stats_name": "s"}},
    )
    compiled = compile_objects(mapping("a"), mapping("b", prefix="/b/"), given)
    assert len(destinations(compiled)) == 2
    assert [problem.path for problem in compiled.problems] == [
        "spec.config.load_balancer.cookie",
        "spec.config.defaults.httpmapping.outlier_detection",
    ]
