"""`retry_policy` and `circuit_breakers` of a Mapping, event by event: what is tried again, and what is given back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.endpoints import PodState
from grpcgw.model.resilience import CircuitBreaker, RetryPolicy
from grpcgw.model.status import Reason, Status
from grpcgw.policy.breakers import Breaker, Limit
from grpcgw.policy.retry import MIN_CONCURRENT_RETRIES
from tests.session.gateway import LABEL, FakeConnection, Gateway, destination, endpoints, route, snapshot
from tests.session.playbook import (
    BACK_OFF,
    CANCEL_POD,
    CONNECTION_LOST,
    DEADLINE,
    METHOD,
    OK,
    READ,
    STREAM_REFUSED,
    Finish,
    Open,
    Rpc,
    SendPod,
    ended_with,
    reason_of,
)

POD_HEADERS = (("server", "pod"),)
BUSY = Status(Code.UNAVAILABLE, "come back later")
ABORTED = Status(Code.ABORTED, "conflict", (("k", "v"),))
ON_UNAVAILABLE = RetryPolicy(frozenset({Code.UNAVAILABLE}), num_retries=2)


def gateway(policy: RetryPolicy = ON_UNAVAILABLE, pods: int = 2, **mapping: object) -> Gateway:
    return Gateway(pods, retry=policy, **mapping)


def breaker(gateway: Gateway) -> Breaker:
    found = gateway.route(METHOD).breaker  # type: ignore[union-attr]
    gateway.targets.pop()
    assert found is not None
    return found


def lent(gateway: Gateway) -> tuple[int, int]:
    """RPCs and retries that the budget counts."""
    budget = gateway.route(METHOD).budget  # type: ignore[union-attr]
    gateway.targets.pop()
    return budget._count_in_flight(), budget._retrying  # nothing else tells


def assert_all_given_back(gateway: Gateway) -> None:
    assert lent(gateway) == (0, 0)
    for target in gateway.targets:
        if target.breaker is not None:
            assert {limit: target.breaker.in_use(limit) for limit in Limit} == dict.fromkeys(Limit, 0)
        assert target.picked == [pod for pod, _ in target.done_with]
    assert all(report.in_flight == 0 for report in gateway.counters.reports())


def refused(rpc: Rpc, status: Status = BUSY) -> list[object]:
    """The pod answers trailers-only, with all that an engine reports of it."""
    return [*rpc.pod_takes(), *rpc.pod_headers(), *rpc.pod_has_no_more(), *rpc.pod_ends(status)]


def waiting(gateway: Gateway) -> Rpc:
    """A unary RPC whose retry waits."""
    rpc = Rpc(gateway)
    rpc.is_sent_unary(b"hi")
    assert refused(rpc)[-1] == BACK_OFF
    return rpc


# --- what is tried again


def test_a_retry_waits_and_is_then_the_whole_request_again_on_another_pod() -> None:
    rpc = Rpc(gateway(), metadata=(("k", "v"),), deadline_s=9.0)
    (first,) = rpc.is_sent_unary(b"hi")[-1:]
    assert refused(rpc)[-1] == BACK_OFF
    assert 0.0 <= rpc.call.delay_s <= 0.025
    (second,) = rpc.timer_expires()
    assert isinstance(first, Open)
    assert second == Open(2, b"hi", half_close=True)
    assert isinstance(second, Open)
    assert second.metadata == (*first.metadata, ("grpc-previous-rpc-attempts", "1"))
    assert (second.path, second.authority, second.deadline_s) == (first.path, first.authority, 9.0)
    assert rpc.is_answered_unary()[-1] == Finish(OK, POD_HEADERS, b"yo")
    assert rpc.gateway.counters.retries == 1
    assert_all_given_back(rpc.gateway)


def test_a_pod_is_told_how_many_tries_came_before() -> None:
    rpc = Rpc(gateway(), metadata=(("grpc-previous-rpc-attempts", "1"),))
    rpc.is_sent_unary()
    counts = []
    for _ in range(2):
        refused(rpc)
        (again,) = rpc.timer_expires()
        assert isinstance(again, Open)
        counts.append([value for key, value in again.metadata if key == "grpc-previous-rpc-attempts"])
    assert counts == [["2"], ["3"]], "its client's own try and the gateway's"


def test_the_last_failure_is_the_answer_untouched() -> None:
    last = Status(Code.UNAVAILABLE, "still not", (("k", "v"),))
    rpc = waiting(gateway())
    rpc.timer_expires()
    assert refused(rpc)[-1] == BACK_OFF
    rpc.timer_expires()
    assert refused(rpc, last)[-1] == Finish(last, (), None)
    assert len(rpc.attempts) == 3
    assert rpc.codes() == {Code.UNAVAILABLE: 1}, "one RPC to the client"
    assert_all_given_back(rpc.gateway)


def test_a_code_that_is_not_named_is_the_answer() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    assert refused(rpc, ABORTED)[-1] == Finish(ABORTED, (), None)
    assert rpc.gateway.counters.retries == 0
    assert_all_given_back(rpc.gateway)


def test_what_the_client_would_be_told_decides() -> None:
    """grpc core calls what is no HTTP/2 UNKNOWN, the client hears INTERNAL."""
    rpc = Rpc(gateway(RetryPolicy(frozenset({Code.INTERNAL}))))
    rpc.is_sent_unary()
    garbage = Status(Code.UNKNOWN, "Stream removed (Failed parsing HTTP/2)", cause=Reason.BAD_RESPONSE)
    assert refused(rpc, garbage)[-1] == BACK_OFF
    rpc.timer_expires()
    assert reason_of(refused(rpc, garbage)) == "bad-response"


def test_a_lost_connection_is_tried_again_where_the_policy_names_its_code() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    assert rpc.try_fails(CONNECTION_LOST)[-1] == BACK_OFF
    assert rpc.timer_expires() == [Open(2, b"hi", half_close=True)]


def test_what_never_reached_a_pod_is_tried_again_under_every_policy_and_once_more_without_it() -> None:
    rpc = Rpc(gateway(RetryPolicy(frozenset(), num_retries=1), pods=3))
    rpc.is_sent_unary()
    assert rpc.try_fails(STREAM_REFUSED)[-1] == BACK_OFF
    rpc.timer_expires()
    assert rpc.try_fails(STREAM_REFUSED)[0] != BACK_OFF, "the safe retry waits for nothing"
    assert reason_of(rpc.try_fails(STREAM_REFUSED)) == "stream-refused"
    assert len(rpc.attempts) == 3
    assert_all_given_back(rpc.gateway)


def test_nothing_is_tried_again_once_headers_went_out() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    rpc.timer_expires()
    rpc.client_takes()
    rpc.pod_has_no_more()
    assert rpc.pod_ends(BUSY) == [Finish(BUSY, None, None)]
    assert_all_given_back(rpc.gateway)


def test_headers_that_were_held_back_are_the_last_trys() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers(("server", "first"))
    rpc.pod_has_no_more()
    assert rpc.pod_ends(BUSY)[-1] == BACK_OFF
    rpc.timer_expires()
    assert rpc.is_answered_unary()[-1] == Finish(OK, POD_HEADERS, b"yo")


def test_a_reply_that_came_is_never_followed_by_a_retry() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    rpc.pod_takes()
    rpc.pod_headers(*POD_HEADERS)
    rpc.pod_replies(b"yo")
    assert rpc.pod_ends(BUSY) == [Finish(BUSY, POD_HEADERS, b"yo")]


def test_a_request_of_which_two_messages_went_out_is_not_tried_again() -> None:
    rpc = Rpc(gateway())
    rpc.starts()
    rpc.client_sends(b"one")
    rpc.client_sends(b"two")
    rpc.pod_takes()
    rpc.pod_takes()
    rpc.pod_headers()
    rpc.pod_has_no_more()
    assert rpc.pod_ends(BUSY) == [Finish(BUSY, (), None)]


# --- the client, while a retry waits


def test_a_half_close_that_comes_while_a_retry_waits_goes_out_with_it() -> None:
    rpc = Rpc(gateway())
    rpc.starts()
    rpc.client_sends(b"hi")
    rpc.timer_expires()
    assert refused(rpc)[-1] == BACK_OFF
    assert rpc.client_half_closes() == []
    assert rpc.timer_expires() == [Open(2, b"hi", half_close=True)]


def test_a_first_message_that_comes_while_a_retry_waits_goes_out_with_it() -> None:
    rpc = Rpc(gateway())
    rpc.starts()
    rpc.timer_expires()
    assert refused(rpc)[-1] == BACK_OFF
    assert rpc.client_sends(b"hi") == [READ]
    assert rpc.timer_expires() == [Open(2, b"hi")]
    assert rpc.pod_takes() == []
    assert rpc.client_half_closes() == [SendPod(None, half_close=True)]


def test_a_second_message_that_comes_while_a_retry_waits_follows_it() -> None:
    rpc = Rpc(gateway())
    rpc.starts()
    rpc.client_sends(b"one")
    rpc.timer_expires()
    rpc.pod_takes()
    rpc.pod_headers()
    rpc.pod_has_no_more()
    assert rpc.pod_ends(BUSY)[-1] == BACK_OFF
    assert rpc.client_sends(b"two") == []
    assert rpc.timer_expires() == [Open(2, b"one")]
    assert rpc.pod_takes() == [SendPod(b"two")]


@pytest.mark.parametrize("ending", ["client_leaves", "drain_ends", "defect", "sweep"])
def test_an_rpc_whose_retry_waits_can_be_ended(ending: str) -> None:
    rpc = waiting(gateway(idle_timeout_ms=1_000))
    rpc.now_s = 10.0
    asked = getattr(rpc, ending)()
    assert CANCEL_POD not in asked, "no pod has it"
    assert rpc.session.finished
    assert not rpc.call.timer, "the retry that waited is called off"
    assert_all_given_back(rpc.gateway)


def test_a_deadline_that_passes_while_a_retry_waits_is_the_rpcs_own() -> None:
    policy = RetryPolicy(frozenset({Code.UNAVAILABLE}), per_try_timeout_ms=1_000)
    rpc = waiting(gateway(policy, timeout_ms=5_000))
    rpc.now_s = 6.0
    asked = rpc.sweep()
    assert (reason_of(asked), ended_with(asked).code) == ("timeout", Code.DEADLINE_EXCEEDED)
    assert "timeout_ms 5000" in ended_with(asked).details
    assert_all_given_back(rpc.gateway)


def test_a_deadline_that_passes_before_the_first_try_is_the_rpcs_own() -> None:
    policy = RetryPolicy(frozenset({Code.UNAVAILABLE}), per_try_timeout_ms=1_000)
    rpc = Rpc(gateway(policy, timeout_ms=5_000))
    rpc.starts()
    rpc.now_s = 6.0
    assert "timeout_ms 5000" in ended_with(rpc.sweep()).details


def test_a_request_that_goes_on_while_a_retry_waits_does_not_hurry_it() -> None:
    rpc = Rpc(gateway())
    rpc.starts()
    rpc.client_sends(b"hi")
    rpc.timer_expires()
    refused(rpc)
    assert rpc.client_half_closes() == []
    assert rpc.timer_expires() == [Open(2, b"hi", half_close=True)]


def test_pods_that_are_gone_when_the_retry_is_due_end_the_rpc() -> None:
    rpc = waiting(gateway())
    rpc.gateway.set_endpoints("greet", endpoints(), 0.5)
    assert reason_of(rpc.timer_expires()) == "no-endpoints"
    assert_all_given_back(rpc.gateway)


def test_a_pod_whose_connection_closed_when_the_retry_is_due_is_passed_over() -> None:
    rpc = waiting(gateway(pods=3))
    rpc.closed_pods = {2}
    assert rpc.timer_expires()[-1] == Open(3, b"hi", half_close=True)
    assert rpc.is_answered_unary()[-1] == Finish(OK, POD_HEADERS, b"yo")
    assert_all_given_back(rpc.gateway)


def test_an_rpc_keeps_its_policy_when_the_mapping_changes_while_its_retry_waits() -> None:
    rpc = waiting(gateway())
    rpc.gateway.apply(snapshot(route(destination()), version="2"), 0.5)
    assert rpc.timer_expires() == [Open(2, b"hi", half_close=True)]
    rpc.is_answered_unary()
    assert_all_given_back(rpc.gateway)


# --- how long, how often


def test_the_pods_wish_decides_how_long_a_retry_waits() -> None:
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    refused(rpc, Status(Code.UNAVAILABLE, "", (("grpc-retry-pushback-ms", "3000"),)))
    assert rpc.call.delay_s == 3.0


def test_a_pod_that_wants_no_retry_gets_none() -> None:
    unwilling = Status(Code.UNAVAILABLE, "", (("grpc-retry-pushback-ms", "-1"),))
    rpc = Rpc(gateway())
    rpc.is_sent_unary()
    assert refused(rpc, unwilling)[-1] == Finish(unwilling, (), None)
    assert_all_given_back(rpc.gateway)


def test_a_retry_that_would_come_after_the_deadline_is_not_made() -> None:
    late = Status(Code.UNAVAILABLE, "", (("grpc-retry-pushback-ms", "9001"),))
    rpc = Rpc(gateway(), deadline_s=9.0)
    rpc.is_sent_unary()
    assert refused(rpc, late)[-1] == Finish(late, (), None)


def test_each_try_has_its_own_time_within_the_whole() -> None:
    policy = RetryPolicy(frozenset({Code.UNAVAILABLE}), num_retries=2, per_try_timeout_ms=2_000)
    rpc = Rpc(gateway(policy), deadline_s=5.0)
    deadlines_s = []
    (opened,) = rpc.is_sent_unary()[-1:]
    for now_s in (2.0, 4.0):
        assert isinstance(opened, Open)
        deadlines_s.append(opened.deadline_s)
        rpc.now_s = now_s
        assert rpc.try_fails(DEADLINE)[-1] == BACK_OFF, "it took too long, another may not"
        (opened,) = rpc.timer_expires()
    assert isinstance(opened, Open)
    assert deadlines_s == [2.0, pytest.approx(4.0, abs=0.3)]
    assert opened.deadline_s == 5.0
    rpc.now_s = 5.0
    asked = rpc.try_fails(DEADLINE)
    assert (reason_of(asked), len(rpc.attempts)) == ("client-deadline", 3)
    assert_all_given_back(rpc.gateway)


def test_a_try_that_took_too_long_says_so_when_no_retry_is_left() -> None:
    policy = RetryPolicy(frozenset({Code.UNAVAILABLE}), num_retries=0, per_try_timeout_ms=2_000)
    rpc = Rpc(gateway(policy))
    rpc.is_sent_unary()
    rpc.now_s = 2.0
    asked = rpc.try_fails(DEADLINE)
    assert reason_of(asked) == "timeout"
    assert "per_try_timeout 2000 ms passed" in ended_with(asked).details
    assert_all_given_back(rpc.gateway)


def test_a_deadline_exceeded_of_the_pods_own_is_no_try_that_took_too_long() -> None:
    own = Status(Code.DEADLINE_EXCEEDED, "my database is slow")
    policy = RetryPolicy(frozenset({Code.UNAVAILABLE}), per_try_timeout_ms=2_000)
    rpc = Rpc(gateway(policy))
    rpc.is_sent_unary()
    rpc.now_s = 0.5
    assert refused(rpc, own)[-1] == Finish(own, (), None)


def test_an_rpc_whose_deadline_passed_is_not_tried_again() -> None:
    policy = RetryPolicy(frozenset({Code.DEADLINE_EXCEEDED}), num_retries=5)
    rpc = Rpc(gateway(policy), deadline_s=5.0)
    rpc.is_sent_unary()
    rpc.now_s = 4.96
    assert reason_of(rpc.try_fails(DEADLINE)) == "client-deadline", "grpc core calls it passed a little early"
    assert_all_given_back(rpc.gateway)


def test_the_budget_bounds_retries_over_all_rpcs_and_gets_them_back() -> None:
    served = gateway()
    rpcs = [Rpc(served) for _ in range(MIN_CONCURRENT_RETRIES + 2)]
    for rpc in rpcs:
        rpc.is_sent_unary()
    retried = [refused(rpc)[-1] == BACK_OFF for rpc in rpcs]
    assert retried == [True] * MIN_CONCURRENT_RETRIES + [False] * 2
    assert lent(served) == (MIN_CONCURRENT_RETRIES, MIN_CONCURRENT_RETRIES)
    for rpc in rpcs[:MIN_CONCURRENT_RETRIES]:
        rpc.client_leaves()
    assert_all_given_back(served)


# --- circuit breakers


def limited(**limits: int) -> tuple[CircuitBreaker, ...]:
    return (CircuitBreaker(**limits),)


def test_an_rpc_above_max_requests_is_refused_at_once_until_another_ends() -> None:
    served = Gateway(circuit_breakers=limited(max_requests=1))
    first, second = Rpc(served), Rpc(served)
    first.is_sent_unary()
    asked = second.starts()
    assert (reason_of(asked), ended_with(asked).code) == ("circuit-breaker", Code.RESOURCE_EXHAUSTED)
    assert ended_with(asked).details == f"Mapping {LABEL}: circuit breaker max_requests 1 reached"
    assert second.attempts == []
    first.is_answered_unary()
    third = Rpc(served)
    assert third.is_sent_unary()[-1] == Open(1, b"hi", half_close=True)
    third.is_answered_unary()
    assert_all_given_back(served)


def test_an_rpc_that_is_refused_counts_for_neither_breaker_nor_budget() -> None:
    served = gateway(circuit_breakers=limited(max_requests=0))
    rpc = Rpc(served)
    assert reason_of(rpc.starts()) == "circuit-breaker"
    assert rpc.codes() == {Code.RESOURCE_EXHAUSTED: 1}
    assert_all_given_back(served)


def test_rpcs_that_wait_for_a_connection_are_bounded_until_it_stands() -> None:
    served = Gateway(circuit_breakers=limited(max_pending_requests=1))
    connection = served.pod(1).connection
    assert isinstance(connection, FakeConnection)
    connection.connectivity = PodState.CONNECTING
    served.refresh(0.1)
    first, second = Rpc(served), Rpc(served)
    first.is_sent_unary()
    assert ended_with(second.starts()).details.endswith("max_pending_requests 1 reached")
    assert first.pod_takes() == []
    assert breaker(served).in_use(Limit.PENDING_REQUESTS) == 0
    third = Rpc(served)
    assert READ in third.starts()
    third.client_leaves()
    first.pod_headers(*POD_HEADERS)
    first.pod_replies(b"yo")
    first.pod_ends()
    assert_all_given_back(served)


def test_connected_pods_make_no_rpc_wait() -> None:
    served = Gateway(circuit_breakers=limited(max_pending_requests=0))
    rpc = Rpc(served)
    rpc.is_sent_unary()
    rpc.is_answered_unary()
    assert rpc.codes() == {Code.OK: 1}


def test_retries_above_max_retries_are_not_made() -> None:
    served = gateway(circuit_breakers=limited(max_retries=1))
    first = waiting(served)
    second = Rpc(served)
    second.is_sent_unary()
    assert refused(second)[-1] == Finish(BUSY, (), None)
    assert breaker(served).in_use(Limit.RETRIES) == 1
    first.client_leaves()
    assert waiting(served).client_leaves() == []
    assert_all_given_back(served)


ENDINGS: dict[str, Callable[[Rpc], object]] = {
    "answered": lambda rpc: rpc.is_answered_unary(),
    "client leaves": lambda rpc: (rpc.client_leaves(), rpc.client_leaves()),
    "drain, then the pod's status": lambda rpc: (rpc.drain_ends(), rpc.drain_ends(), rpc.pod_ends(BUSY)),
    "defect twice": lambda rpc: (rpc.defect(), rpc.defect()),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_permit_and_a_budget_are_given_back_once(ending: str) -> None:
    served = gateway(circuit_breakers=limited(max_requests=5, max_retries=5))
    rpc = waiting(served)
    rpc.timer_expires()
    assert breaker(served).in_use(Limit.REQUESTS) == breaker(served).in_use(Limit.RETRIES) == 1
    ENDINGS[ending](rpc)
    assert lent(served) == (0, 0)
    if rpc.attempt.status_due:
        rpc.pod_ends(BUSY)
    assert_all_given_back(served)
