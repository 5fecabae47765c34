"""Weights that change with time: turns in their proportion, slow start, and weights from load reports."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from balancer.load_reports import report
from balancer.pods import FakePod, make_pods
from grpcgw.balancer.balancer_catalogue import make_balancer
from grpcgw.balancer.base import Picker, turns_from
from grpcgw.balancer.load_report import LoadWeights
from grpcgw.balancer.slow_start import SlowStart
from grpcgw.balancer.weighted import StridePicker
from grpcgw.model.balancing import LoadBalancer

SLOW_START = LoadBalancer("round_robin", slow_start_ms=10_000)


def shares(picker: Picker, pods: list[FakePod], picks: int = 4_000) -> list[float]:
    picked = Counter(picker.pick() for _ in range(picks))
    return [picked[pod] / picks for pod in pods]


@given(st.lists(st.floats(0.1, 1.0), min_size=1, max_size=12), st.integers(0, 10_000))
def test_turns_are_taken_in_proportion_to_the_weights(weights: list[float], seed: int) -> None:
    """At any moment no pod is more than two turns away from its share."""
    pods = make_pods(len(weights))
    picker = StridePicker(tuple(pods), weights, turns_from(seed))
    picked = Counter(picker.pick() for _ in range(1_000))
    most = max(range(len(pods)), key=lambda index: weights[index])
    for index, pod in enumerate(pods):
        assert abs(picked[pod] - picked[pods[most]] * weights[index] / weights[most]) <= 3


@given(st.lists(st.floats(1e-9, 1e9), min_size=2, max_size=12))
def test_no_weight_is_so_small_that_a_pod_is_forgotten(weights: list[float]) -> None:
    assume(min(weights) > 0)
    pods = make_pods(len(weights))
    picker = StridePicker(tuple(pods), weights, turns_from())
    assert {picker.pick() for _ in range(1_001 * len(pods))} == set(pods)


def test_pods_of_one_weight_are_not_taken_in_one_round() -> None:
    pods = make_pods(3)
    picker = StridePicker(tuple(pods), (1.0, 0.5, 0.5), turns_from())
    row = [picker.pick() for _ in range(40)]
    assert all(one is not next_one for one, next_one in itertools.pairwise(row))


# --- slow start


def test_a_new_pod_starts_with_a_tenth_and_gets_its_full_share_in_a_straight_line() -> None:
    pods = make_pods(3)
    weigher = SlowStart(10.0)
    assert weigher.weigh(pods[:2], 100.0) == [0.1, 0.1]
    assert weigher.weigh(pods[:2], 110.0) == [1.0, 1.0]
    assert weigher.weigh(pods, 120.0) == [1.0, 1.0, 0.1]
    assert weigher.weigh(pods, 125.0) == [1.0, 1.0, 0.5]
    assert weigher.weigh(pods, 129.0) == [1.0, 1.0, 0.9]
    assert weigher.weigh(pods, 130.0) == [1.0, 1.0, 1.0]


def test_a_short_absence_is_no_new_start_and_a_long_one_is() -> None:
    pods = make_pods(2)
    weigher = SlowStart(10.0)
    weigher.weigh(pods, 100.0)
    weigher.weigh(pods[:1], 112.0)
    assert weigher.weigh(pods, 115.0) == [1.0, 0.1]  # last seen 15 s ago
    weigher.weigh(pods[:1], 116.0)
    assert weigher.weigh(pods, 120.0) == [1.0, 0.5]  # last seen 5 s ago


def test_slow_start_does_not_keep_pods_that_are_gone() -> None:
    weigher = SlowStart(10.0)
    for hour in range(50):
        weigher.weigh(make_pods(3, first=hour), 3_600.0 * hour)
    assert len(weigher._presences) == 3


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "weighted_round_robin"])
def test_with_slow_start_a_pod_that_joins_ramps_up(policy: str) -> None:
    pods = make_pods(4)
    balancer = make_balancer(LoadBalancer(policy, slow_start_ms=10_000), turns_from(0))
    balancer.update(pods[:3])
    balancer.refresh(500.0)
    joined = balancer.update(pods)
    assert shares(joined, pods)[3] == pytest.approx(0.1 / 3.1, abs=0.015)
    half = balancer.refresh(505.0)
    assert half is not None
    assert shares(half, pods)[3] == pytest.approx(0.5 / 3.5, abs=0.025)
    full = balancer.refresh(510.0)
    assert full is not None
    assert shares(full, pods)[3] == pytest.approx(0.25, abs=0.03)
    assert balancer.refresh(520.0) is None


def test_pods_that_were_there_before_the_gateway_do_not_start_slowly() -> None:
    pods = make_pods(2)
    balancer = make_balancer(SLOW_START, turns_from(0))
    balancer.update(pods[:1])
    picker = balancer.update(pods)
    row = [picker.pick() for _ in range(4)]
    assert row == [pods[0], pods[1], pods[0], pods[1]]
    picker = balancer.refresh(1e6) or picker
    assert [picker.pick() for _ in range(4)] == row


def test_weights_are_looked_at_once_a_second() -> None:
    pods = make_pods(2)
    balancer = make_balancer(SLOW_START, turns_from(0))
    balancer.refresh(499.0)
    balancer.update(pods[:1])
    balancer.refresh(500.0)
    balancer.update(pods)
    refreshed = [now_s for now_s in (500 + step / 20 for step in range(1, 101)) if balancer.refresh(now_s)]
    assert len(refreshed) == 5


# --- load reports


def test_a_pod_half_as_busy_gets_twice_the_rpcs() -> None:
    pods = make_pods(2)
    balancer = make_balancer(LoadBalancer("weighted_round_robin"), turns_from(0))
    picker = balancer.update(pods)
    assert shares(picker, pods) == [0.5, 0.5]
    for now_s in (100.0, 105.0, 110.0):
        balancer.done(pods[0], report(rps_fractional=100.0, cpu_utilization=0.8))
        balancer.done(pods[1], report(rps_fractional=100.0, cpu_utilization=0.4))
        picker = balancer.refresh(now_s) or picker
    assert shares(picker, pods) == pytest.approx([1 / 3, 2 / 3], abs=0.01)


def weigh_after(seconds: float, *, blackout_s: float = 10.0) -> list[float]:
    """Two pods report at 100 and at 110 s, one twice as busy; their weights `seconds` after the last report."""
    pods = make_pods(2)
    weigher = LoadWeights(blackout_s)
    for now_s in (100.0, 110.0):
        weigher.done(pods[0], report(rps_fractional=50.0, cpu_utilization=0.5))
        weigher.done(pods[1], report(rps_fractional=50.0, cpu_utilization=1.0))
        weigher.weigh(pods, now_s)
    return weigher.weigh(pods, 110.0 + seconds)


@pytest.mark.parametrize(
    ("seconds", "blackout_s", "weights"),
    [
        (0.0, 10.0, [100.0, 50.0]),
        (0.0, 10.1, [1.0, 1.0]),
        (179.9, 10.0, [100.0, 50.0]),
        (180.0, 10.0, [1.0, 1.0]),
    ],
)
def test_reports_count_after_the_blackout_and_until_they_expire(
    seconds: float, blackout_s: float, weights: list[float]
) -> None:
    assert weigh_after(seconds, blackout_s=blackout_s) == weights


def test_after_expired_reports_the_blackout_begins_anew() -> None:
    pods = make_pods(2)
    weigher = LoadWeights(blackout_s=10.0, expiration_s=60.0)
    seen = []
    for now_s in (0.0, 10.0, 80.0, 85.0, 90.0):
        for pod, load in zip(pods, (0.5, 1.0), strict=True):
            weigher.done(pod, report(rps_fractional=50.0, cpu_utilization=load))
        seen.append(weigher.weigh(pods, now_s))
    assert seen == [[1.0, 1.0], [100.0, 50.0], [1.0, 1.0], [1.0, 1.0], [100.0, 50.0]]


def test_a_pod_without_reports_gets_the_mean_of_the_others() -> None:
    pods = make_pods(3)
    weigher = LoadWeights(blackout_s=0.0)
    weigher.done(pods[0], report(rps_fractional=50.0, cpu_utilization=0.5))
    assert weigher.weigh(pods, 1.0) == [1.0, 1.0, 1.0]  # one report alone compares with nothing
    weigher.done(pods[1], report(rps_fractional=50.0, cpu_utilization=1.0))
    assert weigher.weigh(pods, 2.0) == [100.0, 50.0, 75.0]


def test_failures_count_as_load() -> None:
    pods = make_pods(2)
    weigher = LoadWeights(blackout_s=0.0, error_penalty=2.0)
    weigher.done(pods[0], report(rps_fractional=100.0, cpu_utilization=0.5, eps=25.0))
    weigher.done(pods[1], report(rps_fractional=100.0, cpu_utilization=0.5))
    assert weigher.weigh(pods, 1.0) == [100.0, 200.0]


def test_nothing_is_kept_of_pods_that_left() -> None:
    weigher = LoadWeights()
    pods = make_pods(100)
    for turn, pod in enumerate(pods):
        weigher.done(pod, report(rps_fractional=1.0, cpu_utilization=1.0))
        weigher.weigh(pods[turn : turn + 1], float(turn))
    weigher.weigh([], 200.0)
    assert not weigher._known
    assert not weigher._latest
