"""Power of two choices: the emptier of two, every pod drawn alike, and by weight where there are weights."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from balancer.pods import make_pods
from grpcgw.balancer.least_request import LeastRequest, WeightedLeastRequestPicker


@given(st.lists(st.integers(0, 20), min_size=2, max_size=10), st.floats(0, 0.9999), st.floats(0, 0.9999))
def test_of_the_two_drawn_the_emptier_is_taken(loads: list[int], first: float, second: float) -> None:
    pods = make_pods(len(loads))
    for pod, load in zip(pods, loads, strict=True):
        pod.in_flight = load
    draws = iter((first, second))
    picked = LeastRequest(lambda: next(draws)).update(pods).pick()
    one = int(first * len(pods))
    others = [pod for index, pod in enumerate(pods) if index != one]
    two = others[int(second * len(others))]
    assert picked in (pods[one], two)
    assert picked is not None
    assert picked.in_flight == min(pods[one].in_flight, two.in_flight)


def test_of_two_pods_the_emptier_always_gets_the_rpc() -> None:
    pods = make_pods(2)
    pods[0].in_flight = 5
    picker = LeastRequest().update(pods)
    assert {picker.pick() for _ in range(100)} == {pods[1]}


def test_no_pod_gets_far_more_long_rpcs_than_the_others() -> None:
    """6,400 RPCs that do not end, over 64 pods: 100 each, and two choices keep the fullest within a few of that."""
    pods = make_pods(64)
    picker = LeastRequest(random.Random(1).random).update(pods)
    for _ in range(6_400):
        pod = picker.pick()
        assert pod is not None
        pod.in_flight += 1  # type: ignore[misc]  # it is a FakePod
    assert max(pod.in_flight for pod in pods) <= 105


def test_idle_pods_are_drawn_by_weight() -> None:
    pods = make_pods(3)
    picker = WeightedLeastRequestPicker(tuple(pods), (1.0, 0.1, 0.5), random.Random(1).random)
    picked = Counter(picker.pick() for _ in range(16_000))
    assert [picked[pod] / 16_000 for pod in pods] == pytest.approx([1 / 1.6, 0.1 / 1.6, 0.5 / 1.6], abs=0.02)


def test_rpcs_in_flight_settle_in_proportion_to_the_weights() -> None:
    pods = make_pods(4)
    weights = (1.0, 1.0, 0.5, 0.1)
    picker = WeightedLeastRequestPicker(tuple(pods), weights, random.Random(1).random)
    for _ in range(2_600):
        pod = picker.pick()
        assert pod is not None
        pod.in_flight += 1  # type: ignore[misc]
    for pod, weight in zip(pods, weights, strict=True):
        assert pod.in_flight == pytest.approx(1_000 * weight, rel=0.15)
