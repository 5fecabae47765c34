"""Deadlines: the shortest rules, and what a pod is told is never more than what is left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.policy.timeouts import bound_deadline, may_have_passed, upstream_deadline

NOW_S = st.floats(1.6e9, 2.0e9)
# The second range is where the rounding has its oddest step.
LEFT_S = st.one_of(st.floats(0.05, 120.0), st.floats(6e4, 1e5), st.floats(-1.0, 7.5).map(lambda digits: 10.0**digits))


def sent_timeout_ms(deadline_s: float, now_s: float) -> int:
    """The timeout that grpc core sends: rounded up to at most three or so digits, so that HPACK meets few values.

    A deadline counts in whole milliseconds, rounded up, the present rounded down; what comes to whole units of the next
    size is sent in those (grpc `src/core/lib/transport/timeout_encoding.cc`).
    """
    left_ms = max(0, math.ceil(deadline_s * 1000) - math.floor(now_s * 1000))
    for unit_ms, larger_ms in ((1, 1_000), (1_000, 60_000), (60_000, 3_600_000)):
        count = -(-left_ms // unit_ms)
        step = next((step for limit, step in ((1_000, 1), (10_000, 10), (100_000, 100)) if count < limit), None)
        if step is not None:
            rounded_ms = -(-count // step) * step * unit_ms
            if rounded_ms % larger_ms:
                return rounded_ms
    return -(-left_ms // 3_600_000) * 3_600_000


@pytest.mark.parametrize(
    ("left_s", "sent_ms"),
    [(0.5, 500), (2.0, 2_000), (2.001, 2_010), (9.995, 10_000), (90.05, 90_100), (60_201, 60_600_000)],
)
def test_the_rounding_assumed_here(left_s: float, sent_ms: int) -> None:
    """The engines' tests hold `upstream_deadline` against the core itself, for the short ones."""
    assert sent_timeout_ms(left_s, 0.0) == sent_ms


@given(now_s=NOW_S, left_s=LEFT_S)
def test_a_pod_is_never_told_more_than_is_left(now_s: float, left_s: float) -> None:
    deadline_s = now_s + left_s
    told_ms = sent_timeout_ms(upstream_deadline(deadline_s, now_s), now_s)
    assert told_ms <= (deadline_s - now_s) * 1000


@given(now_s=NOW_S, left_s=LEFT_S, waited_s=st.floats(0.0, 0.04))
def test_a_pod_is_never_told_more_than_is_left_when_core_sends_it(now_s: float, left_s: float, waited_s: float) -> None:
    """Core encodes a little later than the deadline was worked out, where its rounding may have another step."""
    deadline_s = now_s + left_s
    told_ms = sent_timeout_ms(upstream_deadline(deadline_s, now_s), now_s + waited_s)
    assert told_ms <= (deadline_s - now_s) * 1000


@given(now_s=NOW_S, left_s=LEFT_S)
def test_little_of_a_deadline_is_cut_off(now_s: float, left_s: float) -> None:
    deadline_s = now_s + left_s
    cut_s = deadline_s - upstream_deadline(deadline_s, now_s)
    assert 0 <= cut_s <= 0.0101 * left_s + 0.004


@given(now_s=NOW_S, late_s=st.floats(0.001, 1e5))
def test_a_deadline_in_the_past_stays_there(now_s: float, late_s: float) -> None:
    assert upstream_deadline(now_s - late_s, now_s) < now_s


@given(now_s=NOW_S, left_s=LEFT_S)
def test_a_deadline_that_core_watches_counts_as_passed_when_core_says_so(now_s: float, left_s: float) -> None:
    deadline_s = now_s + left_s
    assert may_have_passed(deadline_s, now_s, upstream_deadline(deadline_s, now_s))


def test_a_deadline_far_away_has_not_passed() -> None:
    assert not may_have_passed(100.0, 0.0, 98.0)
    assert may_have_passed(100.0, 0.0, 99.5)


def test_without_a_timeout_the_clients_deadline_rules() -> None:
    assert bound_deadline(None, None, 10.0) is None
    assert bound_deadline(12.0, None, 10.0) == 12.0


def test_a_timeout_counts_from_now() -> None:
    assert bound_deadline(None, 2_500, 10.0) == 12.5


@given(client_s=st.floats(0.0, 1e9), timeout_ms=st.integers(1, 10**9), now_s=st.floats(0.0, 1e9))
def test_a_timeout_can_only_shorten_a_deadline(client_s: float, timeout_ms: int, now_s: float) -> None:
    bound_s = bound_deadline(client_s, timeout_ms, now_s)
    assert bound_s is not None
    assert bound_s == min(client_s, now_s + timeout_ms / 1000)
