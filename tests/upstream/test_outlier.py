"""Outlier detection: bad pods are left out for exact times, never too many of them, and always come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
from balancer.pods import FakePod, make_pods
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from grpcgw.model.balancing import OutlierDetection
from grpcgw.upstream.outlier import OutlierDetector

SETTINGS = OutlierDetection(max_ejection_percent=50)
RATES = OutlierDetection(
    consecutive_failures=None, max_ejection_percent=50, success_rate_stdev_factor=1_900, success_rate_request_volume=50
)


def make_detector(settings: OutlierDetection, count: int) -> tuple[OutlierDetector, list[FakePod]]:
    pods = make_pods(count)
    detector = OutlierDetector(settings)
    detector.set_pods(pods)
    detector.sweep(1_000.0)
    return detector, pods


def fail(detector: OutlierDetector, pod: FakePod, now_s: float, times: int = 5) -> bool:
    return [detector.record(pod, True, now_s) for _ in range(times)][-1]


def run_interval(detector: OutlierDetector, pods: list[FakePod], failures: list[int], now_s: float) -> None:
    """100 RPCs on each pod, of which so many fail, successes between them."""
    for pod, failed in zip(pods, failures, strict=True):
        for number in range(100):
            detector.record(pod, number < failed, now_s)


def test_failures_in_a_row_eject_a_pod_and_a_success_begins_the_count_anew() -> None:
    detector, pods = make_detector(SETTINGS, 4)
    assert not fail(detector, pods[0], 1_000.0, times=4)
    detector.record(pods[0], False, 1_000.0)
    assert not fail(detector, pods[0], 1_000.0, times=4)
    assert detector.record(pods[0], True, 1_000.0)
    assert [detector.is_ejected(pod) for pod in pods] == [True, False, False, False]


def test_a_pod_comes_back_by_itself_at_the_exact_time() -> None:
    detector, pods = make_detector(SETTINGS, 4)
    fail(detector, pods[0], 1_005.0)
    assert not detector.sweep(1_034.999)
    assert detector.is_ejected(pods[0])
    assert detector.sweep(1_035.0)
    assert not detector.is_ejected(pods[0])


def test_each_ejection_is_longer_up_to_the_longest() -> None:
    settings = replace(SETTINGS, interval_ms=10_000_000, base_ejection_ms=30_000, max_ejection_ms=100_000)
    detector, pods = make_detector(settings, 4)
    now_s = 1_000.0
    lasted = []
    for _ in range(5):
        fail(detector, pods[0], now_s)
        began_s = now_s
        while detector.is_ejected(pods[0]):
            now_s += 1.0
            detector.sweep(now_s)
        lasted.append(now_s - began_s)
    assert lasted == [30.0, 60.0, 90.0, 100.0, 100.0]


def test_every_interval_without_ejection_makes_the_next_one_shorter() -> None:
    detector, pods = make_detector(SETTINGS, 4)
    fail(detector, pods[0], 1_000.0)
    detector.sweep(1_030.0)
    fail(detector, pods[0], 1_030.0)
    assert "for 60 s" in detector.explain(pods[0], 1_030.0)
    detector.sweep(1_090.0)
    detector.sweep(1_100.0)
    detector.sweep(1_110.0)
    fail(detector, pods[0], 1_110.0)
    assert "for 30 s" in detector.explain(pods[0], 1_110.0)


def test_a_base_longer_than_the_longest_holds() -> None:
    detector, pods = make_detector(replace(SETTINGS, base_ejection_ms=500_000), 4)
    fail(detector, pods[0], 1_000.0)
    assert "for 500 s" in detector.explain(pods[0], 1_000.0)


@pytest.mark.parametrize("settings", [SETTINGS, RATES], ids=["in a row", "success rate"])
def test_each_ejection_is_noted_once_whatever_its_cause(settings: OutlierDetection) -> None:
    noted: list[None] = []
    detector, pods = OutlierDetector(settings, lambda: noted.append(None)), make_pods(7)
    detector.set_pods(pods)
    detector.sweep(1_000.0)
    run_interval(detector, pods, [1, 1, 1, 1, 1, 1, 40], 1_005.0)
    for now_s in (1_010.0, 1_011.0, 1_012.0):
        detector.sweep(now_s)
    assert [detector.is_ejected(pod) for pod in pods] == [False] * 6 + [True]
    assert len(noted) == 1


@pytest.mark.parametrize(
    ("count", "percent", "ejected"), [(10, 10, 1), (10, 29, 2), (10, 100, 9), (2, 10, 1), (1, 100, 0), (10, 0, 0)]
)
def test_only_so_many_pods_are_ejected(count: int, percent: int, ejected: int) -> None:
    detector, pods = make_detector(replace(SETTINGS, max_ejection_percent=percent), count)
    for pod in pods:
        fail(detector, pod, 1_000.0)
    assert sum(detector.is_ejected(pod) for pod in pods) == ejected


def test_when_pods_leave_the_excess_comes_back_soonest_first() -> None:
    detector, pods = make_detector(SETTINGS, 6)
    for turn in range(3):
        fail(detector, pods[turn], 1_000.0 + turn)
    assert not detector.set_pods(pods)
    assert detector.set_pods(pods[:4])
    assert [detector.is_ejected(pod) for pod in pods[:4]] == [False, True, True, False]
    assert detector.set_pods(pods[1:2])
    assert not detector.is_ejected(pods[1])


def test_what_ends_on_an_ejected_pod_or_one_that_left_says_nothing() -> None:
    detector, pods = make_detector(SETTINGS, 4)
    fail(detector, pods[0], 1_000.0)
    assert not fail(detector, pods[0], 1_001.0, times=20)
    detector.sweep(1_030.0)
    assert not fail(detector, pods[0], 1_030.0, times=4)
    assert not fail(detector, make_pods(1)[0], 1_030.0, times=20)


def test_success_rates_far_below_the_others_eject() -> None:
    """The mean of six at 99 % and one at 60 % is 93.4 %, the deviation 13.6 %: below 67.5 % is far below."""
    detector, pods = make_detector(RATES, 7)
    run_interval(detector, pods, [1, 1, 1, 1, 1, 1, 40], 1_005.0)
    assert not detector.sweep(1_009.999)
    assert detector.sweep(1_010.0)
    assert [detector.is_ejected(pod) for pod in pods] == [False] * 6 + [True]
    assert detector.explain(pods[6], 1_010.0) == (
        "ejected for 30 s more: success rate 60.0%, below 67.5% (the mean of 7 pods is 93.4%)"
    )


@pytest.mark.parametrize(
    ("settings", "failures"),
    [
        (replace(RATES, success_rate_stdev_factor=2_600), [1, 1, 1, 1, 1, 1, 40]),
        (replace(RATES, success_rate_minimum_pods=8), [1, 1, 1, 1, 1, 1, 40]),
        (replace(RATES, success_rate_request_volume=101), [1, 1, 1, 1, 1, 1, 40]),
        (replace(RATES, success_rate_stdev_factor=None), [1, 1, 1, 1, 1, 1, 40]),
        (RATES, [40] * 7),
    ],
)
def test_success_rates_that_say_too_little_eject_nobody(settings: OutlierDetection, failures: list[int]) -> None:
    detector, pods = make_detector(settings, 7)
    run_interval(detector, pods, failures, 1_005.0)
    assert not detector.sweep(1_010.0)


def test_success_rates_are_of_one_interval() -> None:
    detector, pods = make_detector(RATES, 7)
    run_interval(detector, pods, [1, 1, 1, 1, 1, 1, 14], 1_005.0)
    detector.sweep(1_010.0)
    for pod in pods:
        detector.record(pod, False, 1_011.0)
    assert not detector.sweep(1_020.0)


def test_the_operator_reads_why_and_for_how_long() -> None:
    detector, pods = make_detector(SETTINGS, 4)
    assert detector.explain(pods[0], 1_000.0) == ""
    fail(detector, pods[0], 1_000.0)
    assert detector.explain(pods[0], 1_012.4) == "ejected for 18 s more: 5 failures in a row"
    detector.sweep(1_030.0)
    fail(detector, pods[0], 1_030.0)
    assert detector.explain(pods[0], 1_030.0) == "ejected for 60 s more: 5 failures in a row, ejection 2 in short order"
    assert detector.explain(make_pods(1)[0], 1_030.0) == ""


class OutlierModel(RuleBasedStateMachine):
    """Against the rules themselves: how many, since when, and for how long at the most."""

    def __init__(self) -> None:
        super().__init__()
        self.all_pods = make_pods(8)
        self.pods: list[FakePod] = []
        self.now_s = 100.0
        self.ejected_at: dict[FakePod, float] = {}

    @initialize(
        percent=st.integers(0, 100), base_ms=st.integers(1, 40_000), rates=st.booleans(), in_a_row=st.integers(1, 4)
    )
    def start(self, percent: int, base_ms: int, rates: bool, in_a_row: int) -> None:
        self.settings = OutlierDetection(
            consecutive_failures=in_a_row,
            max_ejection_percent=percent,
            base_ejection_ms=base_ms,
            max_ejection_ms=60_000,
            success_rate_stdev_factor=500 if rates else None,
            success_rate_minimum_pods=2,
            success_rate_request_volume=2,
        )
        self.detector = OutlierDetector(self.settings)
        self.change(set(range(8)))

    def look(self, changed: bool) -> None:
        """After each step: note who came and went, and that `changed` said so."""
        before = set(self.ejected_at)
        after = {pod for pod in self.pods if self.detector.is_ejected(pod)}
        assert changed == (before != after)
        self.ejected_at = {pod: self.ejected_at.get(pod, self.now_s) for pod in after}

    @rule(chosen=st.sets(st.integers(0, 7)))
    def change(self, chosen: set[int]) -> None:
        self.pods = [self.all_pods[index] for index in sorted(chosen)]
        self.ejected_at = {pod: at_s for pod, at_s in self.ejected_at.items() if pod in self.pods}
        self.look(self.detector.set_pods(self.pods))

    @rule(index=st.integers(0, 7), failures=st.lists(st.booleans(), min_size=1, max_size=8))
    def end_rpcs(self, index: int, failures: list[bool]) -> None:
        for failed in failures:
            self.look(self.detector.record(self.all_pods[index], failed, self.now_s))

    @rule(seconds=st.floats(0, 30))
    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds
        self.look(self.detector.sweep(self.now_s))
        longest_s = max(self.settings.base_ejection_ms, 60_000) / 1000
        assert all(self.now_s - at_s < longest_s for at_s in self.ejected_at.values())

    @invariant()
    def never_too_many_and_never_all(self) -> None:
        if not self.pods:
            return
        allowed = len(self.pods) * self.settings.max_ejection_percent / 100
        assert len(self.ejected_at) <= max(1, allowed) if allowed else not self.ejected_at
        assert len(self.ejected_at) < len(self.pods)
        for pod in self.pods:
            assert bool(self.detector.explain(pod, self.now_s)) == (pod in self.ejected_at)

    def teardown(self) -> None:
        """Left alone, everybody comes back, once the interval is over that may still eject for what it saw."""
        if self.pods:
            for _ in range(3):  # the first begins the interval, if no time has passed yet
                self.pass_time(61.0)
            assert not self.ejected_at


TestOutlierModel = OutlierModel.TestCase
