"""What every balancing policy of the catalogue must hold: a new policy is tested before it has tests of its own."""

from __future__ import annotations

import random
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.load_reports import report
from balancer.pods import LOAD_BALANCERS, FakePod, make_pods
from grpcgw.balancer.balancer_catalogue import BALANCERS, make_balancer
from grpcgw.balancer.base import Outcome, turns_from
from grpcgw.model.balancing import LoadBalancer

GOOD = Outcome(0, False, 0.01)
FAILED = Outcome(14, True, 0.01)

every_policy = pytest.mark.parametrize(
    "load_balancer", LOAD_BALANCERS, ids=lambda lb: f"{lb.policy}-{lb.slow_start_ms}"
)
keys = st.none() | st.integers(0, 2**64 - 1)


def few_examples(load_balancer: LoadBalancer) -> settings:
    """A maglev table takes some 20 ms to fill."""
    return settings(max_examples=5 if load_balancer.policy == "maglev" else 60)


def test_every_policy_of_the_catalogue_is_tested() -> None:
    assert {load_balancer.policy for load_balancer in LOAD_BALANCERS} == set(BALANCERS)


def test_an_unknown_policy_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        make_balancer(LoadBalancer("fastest"), turns_from(0))


@every_policy
def test_picks_come_from_the_given_pods_and_none_only_from_no_pods(load_balancer: LoadBalancer) -> None:
    pods = make_pods(6)

    @few_examples(load_balancer)
    @given(st.lists(st.tuples(st.sets(st.integers(0, 5)), st.lists(keys, max_size=5)), max_size=8))
    def check(steps: list[tuple[set[int], list[int | None]]]) -> None:
        balancer = make_balancer(load_balancer, turns_from(1))
        now_s = 1_000.0
        for chosen, picks in steps:
            given_pods = [pods[index] for index in sorted(chosen)]
            picker = balancer.update(given_pods)
            for key in picks:
                pod = picker.pick(None, key)
                assert pod in given_pods if given_pods else pod is None
                now_s += 0.7
                picker = balancer.refresh(now_s) or picker

    check()


@every_policy
def test_the_pod_to_avoid_is_picked_only_when_there_is_no_other(load_balancer: LoadBalancer) -> None:
    @few_examples(load_balancer)
    @given(st.integers(1, 5), st.integers(0, 4), st.lists(keys, min_size=10, max_size=30), st.booleans())
    def check(count: int, index: int, picks: list[int | None], warm: bool) -> None:
        pods = make_pods(count)
        balancer = make_balancer(load_balancer, turns_from(0))
        if not warm:  # the last pod joins later, and has less weight where there is slow start
            balancer.update(pods[:-1])
            balancer.refresh(50.0)
        picker = balancer.update(pods)
        avoid = pods[index % len(pods)]
        for key in picks:
            pod = picker.pick(avoid, key)
            assert pod is not avoid if len(pods) > 1 else pod is avoid

    check()


@every_policy
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_pod_gets_rpcs(load_balancer: LoadBalancer, count: int) -> None:
    pods = make_pods(count)
    picker = make_balancer(load_balancer, turns_from(3)).update(pods)
    seen = {picker.pick(None, random.Random(turn).getrandbits(64)) for turn in range(100 * count)}
    assert seen == set(pods)


@every_policy
@pytest.mark.parametrize("count", [2, 7, 64])
def test_without_keys_pods_get_even_shares(load_balancer: LoadBalancer, count: int) -> None:
    picker = make_balancer(load_balancer, turns_from(0)).update(make_pods(count))
    picked = Counter(picker.pick() for _ in range(1_000 * count))
    assert len(picked) == count
    assert min(picked.values()) > 800
    assert max(picked.values()) < 1_200


@pytest.mark.parametrize("load_balancer", [lb for lb in LOAD_BALANCERS if lb.policy != "least_request"])
def test_an_update_with_the_same_pods_changes_nothing(load_balancer: LoadBalancer) -> None:
    """Of least_request there is nothing to see: it keeps nothing between picks."""
    pods = make_pods(5)
    updated, left = make_balancer(load_balancer, turns_from(2)), make_balancer(load_balancer, turns_from(2))
    picker, picker_left = updated.update(pods), left.update(pods)
    for turn in range(50):
        key = random.Random(turn).getrandbits(64) if turn % 2 else None
        assert picker.pick(None, key) is picker_left.pick(None, key)
        picker = updated.update(pods)


@every_policy
def test_outcomes_may_come_in_any_order_and_from_pods_that_left(load_balancer: LoadBalancer) -> None:
    balancer = make_balancer(load_balancer, turns_from(0))
    pods = make_pods(4)
    picker = balancer.update(pods)
    picked = [picker.pick(None, turn) for turn in range(20)]
    picker = balancer.update(pods[:2])
    random.Random(0).shuffle(picked)
    for turn, pod in enumerate(picked):
        assert pod is not None
        outcomes = (GOOD, FAILED, report(rps_fractional=10.0, cpu_utilization=0.5))
        balancer.done(pod, outcomes[turn % len(outcomes)])
        picker = balancer.refresh(100.0 + turn) or picker
        assert picker.pick(None, turn) in pods[:2]


@every_policy
def test_a_pod_that_flaps_disturbs_nobody(load_balancer: LoadBalancer) -> None:
    """Ten changes a second for ten seconds: the others get every RPC that the flapping pod does not."""
    pods = make_pods(5)
    flapping = pods[2]
    balancer = make_balancer(load_balancer, turns_from(0))
    picker = balancer.update(pods)
    picked: Counter[object] = Counter()
    for change in range(100):
        usable = pods if change % 2 else [pod for pod in pods if pod is not flapping]
        picker = balancer.update(usable)
        picker = balancer.refresh(500.0 + change / 10) or picker
        for turn in range(50):
            pod = picker.pick(None, random.Random(50 * change + turn).getrandbits(64))
            assert pod in usable
            picked[pod] += 1
    shares = [picked[pod] / picked.total() for pod in pods if pod is not flapping]
    assert min(shares) > 0.15
    assert max(shares) < 0.30
    assert 0 < picked[flapping] / picked.total() < 0.15


@every_policy
def test_threads_may_pick_while_another_updates(load_balancer: LoadBalancer) -> None:
    pods = make_pods(4)
    balancer = make_balancer(load_balancer, turns_from(0))
    pickers = [balancer.update(pods)]
    strangers: list[object] = []
    over = threading.Event()

    def pick() -> None:
        turn = 0
        while not over.is_set() or turn < 100:
            turn += 1
            pod = pickers[-1].pick(None, turn)
            if not isinstance(pod, FakePod):
                strangers.append(pod)
                return
            balancer.done(pod, report(rps_fractional=5.0, cpu_utilization=0.1 * (turn % 7)))

    threads = [threading.Thread(target=pick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for change in range(100):
        pickers.append(balancer.update(pods[: 2 + change % 3]))
        refreshed = balancer.refresh(10.0 + change)
        if refreshed is not None:
            pickers.append(refreshed)
    over.set()
    for thread in threads:
        thread.join(30)
    assert not strangers
    assert not any(thread.is_alive() for thread in threads)
