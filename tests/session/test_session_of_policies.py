"""A session whose Mapping has policies, event by event: what waits, what is held, what is cancelled and given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.objects import ObjectKey
from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.route import Destination, PolicySettings, WeightedCluster
from grpcgw.model.status import Reason, Status
from grpcgw.policy.catalogue import Catalogue, PolicyKind, Stage
from grpcgw.policy.contract import CoroutineWork, FailMode, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import RpcRecord
from tests.session.frames import frame
from tests.session.gateway import Gateway, endpoints
from tests.session.playbook import (
    CANCEL_POLICY,
    COALESCE,
    OK,
    POLICY_TIMER,
    READ,
    STREAM_REFUSED,
    Ask,
    Finish,
    Open,
    Rpc,
    Run,
    Send,
    SendPod,
    ended_with,
    reason_of,
)

DENY = Deny("busy", "later", Code.RESOURCE_EXHAUSTED, b"details")
ADD_USER = Allow(add=(("x-user", "ann"),), facts=(("user", "ann"),))


async def _never() -> Allow:
    raise AssertionError("a session runs no coroutine itself")


class Scripted(PolicySettings):
    """Settings whose policy is the test's."""

    kind: ClassVar[str] = "scripted"


def gateway(*verdicts: Verdict | Policy, pods: int = 1, auth_pods: int = 1, **mapping: object) -> Gateway:
    """A Mapping with a policy for each verdict; the upstream of each is the cluster `auth`."""
    policies = [one if isinstance(one, Policy) else Policy(one) for one in verdicts]
    kinds = (PolicyKind("scripted", Stage.OWN, lambda _, settings, services: policies[int(settings.name)]),)
    breakers = mapping.pop("auth_breakers", ())
    upstream = Destination(
        ObjectKey("AuthService", "default", "auth"),
        (WeightedCluster("auth"),),
        circuit_breakers=breakers,  # type: ignore[arg-type]
    )
    settings = tuple(Scripted(name=str(number), upstreams=(upstream,)) for number in range(len(policies)))
    made = Gateway(pods, catalogue=Catalogue(kinds), policies=settings, **mapping)
    made.set_endpoints("auth", endpoints(*range(101, 101 + auth_pods)), 0.0)
    made.refresh(0.0)
    return made


class Policy:
    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict
        self.ended: list[Status] = []

    def check(self, request: PolicyRequest) -> Verdict:
        return self._verdict

    def on_end(self, request: PolicyRequest, status: Status) -> None:
        self.ended.append(status)


def coroutine(fail_mode: FailMode = FailMode.CLOSED) -> Wait:
    return Wait(CoroutineWork(_never), 2.0, fail_mode)


def ask(fail_mode: FailMode = FailMode.CLOSED) -> Wait:
    return Wait(UnaryRpc("/auth.Auth/Check", b"may they?", lambda answer: _judge(answer.message)), 2.0, fail_mode)


def _judge(message: bytes) -> Allow | Deny:
    if message == b"bug":
        raise RuntimeError("bug")
    return ADD_USER if message == b"yes" else DENY


def auth_in_flight(gateway: Gateway) -> int:
    return sum(pod.report("", True).in_flight for pod in gateway.pods() if pod.cluster == "auth")


# --- at once


def test_policies_that_decide_at_once_cost_no_event() -> None:
    rpc = Rpc(gateway(ALLOW, ADD_USER))
    assert rpc.starts() == [READ, COALESCE]
    assert rpc.client_sends(b"hi") == [READ]
    (opened,) = rpc.client_half_closes()
    assert isinstance(opened, Open)
    assert ("x-user", "ann") in opened.metadata


LIMIT = (("x-ratelimit-limit", "10"),)


def test_what_policies_add_to_the_answer_goes_out_with_the_pods_headers() -> None:
    rpc = Rpc(gateway(Allow(add_response=LIMIT)))
    rpc.starts()
    rpc.client_sends(b"hi")
    rpc.client_half_closes()
    sent = [
        *rpc.pod_headers(("server", "pod")),
        *rpc.pod_replies(b"hello"),
        *rpc.pod_ends(),
    ]
    (headers,) = [one.headers for one in sent if isinstance(one, Finish | Send) and one.headers is not None]
    assert headers == (("server", "pod"), *LIMIT)


def test_or_with_the_trailers_of_an_answer_without_headers() -> None:
    rpc = Rpc(gateway(Allow(add_response=LIMIT), DENY))
    (finish,) = rpc.starts()
    assert isinstance(finish, Finish)
    assert finish.status.trailers == (*DENY.status().trailers, *LIMIT)


def test_a_denial_is_trailers_only_and_reads_nothing() -> None:
    rpc = Rpc(gateway(DENY))
    assert rpc.starts() == [Finish(DENY.status())]
    assert rpc.codes() == {Code.RESOURCE_EXHAUSTED: 1}


# --- later


@pytest.mark.parametrize(("wait", "begins"), [(coroutine(), Run()), (ask(), Ask(101, b"may they?"))])
def test_while_a_policy_waits_only_the_first_message_is_read(wait: Wait, begins: object) -> None:
    rpc = Rpc(gateway(wait))
    assert rpc.starts() == [begins, POLICY_TIMER, READ]
    assert rpc.client_sends(b"hi") == []


def _allow(rpc: Rpc, wait: Wait) -> list[object]:
    return [*(rpc.coroutine_ends(ADD_USER) if isinstance(wait.work, CoroutineWork) else rpc.server_answers(b"yes"))]


BOTH = pytest.mark.parametrize("wait", [coroutine(), ask()], ids=["coroutine", "rpc"])


@BOTH
def test_after_the_verdict_a_unary_request_goes_out_whole(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    rpc.client_sends(b"hi")
    assert _allow(rpc, wait) == [READ, COALESCE]
    assert rpc.client_half_closes() == [Open(1, b"hi", half_close=True)]


@BOTH
def test_of_frames_one_chunk_is_held_and_the_rest_read_after_the_verdict(wait: Wait) -> None:
    rpc, whole = Rpc(gateway(wait), frames=True), frame(b"abcdef")
    rpc.starts()
    assert rpc.client_sends(whole[:3]) == []
    assert _allow(rpc, wait) == [READ, COALESCE]
    assert rpc.client_sends(whole[3:]) == [READ]
    assert rpc.client_half_closes() == [Open(1, whole, half_close=True)]


@BOTH
def test_the_verdict_may_come_before_the_first_message(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    assert _allow(rpc, wait) == [COALESCE]
    assert rpc.client_sends(b"hi") == [READ]
    assert rpc.client_half_closes() == [Open(1, b"hi", half_close=True)]


@BOTH
def test_an_empty_request_that_ended_meanwhile_goes_out_at_once(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    assert rpc.client_half_closes() == []
    assert _allow(rpc, wait) == [Open(1, None, half_close=True)]


@BOTH
def test_a_stream_goes_on_after_the_verdict(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    rpc.client_sends(b"a")
    _allow(rpc, wait)
    assert rpc.client_sends(b"b") == [Open(1, b"a")]
    assert rpc.pod_takes() == [SendPod(b"b")]


@pytest.mark.parametrize("status_first", [True, False])
def test_an_answer_counts_in_whatever_order_it_comes(status_first: bool) -> None:
    rpc = Rpc(gateway(ask()))
    rpc.starts()
    assert rpc.server_answers(b"yes", status_first=status_first) == [COALESCE]
    assert not auth_in_flight(rpc.gateway)


def test_a_late_denial_ends_the_rpc() -> None:
    rpc = Rpc(gateway(ask()))
    rpc.starts()
    rpc.client_sends(b"hi")
    assert rpc.server_answers(b"no") == [Finish(DENY.status())]


@pytest.mark.parametrize(
    "ends",
    [lambda rpc: rpc.server_answers(b"bug"), lambda rpc: rpc.server_answers(None)],
    ids=["the policy raises", "no message"],
)
def test_an_answer_that_is_none_keeps_people_out(ends: Callable[[Rpc], list[object]]) -> None:
    rpc = Rpc(gateway(ask()))
    rpc.starts()
    assert reason_of(ends(rpc)) in (Reason.POLICY_DEFECT, Reason.POLICY_UNAVAILABLE)  # type: ignore[arg-type]


def test_one_policy_may_wait_after_another() -> None:
    rpc = Rpc(gateway(coroutine(), ask()))
    assert rpc.starts() == [Run(), POLICY_TIMER, READ]
    assert rpc.coroutine_ends(ALLOW) == [Ask(101, b"may they?"), POLICY_TIMER]
    assert rpc.server_answers(b"yes") == [COALESCE]


# --- no verdict


@BOTH
def test_a_policy_that_gives_no_verdict_in_time_is_cancelled_and_fails_closed(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    asked = rpc.timer_expires()
    assert asked[0] == CANCEL_POLICY
    assert (reason_of(asked), ended_with(asked).code) == (Reason.POLICY_UNAVAILABLE, Code.UNAVAILABLE)


@pytest.mark.parametrize("wait", [coroutine(FailMode.OPEN), ask(FailMode.OPEN)])
def test_or_open(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    assert rpc.timer_expires() == [CANCEL_POLICY, COALESCE]


@BOTH
def test_a_verdict_that_comes_too_late_changes_nothing(wait: Wait) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    rpc.timer_expires()
    assert _allow(rpc, wait) == []
    assert not auth_in_flight(rpc.gateway)


@BOTH
def test_the_deadline_of_the_rpc_comes_first(wait: Wait) -> None:
    rpc = Rpc(gateway(wait), deadline_s=1.0)
    rpc.starts()
    assert rpc.call.delay_s == 1.0
    asked = rpc.timer_expires()
    assert reason_of(asked) == Reason.CLIENT_DEADLINE
    assert CANCEL_POLICY in asked


def test_quiet_while_a_policy_waits_is_not_the_clients() -> None:
    rpc = Rpc(gateway(coroutine(), idle_timeout_ms=1000))
    rpc.starts()
    rpc.now_s = 1.5
    assert rpc.sweep() == []


def test_without_a_pod_it_fails_at_once() -> None:
    asked = Rpc(gateway(ask(), auth_pods=0)).starts()
    assert reason_of(asked) == Reason.POLICY_UNAVAILABLE
    assert "no ready pod" in ended_with(asked).details


def test_a_refused_stream_is_asked_once_more_on_another_pod() -> None:
    rpc = Rpc(gateway(ask(), auth_pods=2))
    (first, *_) = rpc.starts()
    (second,) = rpc.server_answers(None, STREAM_REFUSED)
    assert isinstance(first, Ask)
    assert isinstance(second, Ask)
    assert {first.pod, second.pod} == {101, 102}
    assert reason_of(rpc.server_answers(None, STREAM_REFUSED)) == Reason.POLICY_UNAVAILABLE


CONNECTION_LOST = Status(Code.UNAVAILABLE, "lost", cause=Reason.CONNECTION_LOST)
STREAM_RESET = Status(Code.INTERNAL, "reset", cause=Reason.STREAM_RESET)
CANCELLED = Status(Code.CANCELLED, "the pod stops")


@pytest.mark.parametrize("gone", [CONNECTION_LOST, STREAM_RESET, CANCELLED])
def test_only_a_repeatable_rpc_is_sent_once_more_where_its_pod_went_away_with_it(gone: Status) -> None:
    wait = ask()
    assert isinstance(wait.work, UnaryRpc)
    rpc = Rpc(gateway(replace(wait, work=replace(wait.work, repeatable=True)), auth_pods=2))
    rpc.starts()
    (second,) = rpc.server_answers(None, gone)
    assert isinstance(second, Ask)
    assert reason_of(rpc.server_answers(None, gone)) == Reason.POLICY_UNAVAILABLE
    once = Rpc(gateway(wait, auth_pods=2))
    once.starts()
    assert reason_of(once.server_answers(None, gone)) == Reason.POLICY_UNAVAILABLE


def test_a_status_of_the_servers_own_is_not_asked_for_again() -> None:
    wait = ask()
    assert isinstance(wait.work, UnaryRpc)
    rpc = Rpc(gateway(replace(wait, work=replace(wait.work, repeatable=True)), auth_pods=2))
    rpc.starts()
    assert reason_of(rpc.server_answers(None, Status(Code.UNAVAILABLE, "busy"))) == Reason.POLICY_UNAVAILABLE


def test_a_breaker_of_the_server_bounds_what_is_asked() -> None:
    limited = gateway(ask(), auth_breakers=(CircuitBreaker(max_requests=1),))
    first = Rpc(limited)
    first.starts()
    assert reason_of(Rpc(limited).starts()) == Reason.POLICY_UNAVAILABLE
    first.server_answers(b"yes")
    assert Rpc(limited).starts() == [Ask(101, b"may they?"), POLICY_TIMER, READ], "what was lent is given back"


def test_a_defect_while_asking_gives_back_what_the_breaker_lent() -> None:
    limited = gateway(ask(), auth_breakers=(CircuitBreaker(max_requests=1),))
    broken = Rpc(limited)
    broken.defective_pods.add(101)
    with pytest.raises(RuntimeError, match="a defect"):
        broken.starts()
    broken.defect()
    assert auth_in_flight(limited) == 0
    assert Rpc(limited).starts() == [Ask(101, b"may they?"), POLICY_TIMER, READ]


# --- the RPC ends while a policy waits


ENDS = {
    "client leaves": Rpc.client_leaves,
    "drain": Rpc.drain_ends,
    "defect": Rpc.defect,
}


@BOTH
@pytest.mark.parametrize("how", ENDS)
def test_what_is_waited_for_is_cancelled_with_the_rpc(wait: Wait, how: str) -> None:
    rpc = Rpc(gateway(wait))
    rpc.starts()
    assert CANCEL_POLICY in ENDS[how](rpc)
    assert _allow(rpc, wait) == [], "a verdict on an RPC that is over"
    assert not auth_in_flight(rpc.gateway)
    assert all(report.in_flight == 0 for report in rpc.gateway.counters.reports())


# --- afterwards


def test_policies_that_allowed_hear_of_the_end_and_facts_are_logged() -> None:
    first, second = Policy(ADD_USER), Policy(ask())
    served = gateway(first, second)
    records: list[RpcRecord] = []
    rpc = Rpc(served)
    served.rpc_log = RpcLog(records.append, 100.0)
    rpc.session._logged = True  # the log is set after the first snapshot here
    rpc.starts()
    rpc.server_answers(b"no")
    assert [status.code for status in first.ended] == [Code.RESOURCE_EXHAUSTED]
    assert second.ended == []
    assert records[0].facts == {"user": "ann", "policy": "1"}


def test_the_end_is_the_pods_where_the_pod_ended_it() -> None:
    policy = Policy(ALLOW)
    rpc = Rpc(gateway(policy))
    rpc.is_sent_unary()
    rpc.is_answered_unary(status=OK)
    assert [status.code for status in policy.ended] == [Code.OK]
