"""Zone hints are followed as kube-proxy follows them, and never at the price of having no pod."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from balancer.pods import make_pods
from grpcgw.balancer.zones import prefer_zone

A, B, C, D = PODS = make_pods(4)
HINTS = {
    A.endpoint: {"east"},
    B.endpoint: {"east", "west"},
    C.endpoint: {"west"},
    D.endpoint: {"north"},
}


def test_the_pods_meant_for_the_zone_are_preferred() -> None:
    assert prefer_zone(PODS, HINTS, "east") == (A, B)
    assert prefer_zone(PODS, HINTS, "west") == (B, C)


def test_a_zone_that_no_pod_is_meant_for_gets_all() -> None:
    assert prefer_zone(PODS, HINTS, "south") == (A, B, C, D)


def test_one_pod_without_a_hint_makes_all_hints_void() -> None:
    """The hints are then being worked out anew; as kube-proxy, and even where that pod cannot be used."""
    assert prefer_zone(PODS[:3], {**HINTS, D.endpoint: set()}, "east") == (A, B, C)


def test_without_a_usable_pod_in_the_zone_all_are_used() -> None:
    assert prefer_zone([C, D], HINTS, "east") == (C, D)


def test_a_gateway_that_does_not_know_its_zone_uses_all() -> None:
    assert prefer_zone(PODS, HINTS, "") == (A, B, C, D)
    assert prefer_zone(PODS, {}, "east") == (A, B, C, D)


@given(st.sets(st.integers(0, 3)), st.lists(st.sets(st.sampled_from("xyz")), min_size=4, max_size=4), st.text("xyz"))
def test_usable_pods_never_come_out_as_none(usable: set[int], zones: list[set[str]], zone: str) -> None:
    pods = [PODS[index] for index in sorted(usable)]
    hints = {pod.endpoint: zones[index] for index, pod in enumerate(PODS)}
    preferred = prefer_zone(pods, hints, zone)
    assert set(preferred) <= set(pods)
    assert bool(preferred) == bool(pods)
