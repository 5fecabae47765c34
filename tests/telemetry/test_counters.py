"""Counting RPCs: every one once, from any thread, under a bounded number of names."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpcgw.model.codes import OTHER_CODE, status_name
from grpcgw.telemetry.counters import MAX_METHODS, MAX_PATH_CHARACTERS, MAX_REASONS, OTHER, Counters, MethodCounters
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport

PATH = "/greet.GrpcService/Greet"


def only_report(counters: Counters) -> MethodReport:
    (report,) = counters.reports()
    return report


def named(counters: Counters, mapping: str = "m", path: str = PATH) -> MethodCounters:
    """Counters of a method that a pod has answered."""
    return counters.name(counters.of(mapping, path), path)


def test_an_rpc_is_in_flight_then_counted_by_its_code() -> None:
    counters = Counters()
    method = named(counters, "m.default")
    method.begin()
    assert (only_report(counters).in_flight, only_report(counters).codes) == (1, {})
    method.end(5, 0.2)
    report = only_report(counters)
    assert (report.mapping, report.service, report.method) == ("m.default", "greet.GrpcService", "Greet")
    assert (report.in_flight, report.codes, report.latency_sum_s) == (0, {5: 1}, 0.2)


def test_a_method_nobody_called_is_not_reported() -> None:
    counters = Counters()
    named(counters)
    assert counters.reports() == ()


def test_reasons_that_policies_choose_are_bounded() -> None:
    counters = Counters()
    method = named(counters)
    for number in range(2 * MAX_REASONS):
        method.begin()
        method.end(7, 0.0, f"reason-{number}")
    reasons = only_report(counters).reasons
    assert len(reasons) == MAX_REASONS + 1
    assert reasons[7, OTHER] == MAX_REASONS


def test_mappings_count_apart() -> None:
    counters = Counters()
    for mapping in ("a", "b"):
        counters.of(mapping, PATH).begin()
    assert sorted(report.mapping for report in counters.reports()) == ["a", "b"]


@pytest.mark.parametrize("border", range(len(LATENCY_BUCKETS_S)))
def test_a_bucket_holds_its_upper_border(border: int) -> None:
    method = Counters().of("m", PATH)
    method.begin()
    method.end(0, LATENCY_BUCKETS_S[border])
    method.begin()
    method.end(0, LATENCY_BUCKETS_S[border] * 1.001)
    expected = [0] * (len(LATENCY_BUCKETS_S) + 1)
    expected[border] = expected[border + 1] = 1
    assert list(method.report().latency_counts) == expected


def test_buckets_are_in_order_and_tell_rpcs_below_a_millisecond_apart() -> None:
    assert sorted(set(LATENCY_BUCKETS_S)) == list(LATENCY_BUCKETS_S)
    assert sum(border_s < 0.001 for border_s in LATENCY_BUCKETS_S) >= 3


def test_a_method_has_no_name_before_a_pod_has_answered_it() -> None:
    counters = Counters()
    for number in range(5000):
        method = counters.of("m", f"/invented.Service/{number}")
        method.begin()
        method.end(12, 0.0)
    report = only_report(counters)
    assert (report.mapping, report.service, report.method, report.codes) == ("m", OTHER, OTHER, {12: 5000})


def test_the_rpc_that_gives_its_method_a_name_counts_under_it_and_what_was_counted_before_stays() -> None:
    counters = Counters()
    unanswered = counters.of("m", PATH)
    unanswered.begin()
    unanswered.end(14, 0.0)
    begun = counters.of("m", PATH)
    begun.begin()
    begun.move(answered := counters.name(begun, PATH))
    answered.end(0, 0.0)
    reports = {report.method: (report.codes, report.in_flight) for report in counters.reports()}
    assert reports == {OTHER: ({14: 1}, 0), "Greet": ({0: 1}, 0)}
    assert counters.of("m", PATH) is answered


def test_a_method_that_gets_its_name_keeps_the_shape_its_rpcs_were_seen_to_have() -> None:
    counters = Counters()
    counters.of("m", PATH).one_request = False
    method = named(counters)
    assert (method.one_request, method.one_reply) == (False, True)


@pytest.mark.parametrize(
    "path", ["", "/", "nonsense", "/Greet", "//Greet", "/greet.GrpcService/", "/a.B/" + MAX_PATH_CHARACTERS * "x"]
)
def test_what_is_no_method_or_has_too_long_a_name_counts_as_other(path: str) -> None:
    method = named(Counters(), "m", path)
    assert (method.service, method.method) == (OTHER, OTHER)


def test_the_first_methods_of_a_mapping_have_names_and_the_rest_share_one() -> None:
    counters = Counters()
    for number in range(3 * MAX_METHODS):
        method = named(counters, "m", f"/s/{number}")
        method.begin()
        method.end(0, 0.0)
    reports = {report.method: report for report in counters.reports()}
    assert len(reports) == MAX_METHODS + 1
    assert sum(sum(report.codes.values()) for report in reports.values()) == 3 * MAX_METHODS
    assert sum(reports[OTHER].codes.values()) == 2 * MAX_METHODS


def test_the_methods_of_one_mapping_take_no_names_from_another() -> None:
    counters = Counters()
    for number in range(2 * MAX_METHODS):
        named(counters, "crowded", f"/s/{number}")
    method = named(counters, "calm")
    assert (method.service, method.method) == ("greet.GrpcService", "Greet")


def test_a_method_known_before_the_bound_keeps_its_name() -> None:
    counters = Counters()
    known = named(counters)
    for number in range(2 * MAX_METHODS):
        named(counters, "m", f"/s/{number}")
    assert counters.of("m", PATH) is known


def test_numbers_that_are_no_status_count_as_one() -> None:
    method = Counters().of("m", PATH)
    for code in (*range(17, 3000), -5, 2**31):
        method.begin()
        method.end(code, 0.0)
    assert method.report().codes == {OTHER_CODE: 2985}
    assert status_name(OTHER_CODE) == "OTHER"


def test_statuses_of_the_gateway_are_told_by_their_reason() -> None:
    counters = Counters()
    method = counters.of("m", PATH)
    for code, reason in ((14, ""), (14, "no-endpoints"), (14, "no-endpoints"), (8, "circuit-breaker")):
        method.begin()
        method.end(code, 0.0, reason)
    report = only_report(counters)
    assert report.codes == {14: 3, 8: 1}
    assert report.reasons == {(14, "no-endpoints"): 2, (8, "circuit-breaker"): 1}


def test_bytes_of_messages_are_added_up() -> None:
    counters = Counters()
    method = counters.of("m", PATH)
    method.begin()
    method.add_bytes(10, 200)
    method.add_bytes(1, 0)
    assert (only_report(counters).request_bytes, only_report(counters).response_bytes) == (11, 200)


def test_events_are_counted_by_mapping_or_cluster() -> None:
    counters = Counters()
    for _ in range(2):
        counters.count_retry("m")
    counters.count_breaker("m", "max_requests")
    counters.count_ejection("c")
    report = counters.events()
    assert (report.retries, report.breaker_trips, report.ejections) == ({"m": 2}, {("m", "max_requests"): 1}, {"c": 1})


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns as often as the interpreter can."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("eager_threads")
def test_threads_lose_no_count() -> None:
    counters = Counters()
    rounds = 5000
    together = threading.Barrier(4)

    def count() -> None:
        together.wait()
        for number in range(rounds):
            path = f"/s/{number % 2}"
            method = counters.of("m", path)
            method.begin()
            if method.unnamed:
                shared, method = method, counters.name(method, path)
                shared.move(method)
            method.add_bytes(3, 4)
            method.end(0, 0.5, "some-reason")
            counters.count_retry("m")

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(count) for _ in range(4)]:
            done.result()
    reports = counters.reports()
    assert sorted(report.method for report in reports) == ["0", "1"]
    assert [report.in_flight for report in reports] == [0, 0]
    assert [report.codes for report in reports] == [{0: 2 * rounds}] * 2
    assert [sum(report.latency_counts) for report in reports] == [2 * rounds] * 2
    assert [report.latency_sum_s for report in reports] == [2 * rounds * 0.5] * 2
    assert [report.reasons for report in reports] == [{(0, "some-reason"): 2 * rounds}] * 2
    assert [(report.request_bytes, report.response_bytes) for report in reports] == [(6 * rounds, 8 * rounds)] * 2
    assert counters.retries == 4 * rounds
