"""Retries: what is tried again and when, and that retries stay a small share of the traffic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.resilience import RetryPolicy
from grpcgw.policy.retry import (
    Failure,
    GiveUp,
    Retries,
    Retry,
    RetryBudget,
    add_previous_attempts,
    parse_pushback,
)

UNAVAILABLE, INTERNAL, DEADLINE_EXCEEDED = 14, 13, 4
POLICY = RetryPolicy(frozenset({UNAVAILABLE}), num_retries=3)


def pushback(text: str | bytes) -> tuple[tuple[str, str | bytes], ...]:
    return (("grpc-retry-pushback-ms", text),)


def make_retries(policy: RetryPolicy = POLICY, draw: float = 0.5) -> Retries:
    return Retries(policy, RetryBudget(lambda: 0), lambda: draw)


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (Failure(UNAVAILABLE), Retry(0.0125)),
        (Failure(INTERNAL), GiveUp.CODE),
        (Failure(INTERNAL, never_reached=True), Retry(0.0125)),
        (Failure(DEADLINE_EXCEEDED), GiveUp.CODE),
        (Failure(DEADLINE_EXCEEDED, timed_out=True), Retry(0.0125)),
        (Failure(UNAVAILABLE, committed=True), GiveUp.COMMITTED),
        (Failure(UNAVAILABLE, never_reached=True, committed=True), GiveUp.COMMITTED),
        (Failure(UNAVAILABLE, pushback("0")), Retry(0.0)),
        (Failure(UNAVAILABLE, pushback("1500")), Retry(1.5)),
        (Failure(UNAVAILABLE, pushback("-1")), GiveUp.PUSHBACK),
        (Failure(UNAVAILABLE, pushback("soon")), GiveUp.PUSHBACK),
        (Failure(INTERNAL, pushback("10")), GiveUp.CODE),
        (Failure(UNAVAILABLE, left_s=0.0125), GiveUp.NO_TIME),
        (Failure(UNAVAILABLE, left_s=0.013), Retry(0.0125)),
        (Failure(UNAVAILABLE, pushback("1500"), left_s=1.0), GiveUp.NO_TIME),
    ],
)
def test_the_first_failure_is_retried_or_not(failure: Failure, verdict: Retry | GiveUp) -> None:
    assert make_retries().decide(failure) == verdict


def test_back_off_doubles_up_to_its_limit_and_retries_end() -> None:
    retries = make_retries(RetryPolicy(frozenset({UNAVAILABLE}), num_retries=6), draw=1.0)
    verdicts = [retries.decide(Failure(UNAVAILABLE)) for _ in range(7)]
    delays_ms = [verdict.delay_s * 1000 for verdict in verdicts if isinstance(verdict, Retry)]
    assert delays_ms == pytest.approx([25, 50, 100, 200, 250, 250])
    assert verdicts[-1] is GiveUp.EXHAUSTED
    assert retries.count == 6


def test_after_a_pods_wish_the_back_off_begins_anew() -> None:
    retries = make_retries(draw=1.0)
    retries.decide(Failure(UNAVAILABLE))
    assert retries.decide(Failure(UNAVAILABLE, pushback("70"))) == Retry(0.07)
    assert retries.decide(Failure(UNAVAILABLE)) == Retry(0.025)


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10))
def test_the_delay_lies_within_its_bounds(draw: float, before: int) -> None:
    retries = make_retries(RetryPolicy(frozenset({UNAVAILABLE}), num_retries=20), draw)
    for _ in range(before):
        retries.decide(Failure(UNAVAILABLE))
    verdict = retries.decide(Failure(UNAVAILABLE))
    assert isinstance(verdict, Retry)
    assert 0 <= verdict.delay_s < min(0.025 * 2**before, 0.2500001)


def test_no_retries_where_the_policy_allows_none() -> None:
    policy = RetryPolicy(frozenset({UNAVAILABLE}), num_retries=0)
    assert make_retries(policy).decide(Failure(UNAVAILABLE)) is GiveUp.EXHAUSTED


def test_three_rpcs_may_be_retried_at_one_time_however_little_traffic_there_is() -> None:
    budget = RetryBudget(lambda: 4)
    many = [Retries(POLICY, budget) for _ in range(4)]
    verdicts = [retries.decide(Failure(UNAVAILABLE)) for retries in many]
    assert [isinstance(verdict, Retry) for verdict in verdicts] == [True, True, True, False]
    assert verdicts[3] is GiveUp.BUDGET
    assert isinstance(many[0].decide(Failure(UNAVAILABLE)), Retry)  # the same RPC again counts once
    many[0].close()
    many[0].close()
    assert isinstance(Retries(POLICY, budget).decide(Failure(UNAVAILABLE)), Retry)
    assert Retries(POLICY, budget).decide(Failure(UNAVAILABLE)) is GiveUp.BUDGET


def test_a_dead_service_gets_at_most_its_share_of_retries() -> None:
    """1,000 RPCs in flight that all fail: 20 % are retried, the rest fail at once."""
    budget = RetryBudget(lambda: 1_000)
    retried = [Retries(POLICY, budget).decide(Failure(UNAVAILABLE)) for _ in range(1_000)]
    assert sum(isinstance(verdict, Retry) for verdict in retried) == 200


@given(st.lists(st.sampled_from(["begin", "end", "fail", "close"]), max_size=200), st.integers(0, 100))
def test_retries_never_exceed_the_budget(steps: list[str], percent: int) -> None:
    in_flight = 0
    budget = RetryBudget(lambda: in_flight)
    policy = RetryPolicy(frozenset({UNAVAILABLE}), 3, budget_percent=percent)
    retrying: list[Retries] = []
    for step in steps:
        if step == "begin":
            in_flight += 1
        elif step == "end" and in_flight:
            in_flight -= 1
        elif step == "fail":
            retries = Retries(policy, budget)
            allowed = len(retrying) < max(3, in_flight * percent // 100)
            assert isinstance(retries.decide(Failure(UNAVAILABLE)), Retry) is allowed
            if allowed:
                retrying.append(retries)
            else:
                retries.close()
        elif step == "close" and retrying:
            retrying.pop(0).close()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("20", 20),
        ("2147483647", 2147483647),
        ("-5", -5),
        ("2147483648", -1),
        ("01", -1),
        ("+1", -1),
        ("1.5", -1),
        (" 1", -1),
        ("", -1),
        ("٣", -1),
        (b"1", -1),
    ],
)
def test_pushback_is_a_number_or_means_no_retry(text: str | bytes, expected: int) -> None:
    assert parse_pushback((("x", "1"), *pushback(text))) == expected


def test_without_pushback_the_pod_says_nothing() -> None:
    assert parse_pushback((("x", "1"),)) is None


def test_the_pod_learns_how_many_tries_there_were() -> None:
    metadata = (("x", "1"), ("y-bin", b"2"))
    assert add_previous_attempts(metadata, 1) == (*metadata, ("grpc-previous-rpc-attempts", "1"))
    clients = (("grpc-previous-rpc-attempts", "2"), *metadata)
    assert add_previous_attempts(clients, 1) == (*metadata, ("grpc-previous-rpc-attempts", "3"))
    nonsense = (("grpc-previous-rpc-attempts", "many"), *metadata)
    assert add_previous_attempts(nonsense, 2) == (*metadata, ("grpc-previous-rpc-attempts", "2"))
