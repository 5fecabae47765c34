"""Active health: thresholds, what a result means, and what the operator reads."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from grpcgw.model.balancing import HealthCheck
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import Endpoint
from grpcgw.upstream.active_health import LOST_S, HealthChecker, PodHealth, judge_check
from grpcgw.upstream.pod import Pod as PooledPod
from tests.session.gateway import FakeConnection

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
        (Code.OK, "", 1, ""),
        (Code.OK, "", 2, "the pod says NOT_SERVING of greet.GrpcService"),
        (Code.OK, "", 0, "the pod says UNKNOWN of greet.GrpcService"),
        (Code.OK, "", None, "the pod says UNKNOWN of greet.GrpcService"),
        (Code.OK, "", 9, "the pod says 9 of greet.GrpcService"),
        (Code.UNIMPLEMENTED, "", None, "the pod does not serve grpc.health.v1.Health"),
        (Code.NOT_FOUND, "", None, "the pod's health service does not know 'greet.GrpcService'"),
        (Code.DEADLINE_EXCEEDED, "", None, "no answer within 3000 ms"),
        (Code.UNAVAILABLE, "connection refused", None, "UNAVAILABLE: connection refused"),
        (Code.INTERNAL, "", None, "INTERNAL"),
    ],
)
def test_only_serving_passes_and_everything_else_says_why(
    code: Code, details: str, serving: int | None, failure: str
) -> None:
    assert judge_check(SETTINGS, code, details, serving) == failure


class HealthModel(RuleBasedStateMachine):
    """Pods come, go, and answer late or never, whatever the time: each is asked in time and one at a time, is out
    exactly while its last answers say so, and what comes from before it left says nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.settings = HealthCheck(interval_ms=1_000, unhealthy_threshold=2, healthy_threshold=2)
        self.checker = HealthChecker(self.settings, lambda low, high: (low + high) / 2)
        self.now_s = 0.0
        self.pods: dict[int, PooledPod] = {}
        self.asked: list[tuple[PooledPod, PodHealth]] = []
        self.answers: dict[PooledPod, list[bool]] = {}
        self.last_asked_s: dict[PooledPod, float] = {}
        self.waiting: set[PooledPod] = set()

    @rule(hosts=st.sets(st.integers(1, 4)).map(sorted))
    def pods_change(self, hosts: list[int]) -> None:
        self.pods = {host: self.pods.get(host) or pooled(host) for host in hosts}
        self.answers = {pod: self.answers.get(pod, []) for pod in self.pods.values()}
        self.checker.set_pods(self.pods.values())

    @rule(seconds=st.sampled_from((0.0, 0.4, 1.0, 3.0)))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        due = self.checker.take_due(self.now_s)
        limit_s = self.settings.timeout_ms / 1000 + LOST_S
        waiting = {pod for pod in self.waiting if self.now_s < self.last_asked_s[pod] + limit_s}
        expected = [
            pod
            for pod in self.pods.values()
            if pod not in waiting and self.now_s >= self.last_asked_s.get(pod, -9.0) + 1.0
        ]
        assert [pod for pod, _ in due] == expected
        self.asked += due
        self.waiting |= {pod for pod, _ in due}
        self.last_asked_s |= dict.fromkeys(expected, self.now_s)

    @precondition(lambda self: self.asked)
    @rule(data=st.data(), passed=st.booleans())
    def pod_answers(self, data: st.DataObject, passed: bool) -> None:
        pod, health = self.asked.pop(data.draw(st.integers(0, len(self.asked) - 1)))
        health.record("" if passed else "no answer")
        self.waiting.discard(pod)  # a late answer to a check that was given up counts as well
        if pod in self.answers:
            self.answers[pod].append(passed)

    @invariant()
    def a_pod_is_out_while_its_answers_say_so(self) -> None:
        for pod in self.pods.values():
            assert self.checker.is_usable(pod) is not bool(self.checker.explain(pod))
            assert self.checker.is_usable(pod) is self._expected(self.answers[pod])

    def _expected(self, answers: list[bool]) -> bool:
        """The first answer decides alone, then two in a row."""
        state = answers[0] if answers else True
        for one, other in pairwise(answers[1:] if answers else ()):
            if one is other:
                state = one
        return state


TestHealthModel = HealthModel.TestCase


def pooled(host: int) -> PooledPod:
    return PooledPod("greet", Endpoint(f"10.0.0.{host}", 50051), FakeConnection(f"10.0.0.{host}:50051"))


def test_a_new_connection_to_a_pod_keeps_what_is_known_of_it() -> None:
    checker = HealthChecker(SETTINGS)
    checker.set_pods([pooled(1)])
    ((_, health),) = checker.take_due(0.0)
    health.record("no answer")
    renewed = pooled(1)
    checker.set_pods([renewed])
    assert checker.explain(renewed) == "unhealthy: no answer"


def test_checks_of_many_pods_do_not_stay_in_step() -> None:
    checker = HealthChecker(HealthCheck(interval_ms=1_000))
    checker.set_pods([pooled(host) for host in range(50)])
    due_s = {health.due_s for _, health in checker.take_due(10.0)}
    assert len(due_s) > 40
    assert all(10.9 <= one <= 11.1 for one in due_s)


def test_a_pod_is_checked_on_its_new_connection_though_the_old_one_owes_an_answer() -> None:
    checker = HealthChecker(HealthCheck(interval_ms=1_000))
    checker.set_pods([pooled(1)])
    assert len(checker.take_due(0.0)) == 1
    renewed = pooled(1)
    checker.set_pods([renewed])
    assert [pod for pod, _ in checker.take_due(2.0)] == [renewed]


def test_a_check_that_is_never_answered_does_not_end_the_checks() -> None:
    checker = HealthChecker(HealthCheck(interval_ms=1_000, timeout_ms=3_000))
    checker.set_pods([pooled(1)])
    assert len(checker.take_due(0.0)) == 1
    assert checker.take_due(3.0) == [], "the answer may still come"
    assert len(checker.take_due(3.0 + LOST_S)) == 1
