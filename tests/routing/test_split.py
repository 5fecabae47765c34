"""Shares of the calls: exact over a cycle, evenly spread within it, and the same for any number of threads."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.routing.split import Split


def split_of(*weights: int) -> Split[str]:
    """`m0`, `m1`, … with weights in percent, as Mappings have them."""
    return Split([(f"m{index}", weight) for index, weight in enumerate(weights)], 100 - sum(weights))


def picks(split: Split[str], calls: int) -> list[str | None]:
    return [split.pick() for _ in range(calls)]


def test_a_single_destination_takes_every_call() -> None:
    assert picks(split_of(100), 5) == ["m0"] * 5


def test_equal_shares_take_strict_turns() -> None:
    assert picks(split_of(50, 50), 6) == ["m0", "m1"] * 3


def test_a_small_share_is_spread_over_the_cycle_and_not_served_in_one_go() -> None:
    positions = [index for index, label in enumerate(picks(split_of(80, 20), 20)) if label == "m1"]
    assert [later - earlier for earlier, later in pairwise(positions)] == [5, 5, 5]


def test_what_the_weights_leave_goes_nowhere() -> None:
    assert Counter(picks(split_of(10, 20), 100)) == {"m0": 10, "m1": 20, None: 70}


def test_no_weight_at_all_sends_nothing_anywhere() -> None:
    assert picks(split_of(0, 0), 3) == [None, None, None]


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        split_of(60, 60)


def test_weights_are_relative() -> None:
    assert picks(Split([("a", 3), ("b", 1)]), 8) == ["a", "a", "b", "a"] * 2
    assert picks(Split([("a", 0), ("b", 7)]), 2) == ["b", "b"]
    assert picks(Split([("a", 0), ("b", 0)]), 2) == [None, None]
    assert Split([("a", 0), ("b", 0)]).pick_for("caller") is None


@given(st.lists(st.integers(0, 1_500), min_size=1, max_size=4), st.integers(0, 500))
def test_any_weights_are_shared_exactly_over_a_cycle(weights: list[int], unrouted: int) -> None:
    total = sum(weights) + unrouted
    shares = Counter(picks(Split(list(enumerate(weights)), unrouted), total))
    assert [shares[index] for index in range(len(weights))] == weights
    assert shares[None] == unrouted


def test_a_long_cycle_spreads_a_share_evenly() -> None:
    turns = [turn for turn, picked in enumerate(picks(Split([("a", 999_000), ("b", 1_001)]), 50_000)) if picked == "b"]
    assert 40 <= len(turns) <= 60
    assert max(later - earlier for earlier, later in pairwise(turns)) < 3_000


@given(st.lists(st.integers(0, 100), min_size=1, max_size=6).filter(lambda weights: sum(weights) <= 100))
def test_a_hundred_calls_are_shared_exactly_by_weight(weights: list[int]) -> None:
    shares = Counter(picks(split_of(*weights), 100))
    assert [shares[f"m{index}"] for index in range(len(weights))] == weights
    assert shares[None] == 100 - sum(weights)


def test_threads_together_take_the_exact_shares() -> None:
    split = split_of(70, 30)
    with ThreadPoolExecutor(4) as pool:
        taken = Counter(label for labels in pool.map(lambda _: picks(split, 2_500), range(4)) for label in labels)
    assert taken == {"m0": 7_000, "m1": 3_000}


# By the hash of a header


def test_a_caller_stays_with_one_destination() -> None:
    split, same = split_of(50, 50), split_of(50, 50)
    for number in range(50):
        assert split.pick_for(f"user{number}") is split.pick_for(f"user{number}")
        assert split.pick_for(f"user{number}") == same.pick_for(f"user{number}".encode())  # on every worker


def share_by_hash(*weights: int) -> Counter[str | None]:
    split = split_of(*weights)
    return Counter(split.pick_for(f"user{number}") for number in range(20_000))


@pytest.mark.parametrize("weights", [(90, 10), (50, 50), (1, 99), (30, 20)])
def test_callers_are_shared_by_weight(weights: tuple[int, ...]) -> None:
    shares = share_by_hash(*weights)
    for index, weight in enumerate((*weights, 100 - sum(weights))):
        label = f"m{index}" if index < len(weights) else None
        assert abs(shares[label] / 200 - weight) <= 1


def test_none_goes_where_the_weight_is_0_and_all_where_it_is_100() -> None:
    assert share_by_hash(100, 0) == {"m0": 20_000}
    assert share_by_hash(0, 100) == {"m1": 20_000}


def test_a_canary_that_grows_keeps_its_callers() -> None:
    small, large = split_of(90, 10), split_of(60, 40)
    for number in range(2_000):
        picked = small.pick_for(str(number))
        assert picked is not None
        if picked == "m1":
            later = large.pick_for(str(number))
            assert later is not None
            assert later == "m1"
