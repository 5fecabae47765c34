"""Shares of the calls: exact over a cycle, evenly spread within it, and the same for any number of threads."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination
from grpcgw.routing.split import Split


def destinations(*weights: int) -> list[Destination]:
    return [
        Destination(ObjectKey("Mapping", "ns", f"m{index}"), "cluster", weight) for index, weight in enumerate(weights)
    ]


def picks(split: Split, calls: int) -> list[str | None]:
    picked = [split.pick() for _ in range(calls)]
    return [None if destination is None else destination.label for destination in picked]


def test_a_single_destination_takes_every_call() -> None:
    assert picks(Split(destinations(100)), 5) == ["m0.ns"] * 5


def test_equal_shares_take_strict_turns() -> None:
    assert picks(Split(destinations(50, 50)), 6) == ["m0.ns", "m1.ns"] * 3


def test_a_small_share_is_spread_over_the_cycle_and_not_served_in_one_go() -> None:
    positions = [index for index, label in enumerate(picks(Split(destinations(80, 20)), 20)) if label == "m1.ns"]
    assert [later - earlier for earlier, later in pairwise(positions)] == [5, 5, 5]


def test_what_the_weights_leave_goes_nowhere() -> None:
    assert Counter(picks(Split(destinations(10, 20)), 100)) == {"m0.ns": 10, "m1.ns": 20, None: 70}


def test_no_weight_at_all_sends_nothing_anywhere() -> None:
    assert picks(Split(destinations(0, 0)), 3) == [None, None, None]


def test_more_than_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="120"):
        Split(destinations(60, 60))


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(lambda weights: sum(weights) <= 100))
def test_a_hundred_calls_are_shared_exactly_by_weight(weights: list[int]) -> None:
    shares = Counter(picks(Split(destinations(*weights)), 100))
    assert [shares[f"m{index}.ns"] for index in range(len(weights))] == weights
    assert shares[None] == 100 - sum(weights)


def test_threads_together_take_the_exact_shares() -> None:
    split = Split(destinations(70, 30))
    with ThreadPoolExecutor(4) as pool:
        taken = Counter(label for labels in pool.map(lambda _: picks(split, 2_500), range(4)) for label in labels)
    assert taken == {"m0.ns": 7_000, "m1.ns": 3_000}


# By the hash of a header


def test_a_caller_stays_with_one_destination() -> None:
    split, same = Split(destinations(50, 50)), Split(destinations(50, 50))
    for number in range(50):
        assert split.pick_for(f"user{number}") is split.pick_for(f"user{number}")
        assert split.pick_for(f"user{number}") == same.pick_for(f"user{number}".encode())  # on every worker


def share_by_hash(*weights: int) -> Counter[str | None]:
    split = Split(destinations(*weights))
    picked = [split.pick_for(f"user{number}") for number in range(20_000)]
    return Counter(None if destination is None else destination.label for destination in picked)


@pytest.mark.parametrize("weights", [(90, 10), (50, 50), (1, 99), (30, 20)])
def test_callers_are_shared_by_weight(weights: tuple[int, ...]) -> None:
    shares = share_by_hash(*weights)
    for index, weight in enumerate((*weights, 100 - sum(weights))):
        label = f"m{index}.ns" if index < len(weights) else None
        assert abs(shares[label] / 200 - weight) <= 1


def test_none_goes_where_the_weight_is_0_and_all_where_it_is_100() -> None:
    assert share_by_hash(100, 0) == {"m0.ns": 20_000}
    assert share_by_hash(0, 100) == {"m1.ns": 20_000}


def test_a_canary_that_grows_keeps_its_callers() -> None:
    small, large = Split(destinations(90, 10)), Split(destinations(60, 40))
    for number in range(2_000):
        picked = small.pick_for(str(number))
        assert picked is not None
        if picked.label == "m1.ns":
            later = large.pick_for(str(number))
            assert later is not None
            assert later.label == "m1.ns"
