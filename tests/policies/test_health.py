"""Active health: thresholds, what a result means, and what the operator reads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.config.policies import HealthCheck
from grpcgw.upstream.health import PodHealth, choose_good, judge_check

SETTINGS = HealthCheck(service="greet.GrpcService", unhealthy_threshold=2, healthy_threshold=3)


def check(health: PodHealth, *failures: str) -> list[bool]:
    return [health.record(failure) for failure in failures]


def test_a_pod_that_was_not_checked_yet_is_used() -> None:
    health = PodHealth(SETTINGS)
    assert health.usable
    assert health.explain() == "not checked yet"


def test_the_first_check_decides_alone() -> None:
    good, bad = PodHealth(SETTINGS), PodHealth(SETTINGS)
    assert check(good, "") == [False]
    assert good.usable
    assert good.explain() == "healthy"
    assert check(bad, "no answer") == [True]
    assert not bad.usable
    assert bad.explain() == "unhealthy: no answer"


def test_a_change_needs_its_threshold_in_a_row() -> None:
    health = PodHealth(SETTINGS)
    assert check(health, "", "x", "", "x", "y") == [False, False, False, False, True]
    assert check(health, "", "", "z", "", "", "") == [False, False, False, False, False, True]
    assert health.usable


def test_the_operator_reads_what_the_checks_say() -> None:
    health = PodHealth(SETTINGS)
    check(health, "", "no answer")
    assert health.explain() == "healthy, but failed 1 of 2 checks in a row: no answer"
    check(health, "refused", "")
    assert health.explain() == "unhealthy: refused; passed 1 of 3 checks in a row since"


@given(st.lists(st.booleans(), max_size=60), st.integers(1, 4), st.integers(1, 4))
def test_the_state_follows_the_last_checks(results: list[bool], unhealthy: int, healthy: int) -> None:
    """Whenever the last checks agree for as long as the threshold, the state is theirs; `record` tells each change."""
    health = PodHealth(HealthCheck(unhealthy_threshold=unhealthy, healthy_threshold=healthy))
    for count, passed in enumerate(results, 1):
        before = health.usable
        assert health.record("" if passed else "no") == (health.usable is not before)
        last = results[max(0, count - (healthy if passed else unhealthy)) : count]
        if len(set(last)) == 1 and (len(last) == (healthy if passed else unhealthy) or count == 1):
            assert health.usable is passed


@pytest.mark.parametrize(
    ("code", "details", "serving", "failure"),
    [
        ("OK", "", 1, ""),
        ("OK", "", 2, "the pod says NOT_SERVING of greet.GrpcService"),
        ("OK", "", 0, "the pod says UNKNOWN of greet.GrpcService"),
        ("OK", "", None, "the pod says UNKNOWN of greet.GrpcService"),
        ("OK", "", 9, "the pod says 9 of greet.GrpcService"),
        ("UNIMPLEMENTED", "", None, "the pod does not serve grpc.health.v1.Health"),
        ("NOT_FOUND", "", None, "the pod's health service does not know 'greet.GrpcService'"),
        ("DEADLINE_EXCEEDED", "", None, "no answer within 3000 ms"),
        ("UNAVAILABLE", "connection refused", None, "UNAVAILABLE: connection refused"),
        ("INTERNAL", "", None, "INTERNAL"),
    ],
)
def test_only_serving_passes_and_everything_else_says_why(
    code: str, details: str, serving: int | None, failure: str
) -> None:
    assert judge_check(SETTINGS, code, details, serving) == failure


def test_without_a_panic_threshold_bad_pods_are_never_used() -> None:
    assert choose_good(range(4), lambda pod: pod == 1) == (1,)
    assert choose_good(range(4), lambda pod: False) == ()


@pytest.mark.parametrize(("good", "used"), [(0, 4), (1, 4), (2, 2), (4, 4)])
def test_below_the_panic_threshold_all_pods_are_used(good: int, used: int) -> None:
    assert len(choose_good(range(4), lambda pod: pod < good, panic_percent=50)) == used
