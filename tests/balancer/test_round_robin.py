"""Strict turns: over a set, over changes of the set, over threads, and past a pod that failed."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.balancer.base import Backend, Outcome, Picker, turns_from
from grpcgw.balancer.round_robin import RoundRobin, RoundRobinPicker
from grpcgw.model.endpoints import Endpoint


@dataclass(eq=False)
class Stub:
    endpoint: Endpoint
    in_flight: int = 0


def pods(count: int) -> list[Stub]:
    return [Stub(Endpoint(f"10.0.0.{number}", 50051)) for number in range(count)]


def picks(picker: Picker, count: int) -> list[Backend | None]:
    return [picker.pick() for _ in range(count)]


def test_no_pods_no_pick() -> None:
    assert RoundRobin().update(()).pick() is None


@given(count=st.integers(1, 20), rounds=st.integers(1, 5), seed=st.integers(0, 100))
def test_every_pod_has_its_turn_before_any_has_two(count: int, rounds: int, seed: int) -> None:
    known = pods(count)
    picked = picks(RoundRobin(turns_from(seed)).update(known), count * rounds)
    start = seed % count
    assert picked == (known[start:] + known[:start]) * rounds


@given(count=st.integers(2, 8))
def test_workers_start_at_different_pods(count: int) -> None:
    known = pods(count)
    assert [RoundRobin(turns_from(seed)).update(known).pick() for seed in range(count)] == known


@given(sizes=st.lists(st.integers(1, 6), min_size=1, max_size=6), taken=st.integers(0, 10))
def test_turns_go_on_over_changes_of_the_set(sizes: list[int], taken: int) -> None:
    """A new picker goes on where the last was: a change gives no pod the first turn again and again."""
    balancer = RoundRobin()
    turn = 0
    for size in sizes:
        known = pods(size)
        picker = balancer.update(known)
        for picked in picks(picker, taken):
            assert picked is known[turn % size]
            turn += 1


def test_a_picker_in_use_is_not_touched_by_an_update() -> None:
    balancer = RoundRobin()
    known = pods(2)
    picker = balancer.update(known)
    balancer.update(pods(3))
    assert set(picks(picker, 4)) == set(known)


@given(count=st.integers(2, 6), turns=st.lists(st.integers(0, 1000), min_size=2, max_size=2), avoided=st.integers(0, 5))
def test_a_pod_that_failed_is_passed_over_whoever_else_takes_turns(count: int, turns: list[int], avoided: int) -> None:
    known = pods(count)
    avoid = known[avoided % count]
    picker = RoundRobinPicker(tuple(known), iter(turns).__next__)  # the turns this thread happens to get
    assert picker.pick(avoid) is not avoid


def test_the_only_pod_is_taken_even_if_it_failed() -> None:
    (only,) = known = pods(1)
    assert RoundRobin().update(known).pick(only) is only


def test_passing_over_a_pod_does_not_give_the_next_two_turns() -> None:
    first, second, third = known = pods(3)
    picker = RoundRobin().update(known)
    assert picker.pick(avoid=first) is second
    assert picker.pick() is third


@pytest.mark.parametrize("count", [2, 3, 7])
def test_threads_never_share_a_turn(count: int) -> None:
    picker = RoundRobin().update(pods(count))
    rounds = 1000
    with ThreadPoolExecutor(4) as threads:
        picked = threads.map(lambda _: picks(picker, rounds * count // 4), range(4))
    shares = Counter(itertools.chain.from_iterable(picked))
    assert max(shares.values()) - min(shares.values()) <= 1


def test_outcomes_and_time_change_nothing() -> None:
    known = pods(2)
    balancer = RoundRobin()
    picker = balancer.update(known)
    balancer.done(known[0], Outcome(14, True, 1.0))
    assert balancer.refresh(1.0) is None
    assert picks(picker, 2) == known
