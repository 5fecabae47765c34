"""What the views say about a gateway: counters of the workers added up, states merged, health coloured."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admin.admin_states import (
    GREET,
    NOW_S,
    empty_state,
    greet_state,
    make_destination,
    make_method,
    make_route,
    make_worker,
    many_routes_state,
    problem_state,
)
from grpcgw.admin.cluster_views import Health, PodView, health_of
from grpcgw.admin.describe import describe_balancing, describe_host
from grpcgw.admin.diagnostics import DIAGNOSTICS_KEYS, render_diagnostics
from grpcgw.admin.humanize import format_age, format_count, format_duration, format_latency
from grpcgw.admin.page import render_page
from grpcgw.admin.state import GatewayState
from grpcgw.admin.views import (
    not_ready_reason,
    view_gateway,
)
from grpcgw.model.balancing import Balancing, LoadBalancer, OutlierDetection
from grpcgw.model.edits import HeaderAdd, HeaderEdits, RegexRewrite
from grpcgw.model.endpoints import EndpointSet, PodState
from grpcgw.model.filters import make_filter_policy
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.match import HeaderMatch, HostKind, HostMatch
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy
from grpcgw.model.route import WeightedCluster
from grpcgw.telemetry.report import PodReport, ShadowReport


def pods_of(state, cluster=GREET):
    return {view.cluster.name: view for view in view_gateway(state).clusters}[cluster].pods


def test_pod_counters_are_summed_over_workers_and_the_mean_is_weighted() -> None:
    report = PodReport(GREET, "10.244.1.7:50051", PodState.READY, 1, 11, 1, 2.0)
    slow = replace(report, in_flight=0, total=30, failures=2, latency_mean_ms=6.0)
    state = replace(greet_state(), workers=(make_worker(0, (report,), ()), make_worker(1, (slow,), ())))

    pod = pods_of(state)[0]

    assert (pod.in_flight, pod.total, pod.failures) == (1, 41, 3)
    assert pod.latency_mean_ms == pytest.approx((10 * 2.0 + 30 * 6.0) / 40)


def test_a_pod_shows_the_worst_state_any_worker_sees_and_that_ones_error() -> None:
    pod = {pod.address: pod for pod in pods_of(problem_state(), "canary")}["10.244.3.4:50051"]

    assert pod.state == "connecting"
    assert pod.states == {PodState.READY: 1, PodState.CONNECTING: 1}
    assert pod.last_error == "keepalive timed out"


def test_a_pod_no_worker_has_reported_is_unknown_and_keeps_its_name() -> None:
    state = replace(greet_state(), workers=())

    assert [(pod.name, pod.state) for pod in pods_of(state)] == [
        ("grpcserver-5c9d8-abcde", "unknown"),
        ("grpcserver-5c9d8-fghij", "unknown"),
    ]


def test_a_pod_that_left_the_service_is_shown_while_a_worker_still_reports_it() -> None:
    assert [pod.address for pod in pods_of(problem_state())][-1] == "10.244.9.1:50051"
    assert pods_of(problem_state())[-1].state == "draining"


def test_a_cluster_without_an_endpoint_set_is_not_resolved_yet() -> None:
    cluster = view_gateway(replace(greet_state(), endpoints={}, workers=())).clusters[0]

    assert not cluster.resolved
    assert cluster.pods == ()


@pytest.mark.parametrize(
    ("share", "colour"),
    [
        (None, Health.GRAY),
        (0.0, Health.RED),
        (0.699, Health.RED),
        (0.7, Health.YELLOW),
        (0.899, Health.YELLOW),
        (0.9, Health.GREEN),
        (1.0, Health.GREEN),
    ],
)
def test_health_changes_colour_at_seventy_and_ninety_per_cent(share: float | None, colour: Health) -> None:
    assert health_of(share) is colour


def test_rpcs_in_flight_are_neither_successes_nor_failures() -> None:
    report = PodReport(GREET, "10.244.1.7:50051", PodState.READY, 90, 100, 5, 1.0)
    state = replace(greet_state(), workers=(make_worker(0, (report,), ()),))

    assert view_gateway(state).clusters[0].success_share == pytest.approx(0.5)


def test_destinations_get_the_traffic_of_their_own_mapping_over_all_workers() -> None:
    methods = (make_method("grpcserver.default", "Greet", {0: 3, 14: 1}), make_method("else.default", "Greet", {0: 50}))
    state = replace(greet_state(), workers=(make_worker(0, (), methods), make_worker(1, (), methods)))

    traffic = view_gateway(state).routes[0].destinations[0].traffic

    assert (traffic.finished, traffic.not_ok) == (8, 2)
    assert traffic.latency_mean_ms == pytest.approx(2.0)
    assert traffic.latency_below_ms(0.99) == pytest.approx(2.5)


def test_rpcs_that_matched_no_mapping_are_counted_apart() -> None:
    assert view_gateway(problem_state()).unmatched.finished == 7


def test_methods_of_a_mapping_that_have_no_name_are_matched_all_the_same() -> None:
    state = greet_state()
    unnamed = make_method("grpcserver.default", "other", {12: 3}, service="other")
    view = view_gateway(replace(state, workers=(make_worker(0, (), (unnamed,)),)))

    assert view.unmatched.finished == 0
    assert view.routes[0].destinations[0].traffic.finished == 3


def test_errors_come_before_notices_and_both_keep_their_order() -> None:
    view = view_gateway(problem_state())

    assert [problem.where for problem in view.errors] == ["examples/greet/typo.yaml:9", "examples/greet/broken.yaml:3"]
    assert [problem.where for problem in view.notices] == ["examples/greet/old.yaml:11"]


def test_route_keys_are_unique_and_do_not_depend_on_other_routes() -> None:
    many = view_gateway(many_routes_state(200)).routes
    few = view_gateway(many_routes_state(60)).routes

    assert len({route.key for route in many}) == 200
    assert [route.key for route in few] == [route.key for route in many[:60]]


def test_the_route_key_tells_matches_apart_that_differ_in_precedence_only() -> None:
    state = greet_state()
    destination = state.snapshot.routes[0].destinations[0]
    routes = tuple(make_route("/a/", destination, precedence=level) for level in (0, 1))

    first, second = view_gateway(replace(state, snapshot=replace(state.snapshot, routes=routes))).routes

    assert first.key != second.key


def test_not_ready_reason_names_the_sources_that_are_waited_for() -> None:
    assert "kubernetes Mapping" in not_ready_reason(empty_state())
    assert not_ready_reason(greet_state()) == ""
    assert "draining" in not_ready_reason(replace(greet_state(), ready=False, draining=True))


# --- JSON


def test_errors_are_an_empty_list_when_nothing_is_wrong() -> None:
    assert render_diagnostics(view_gateway(greet_state()))["errors"] == []


def test_errors_are_pairs_of_subject_and_text_as_ambassador_has_them() -> None:
    errors = render_diagnostics(view_gateway(problem_state()))["errors"]

    assert [subject for subject, _ in errors] == ["Mapping typo.default", "examples/greet/broken.yaml:3"]
    assert "spec.resolver: no resolver is named greet-endpint" in errors[0][1]
    assert "examples/greet/typo.yaml:9" in errors[0][1]


def test_route_info_tells_match_destinations_and_effective_settings() -> None:
    exact, canary, dns = render_diagnostics(view_gateway(problem_state()))["route_info"]

    assert exact["prefix"] == "/greet.GrpcService/Greet"
    assert exact["match"] == "exact"
    assert exact["precedence"] == 10
    assert exact["clusters"][0]["timeout_ms"] == 1500
    assert [(c["mapping"], c["weight"]) for c in canary["clusters"]] == [
        ("grpcserver.default", 80),
        ("canary.default", 20),
    ]
    assert canary["clusters"][1]["rpcs_by_status"] == {"OK": 903, "INTERNAL": 60, "UNAVAILABLE": 240}
    assert canary["clusters"][1]["_hcolor"] == "yellow"
    assert dns["clusters"][0]["type_label"] == "service"
    assert exact["_source"] == "examples/greet/exact.yaml:7"


def test_group_ids_lead_from_resolvers_and_routes_to_groups() -> None:
    shown = render_diagnostics(view_gateway(problem_state()))

    assert [route["_group_id"] for route in shown["route_info"]] == list(shown["groups"])
    assert {key for resolver in shown["ambassador_resolvers"] for key in resolver["groups"]} == set(shown["groups"])


def test_pods_are_listed_by_cluster_with_address_state_and_counters() -> None:
    pod = render_diagnostics(view_gateway(greet_state()))["pods"][GREET][0]

    assert pod == {
        "address": "10.244.1.7:50051",
        "name": "grpcserver-5c9d8-abcde",
        "zone": "east",
        "state": "ready",
        "states": {"ready": 2},
        "in_flight": 2,
        "total": 502,
        "failures": 0,
        "latency_mean_ms": pytest.approx(0.84),
        "last_error": "",
        "note": "",
    }


def test_an_ipv6_pod_is_a_target_without_brackets() -> None:
    report = PodReport(GREET, "[fd00::1]:50051", PodState.READY, 0, 0, 0, 0.0)
    state = replace(greet_state(), endpoints={GREET: EndpointSet()}, workers=(make_worker(0, (report,), ()),))

    info = render_diagnostics(view_gateway(state))["cluster_info"][GREET]

    assert info["targets"] == [{"ip": "fd00::1", "port": 50051, "target_kind": "IPaddr"}]


@pytest.mark.parametrize("make_state", [greet_state, problem_state, empty_state])
def test_every_state_is_valid_json_with_all_keys_and_without_certificates_or_keys(make_state) -> None:
    text = json.dumps(render_diagnostics(view_gateway(make_state())), allow_nan=False)

    assert tuple(json.loads(text)) == DIAGNOSTICS_KEYS
    assert "PEM" not in text


# --- numbers for people


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (45.9, "45 s"),
        (60, "1 min"),
        (192, "3 min 12 s"),
        (7500, "2 h 5 min"),
        (3605, "1 h"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_show_their_two_greatest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("latency_ms", "text"), [(0.8431, "0.84 ms"), (2.0, "2 ms"), (12.4, "12 ms"), (1234.0, "1.2 s"), (90_000, "90 s")]
)
def test_latencies_have_two_digits(latency_ms: float, text: str) -> None:
    assert format_latency(latency_ms) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0"), (1_204_331, "1,204,331"), (12_345_678, "12.3 M"), (2e9, "2.0 G")]
)
def test_counts_stay_readable(count: float, text: str) -> None:
    assert format_count(count) == text


def test_an_age_of_nothing_is_never() -> None:
    assert format_age(NOW_S, 0.0) == "never"
    assert format_age(NOW_S, NOW_S - 12) == "12 s ago"
    assert format_age(NOW_S, NOW_S + 3) == "just now"


REPORTS = st.builds(
    lambda state, finished, running, failed: PodReport(
        GREET, "10.244.1.7:50051", state, running, finished + running, min(failed, finished), 1.5 if finished else 0.0
    ),
    st.sampled_from(PodState),
    st.integers(0, 10**9),
    st.integers(0, 1000),
    st.integers(0, 10**9),
)


@given(st.lists(REPORTS, max_size=8))
def test_merging_keeps_totals_and_bounds_whatever_the_workers_say(reports: list[PodReport]) -> None:
    workers = tuple(make_worker(number, (report,), ()) for number, report in enumerate(reports))
    cluster = view_gateway(replace(greet_state(), workers=workers)).clusters[0]
    pod: PodView = cluster.pods[0]

    assert pod.total == sum(report.total for report in reports)
    assert sum(pod.states.values()) == len(reports)
    assert pod.latency_mean_ms == pytest.approx(1.5 if pod.finished else 0.0)
    assert cluster.success_share is None or 0 <= cluster.success_share <= 1


def test_why_a_pod_gets_no_rpcs_is_told_by_the_worker_that_leaves_it_out() -> None:
    note = "ejected for 12 s more: 5 failures in a row"
    state = greet_state()
    first, second = state.workers[0].pods
    workers = (make_worker(0, (first, second), ()), make_worker(1, (first, replace(second, note=note)), ()))
    pods = render_diagnostics(view_gateway(replace(state, workers=workers)))["pods"][GREET]
    assert [pod["note"] for pod in pods] == ["", note]


def test_what_a_route_asks_of_an_rpc_besides_its_path_is_shown() -> None:
    state = greet_state()
    route = replace(
        state.snapshot.routes[0],
        host=HostMatch(HostKind.SUFFIX, ".example.com"),
        headers=(HeaderMatch("x-beta"), HeaderMatch("x-tier", "gold"), HeaderMatch("x-id", regex="[0-9]+")),
    )
    view = view_gateway(replace(state, snapshot=replace(state.snapshot, routes=(route,))))
    (shown,) = render_diagnostics(view)["route_info"]
    assert (shown["host"], shown["key"]) == ("*.example.com", "http://*.example.com/greet.GrpcService/")
    assert shown["headers"] == [
        {"name": "x-beta", "value": None, "regex": False},
        {"name": "x-tier", "value": "•••", "regex": False},
        {"name": "x-id", "value": "•••", "regex": True},
    ]
    conditions = view.routes[0].conditions
    assert conditions == ("host *.example.com", "x-beta present", "x-tier = •••", "x-id ~ •••")


def test_what_a_mapping_changes_and_balances_by_is_shown() -> None:
    destination = make_destination(
        "greet",
        GREET,
        balancing=Balancing(LoadBalancer("ring_hash", header="x-user")),
        regex_rewrite=RegexRewrite("^/v1", ""),
        authority="pods.internal",
        request_headers=HeaderEdits((HeaderAdd("x-a", "1"),), ("x-b",)),
    )
    snapshot = replace(greet_state().snapshot, routes=(make_route("/greet.GrpcService/", destination),))
    view = view_gateway(replace(greet_state(), snapshot=snapshot))
    (shown,) = view.routes[0].destinations
    assert shown.balancing == "ring_hash by x-user"
    assert shown.changes == (
        "path: ^/v1 → nothing",
        "host: pods.internal",
        "request headers removed: x-b",
        "request headers added: x-a",
    )
    (cluster,) = render_diagnostics(view)["route_info"][0]["clusters"]
    assert cluster["load_balancer"] == {"policy": "ring_hash", "header": "x-user"}
    assert cluster["changes"] == list(shown.changes)


@pytest.mark.parametrize(
    ("load_balancer", "shown"),
    [
        (LoadBalancer(), "round_robin"),
        (LoadBalancer("maglev", source_ip=True), "maglev by source_ip"),
        (LoadBalancer(slow_start_ms=500, prefer_same_zone=True), "round_robin, slow start 500 ms, same zone first"),
    ],
)
def test_a_policy_is_shown_with_what_it_goes_by(load_balancer: LoadBalancer, shown: str) -> None:
    assert describe_balancing(load_balancer) == shown


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        (HostKind.EXACT, "a.example", "a.example"),
        (HostKind.PREFIX, "a.", "a.*"),
        (HostKind.REGEX, "a[0-9]", "~a[0-9]"),
    ],
)
def test_a_host_is_shown_as_a_mapping_writes_it(kind: HostKind, value: str, shown: str) -> None:
    assert describe_host(HostMatch(kind, value)) == shown


def test_what_a_mapping_does_about_bad_pods_is_shown() -> None:
    destination = make_destination(
        "grpcserver",
        GREET,
        retry=RetryPolicy(frozenset({14, 10}), num_retries=2, per_try_timeout_ms=500),
        circuit_breakers=(CircuitBreaker(max_requests=100), CircuitBreaker(Priority.HIGH, max_requests=5)),
        balancing=Balancing(outlier_detection=OutlierDetection()),
    )
    state = greet_state()
    snapshot = replace(state.snapshot, routes=(make_route("/greet.GrpcService/", destination),))
    (shown,) = render_diagnostics(view_gateway(replace(state, snapshot=snapshot)))["route_info"]
    assert shown["clusters"][0]["policies"] == [
        "up to 2 retries on ABORTED, UNAVAILABLE, 500 ms each",
        "max_requests 100",
        "ejects a pod after 5 failures in a row",
    ]


def test_key_sets_are_shown_with_their_age_and_the_last_failure() -> None:
    good, away = render_diagnostics(view_gateway(problem_state()))["key_sets"]
    assert (good["keys"], good["age_s"], good["error"], good["last_error"]) == (["first"], 40, "", "its answer is 503")
    assert datetime.fromisoformat(good["fetched_at"]) - datetime.fromisoformat(good["failed_at"]) == timedelta(
        seconds=260
    )
    assert (away["fetched_at"], away["age_s"], away["error"], away["failures"]) == (None, None, "no answer", 7)


def test_a_route_whose_tokens_cannot_be_verified_says_so() -> None:
    jwt = JwtSettings(name="Filter jwt.default", no_keys="those at https://away.example/jwks cannot be fetched")
    policies = (make_filter_policy("FilterPolicy p.default", (jwt,), ()),)
    state = greet_state()
    routes = (make_route("/greet.GrpcService/", make_destination("grpcserver", GREET, policies=policies)),)
    (shown,) = render_diagnostics(view_gateway(replace(state, snapshot=replace(state.snapshot, routes=routes))))[
        "route_info"
    ]
    assert shown["clusters"][0]["decided_by"][0]["trouble"] == f"Filter jwt.default has no keys: {jwt.no_keys}"


def shadow_state() -> GatewayState:
    shadow = make_destination("copy", GREET, weight=10, timeout_ms=500)
    state = greet_state()
    route = replace(state.snapshot.routes[0], shadow=shadow)
    counted = ShadowReport("copy.default", {0: 7, 14: 2}, {"too-slow": 1}, 1)
    workers = tuple(replace(worker, shadows=(counted,)) for worker in state.workers)
    return replace(state, snapshot=replace(state.snapshot, routes=(route,)), workers=workers)


def test_a_shadow_is_shown_beside_those_that_serve_with_its_copies_over_all_workers() -> None:
    view = view_gateway(shadow_state())
    (shadow,) = view.routes[0].shadows
    assert (shadow.finished, shadow.not_ok, shadow.copies.in_flight) == (18, 4, 2)
    shown = render_diagnostics(view)["route_info"][0]["shadows"][0]
    assert (shown["mapping"], shown["weight"], shown["type_label"]) == ("copy.default", 10, "shadow")
    assert shown["copies_by_status"] == {"OK": 14, "UNAVAILABLE": 4}
    assert shown["copies_dropped"] == {"too-slow": 2}
    assert view.traffic.finished == view_gateway(greet_state()).traffic.finished


def test_the_page_shows_a_shadow() -> None:
    shown = render_page(view_gateway(shadow_state()))
    assert "copy.default" in shown
    assert ">shadow</span>" in shown
    assert "10 %" in shown


def test_a_shadow_that_copied_nothing_yet_is_shown_as_well() -> None:
    state = shadow_state()
    view = view_gateway(replace(state, workers=()))
    assert [shadow.finished for shadow in view.routes[0].shadows] == [0]


def test_each_cluster_of_a_shadow_is_shown_with_its_share() -> None:
    state = shadow_state()
    (route,) = state.snapshot.routes
    assert route.shadow is not None
    parts = (WeightedCluster(GREET, 3), WeightedCluster(GREET, 1))
    route = replace(route, shadow=replace(route.shadow, clusters=parts))
    view = view_gateway(replace(state, snapshot=replace(state.snapshot, routes=(route,))))
    shown = render_diagnostics(view)["route_info"][0]["shadows"]
    assert [one["weight"] for one in shown] == [7.5, 2.5]
    assert "7.5 %" in render_page(view)


def test_the_gateways_own_namespace_is_told_whatever_namespaces_it_reads() -> None:
    for scope in ("", "web"):
        system = render_diagnostics(view_gateway(replace(greet_state(), namespace=scope)))["system"]
        assert (system["ambassador_namespace"], system["single_namespace"]) == ("grpcgw", bool(scope))


def test_handshakes_that_failed_are_shown_beside_the_listeners() -> None:
    state = greet_state()
    workers = tuple(replace(worker, handshake_failures={"no-tls": 2, "http": 1}) for worker in state.workers)
    assert "TLS handshakes that failed: 2 http, 4 no-tls" in render_page(view_gateway(replace(state, workers=workers)))
