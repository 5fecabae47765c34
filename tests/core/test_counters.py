"""Counting RPCs: every one once, from any thread, under a bounded number of names."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from grpcgw.telemetry.counters import MAX_METHODS, OTHER, Counters
from grpcgw.telemetry.report import LATENCY_BUCKETS_S, MethodReport

PATH = "/greet.GrpcService/Greet"


def only_report(counters: Counters) -> MethodReport:
    (report,) = counters.reports()
    return report


def test_an_rpc_is_in_flight_then_counted_by_its_code() -> None:
    counters = Counters()
    method = counters.of("m.default", PATH)
    method.begin()
    assert (only_report(counters).in_flight, only_report(counters).codes) == (1, {})
    method.end(5, 0.2)
    report = only_report(counters)
    assert (report.mapping, report.service, report.method) == ("m.default", "greet.GrpcService", "Greet")
    assert (report.in_flight, report.codes, report.latency_sum_s) == (0, {5: 1}, 0.2)


def test_a_method_nobody_called_is_not_reported() -> None:
    counters = Counters()
    counters.of("m.default", PATH)
    assert counters.reports() == ()


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


def test_buckets_are_in_order() -> None:
    assert sorted(set(LATENCY_BUCKETS_S)) == list(LATENCY_BUCKETS_S)


@pytest.mark.parametrize("path", ["", "/", "nonsense", "/Greet", "//Greet", "/greet.GrpcService/"])
def test_what_is_no_method_counts_as_other(path: str) -> None:
    method = Counters().of("m", path)
    assert (method.service, method.method) == (OTHER, OTHER)


def test_the_first_methods_have_names_and_the_rest_share_one() -> None:
    counters = Counters()
    for number in range(3 * MAX_METHODS):
        method = counters.of("m", f"/s/{number}")
        method.begin()
        method.end(0, 0.0)
    reports = {report.method: report for report in counters.reports()}
    assert len(reports) <= MAX_METHODS + 1
    assert sum(sum(report.codes.values()) for report in reports.values()) == 3 * MAX_METHODS
    assert sum(reports[OTHER].codes.values()) == 3 * MAX_METHODS - (len(reports) - 1)


def test_a_method_known_before_the_bound_keeps_its_name() -> None:
    counters = Counters()
    known = counters.of("m", PATH)
    for number in range(2 * MAX_METHODS):
        counters.of("m", f"/s/{number}")
    assert counters.of("m", PATH) is known


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
            method = counters.of("m", f"/s/{number % 2}")
            method.begin()
            method.end(0, 0.5)
            counters.count_retry()

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(count) for _ in range(4)]:
            done.result()
    reports = counters.reports()
    assert [report.in_flight for report in reports] == [0, 0]
    assert [report.codes for report in reports] == [{0: 2 * rounds}] * 2
    assert [sum(report.latency_counts) for report in reports] == [2 * rounds] * 2
    assert [report.latency_sum_s for report in reports] == [2 * rounds * 0.5] * 2
    assert counters.retries == 4 * rounds
