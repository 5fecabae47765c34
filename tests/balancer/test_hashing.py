"""Consistent hashing: stable keys, even shares, and few keys that move when the pods change."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.pods import FakePod, make_pods
from grpcgw.balancer.base import Balancer
from grpcgw.balancer.hashing import hash_bytes, hash_header, hash_numbers, make_key
from grpcgw.balancer.maglev import Maglev
from grpcgw.balancer.ring_hash import RingHash
from grpcgw.model.balancing import LoadBalancer

KEYS = [hash_bytes(f"user-{number}".encode()) for number in range(6_000)]

both = pytest.mark.parametrize("make", [RingHash, Maglev])


def assign(balancer: Balancer, pods: Sequence[FakePod]) -> list[FakePod]:
    """The pod of each of KEYS."""
    picker = balancer.update(pods)
    picked = [picker.pick(None, key) for key in KEYS]
    assert all(isinstance(pod, FakePod) for pod in picked)
    return picked  # type: ignore[return-value]


def share_moved(before: Sequence[FakePod], after: Sequence[FakePod]) -> float:
    return sum(one is not other for one, other in zip(before, after, strict=True)) / len(before)


@settings(max_examples=20)
@given(st.integers(2, 90), st.data())
def test_on_the_ring_a_pod_that_leaves_moves_its_own_keys(count: int, data: st.DataObject) -> None:
    """Exactly those up to 64 pods; beyond, about another 1/N, as the others get or give up points."""
    pods = make_pods(count)
    leaving = pods[data.draw(st.integers(0, count - 1))]
    balancer = RingHash()
    before = assign(balancer, pods)
    after = assign(balancer, [pod for pod in pods if pod is not leaving])
    strangers = sum(one is not other and one is not leaving for one, other in zip(before, after, strict=True))
    if count <= 64:
        assert strangers == 0
        assert share_moved(before, after) < 1.5 / count
    else:
        assert share_moved(before, after) < 3.5 / count


@settings(max_examples=6)
@given(st.integers(2, 64), st.data())
def test_in_the_table_a_pod_that_leaves_moves_little_more_than_its_own_keys(count: int, data: st.DataObject) -> None:
    pods = make_pods(count)
    leaving = pods[data.draw(st.integers(0, count - 1))]
    balancer = Maglev()
    before = assign(balancer, pods)
    after = assign(balancer, [pod for pod in pods if pod is not leaving])
    assert leaving not in after
    assert share_moved(before, after) < 1 / count + 0.03


@both
@pytest.mark.parametrize("count", [2, 3, 10, 64])
def test_a_pod_replaced_by_another_moves_at_most_two_shares_of_the_keys(make: type[Balancer], count: int) -> None:
    """A rolling restart: the keys of the old pod go to all, the new one takes its part of everybody's."""
    pods = make_pods(count)
    balancer = make()
    before = assign(balancer, pods)
    after = assign(balancer, [*pods[1:], *make_pods(1, first=200)])
    assert share_moved(before, after) < 2 / count + 0.05


@both
def test_a_pod_that_comes_back_gets_its_keys_back(make: type[Balancer]) -> None:
    pods = make_pods(5)
    balancer = make()
    before = assign(balancer, pods)
    assign(balancer, pods[1:])
    assert assign(balancer, pods) == before


@pytest.mark.parametrize(("make", "least", "most"), [(RingHash, 0.75, 1.3), (Maglev, 0.999, 1.001)])
@pytest.mark.parametrize("count", [2, 3, 8, 64])
def test_shares_are_even(make: type[Balancer], least: float, most: float, count: int) -> None:
    """Measured over evenly spaced keys, so that the shares are those of the ring and the table themselves."""
    pods = make_pods(count)
    picker = make().update(pods)
    step = 65_537 if make is Maglev else 2**64 // 65_537
    picked = Counter(picker.pick(None, number * step + number) for number in range(65_537))
    assert set(picked) == set(pods)
    assert min(picked.values()) >= int(65_537 / count * least)
    assert max(picked.values()) <= 65_537 / count * most + 1


@both
def test_the_pod_after_a_failed_one_is_where_its_key_goes_when_it_leaves(make: type[Balancer]) -> None:
    """At least for most keys with maglev, and for all on the ring: a retry so warms the cache that will be used."""
    pods = make_pods(6)
    balancer = make()
    picker = balancer.update(pods)
    retried = [picker.pick(picker.pick(None, key), key) for key in KEYS[:2_000]]
    failed = [picker.pick(None, key) for key in KEYS[:2_000]]
    same = 0
    for gone in pods:
        without = balancer.update([pod for pod in pods if pod is not gone])
        same += sum(
            without.pick(None, key) is retry
            for key, pod, retry in zip(KEYS, failed, retried, strict=False)
            if pod is gone
        )
    assert same == 2_000 if make is RingHash else same > 200


@both
def test_every_process_agrees_where_a_key_belongs(make: type[Balancer]) -> None:
    """Workers and gateways must not differ, nor may a restart move callers: another process, with another hash seed."""
    program = (
        "from balancer.pods import make_pods; from balancer.test_hashing import *;"
        f"picker = {make.__name__}(7).update(make_pods(9));"
        "print([str(picker.pick(None, key)) for key in KEYS[:50]])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    picker = make().update(make_pods(9))
    assert answer.stdout.strip() == str([str(picker.pick(None, key)) for key in KEYS[:50]]), answer.stderr


def test_hashes_never_change() -> None:
    """A change would move every caller to another pod when the gateway is upgraded."""
    assert hash_bytes(b"user-1") == 9863422088627006618
    assert hash_numbers("10.0.0.1:50051", 9)[::8] == [9874314624712777860, 3213469568592392812]


def test_the_key_of_an_address_is_the_same_on_every_connection() -> None:
    key = make_key(LoadBalancer("ring_hash", source_ip=True))
    assert key is not None
    assert key((), "10.1.2.3") == key((("x-user", "a"),), "10.1.2.3") == hash_bytes(b"10.1.2.3")
    assert key((), "10.1.2.4") != key((), "10.1.2.3")
    assert key((), "") is None


def test_the_key_of_a_header_is_of_all_its_values() -> None:
    key = make_key(LoadBalancer("maglev", header="x-user"))
    assert key is not None
    assert key((("x-other", "a"), ("x-user", "bob")), "10.1.2.3") == hash_bytes(b"bob")
    assert key((("x-user", "a"), ("x-user", "b")), "") == hash_bytes(b"a,b")
    assert key((("x-other", "a"),), "10.1.2.3") is None
    assert hash_header((("id-bin", b"\xff\x00"),), "id-bin") == hash_bytes(b"\xff\x00")
    assert key((("x-user", "\ud800"),), "") is not None


@pytest.mark.parametrize("policy", ["round_robin", "least_request", "weighted_round_robin"])
def test_policies_that_do_not_hash_make_no_key(policy: str) -> None:
    assert make_key(LoadBalancer(policy)) is None
