"""Policies that ask over HTTP, event by event: pods are picked, counted and given back as for an RPC."""

from __future__ import annotations

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.resilience import CircuitBreaker
from grpcgw.policy.contract import FailMode, HttpAnswer, HttpCall, Wait
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from tests.session.playbook import CANCEL_POLICY, COALESCE, Finish, Open, Rpc, Run, ended_with
from tests.session.test_session_of_policies import auth_in_flight, gateway


def http(fail_mode: FailMode = FailMode.CLOSED) -> Wait:
    return Wait(HttpCall("/check", (), b"", _judge), 2.0, fail_mode)


def _judge(answer: HttpAnswer) -> Allow | Deny:
    if answer.body == b"bug":
        raise RuntimeError("bug")
    return ALLOW if answer.status == 200 else Deny("no", "no", Code.PERMISSION_DENIED)


def answer(status: int = 200, body: bytes = b"") -> HttpAnswer:
    return HttpAnswer(status, (), body)


def test_the_answer_decides_and_nothing_stays_in_flight() -> None:
    made = gateway(http())
    rpc = Rpc(made)
    rpc.starts()
    assert auth_in_flight(made) == 1
    rpc.client_sends(b"hi")
    assert COALESCE in rpc.coroutine_ends(answer()) or rpc.call.reading
    assert auth_in_flight(made) == 0
    assert any(isinstance(one, Open) for one in rpc.client_half_closes())


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (answer(403), Code.PERMISSION_DENIED),
        (answer(body=b"bug"), Code.INTERNAL),
        (ConnectionError("gone"), Code.UNAVAILABLE),
        (RuntimeError("a defect"), Code.INTERNAL),
    ],
)
def test_a_refusal_a_defect_and_no_answer(result: object, code: Code) -> None:
    made = gateway(http())
    rpc = Rpc(made)
    rpc.starts()
    assert ended_with(rpc.coroutine_ends(result)).code == code
    assert auth_in_flight(made) == 0


def test_another_pod_is_asked_once_where_no_connection_came_about() -> None:
    made = gateway(http(), auth_pods=3)
    rpc = Rpc(made)
    rpc.starts()
    assert rpc.coroutine_ends(ConnectionRefusedError("no")) == [Run()]
    assert (len(rpc.works), auth_in_flight(made)) == (2, 1)
    (finish,) = rpc.coroutine_ends(ConnectionRefusedError("no"))
    assert isinstance(finish, Finish)
    assert (finish.status.code, auth_in_flight(made)) == (Code.UNAVAILABLE, 0)


@pytest.mark.parametrize("pods", [1, 3])
def test_a_connection_that_ends_before_its_answer_begins_is_replaced_once(pods: int) -> None:
    """Servers close connections that were idle, also in the moment in which they are used again."""
    made = gateway(http(), auth_pods=pods)
    rpc = Rpc(made)
    rpc.starts()
    assert rpc.coroutine_ends(ConnectionResetError("closed")) == [Run()]
    (finish,) = rpc.coroutine_ends(ConnectionResetError("closed"))
    assert isinstance(finish, Finish)
    assert (finish.status.code, auth_in_flight(made)) == (Code.UNAVAILABLE, 0)


def test_an_answer_that_breaks_off_is_not_asked_for_again() -> None:
    rpc = Rpc(gateway(http(), auth_pods=3))
    rpc.starts()
    (finish,) = rpc.coroutine_ends(ConnectionError("half an answer"))
    assert isinstance(finish, Finish)


def test_the_time_out_and_a_client_that_leaves_take_it_back() -> None:
    made = gateway(http())
    first, second = Rpc(made), Rpc(made)
    first.starts()
    assert CANCEL_POLICY in first.timer_expires()
    second.starts()
    assert CANCEL_POLICY in second.client_leaves()
    assert auth_in_flight(made) == 0


def test_the_breaker_of_the_service_holds() -> None:
    made = gateway(http(), auth_breakers=(CircuitBreaker(max_requests=1),))
    first, second = Rpc(made), Rpc(made)
    first.starts()
    assert ended_with(second.starts()).code == Code.UNAVAILABLE
    first.coroutine_ends(answer(403))
    third = Rpc(made)
    third.starts()
    assert third.works
