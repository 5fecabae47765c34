"""The policy chain on both engines: verdicts at once, from a real gRPC server, and from a coroutine."""

from __future__ import annotations

import gc
import queue
import threading
from collections.abc import Callable
from dataclasses import replace

import grpc
import pytest

from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from dataplane.test_drain import Draining
from dataplane.trial_policies import (
    DETAILS,
    TRIAL_POLICIES,
    UPSTREAM,
    BrokenSettings,
    ByCoroutine,
    ByRpc,
    Decider,
    KeySettings,
    LateSettings,
    guarded,
)
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.codes import Code
from grpcgw.model.route import PolicySettings
from grpcgw.policy.chain import FAILED_OPEN
from grpcgw.policy.contract import FailMode
from grpcgw.session.serving import RpcLog
from grpcgw.session.session import Session
from grpcgw.telemetry.access_log import RpcRecord

KEY = (("x-key", "yes"), ("x-tenant", "a"))
LATE = pytest.mark.parametrize("make", [ByRpc, ByCoroutine])
MakeDecider = Callable[[Lab], Decider]


def gateway_with(
    lab: Lab,
    *policies: PolicySettings,
    pod: Pod | None = None,
    auth: tuple[Pod, ...] = (),
    timeout_ms: int | None = None,
) -> Gateway:
    pods = (lab.pod(),) if pod is None else (pod,)
    clusters = {"pods": pods} if not any(one.upstreams for one in policies) else {"pods": pods, "auth": auth}
    gateway = lab.gateway(
        routes=[guarded(*policies, timeout_ms=timeout_ms)], clusters=clusters, catalogue=TRIAL_POLICIES
    )
    gateway.wait_for_ready_pods(len(pods) + len(auth))
    return gateway


def late(lab: Lab, make: MakeDecider, pod: Pod | None = None, **settings: object) -> tuple[Gateway, Decider]:
    decider = make(lab)
    return gateway_with(lab, decider.settings(**settings), pod=pod, auth=decider.pods), decider  # type: ignore[arg-type]


def begin(lab: Lab, gateway: Gateway, *metadata: tuple[str, str], timeout_s: float | None = PATIENCE_S) -> grpc.Future:
    return lab.channel(gateway).unary_unary("/test.Pod/Unary").future(b"hi", metadata=metadata, timeout=timeout_s)


def reason_of(call: grpc.Call) -> object:
    return dict(call.trailing_metadata()).get("x-grpcgw-reason")


def assert_denied(call: grpc.Future) -> None:
    assert (call.code(), call.details()) == (grpc.StatusCode.UNAUTHENTICATED, "a key is needed")
    trailers = dict(call.trailing_metadata())
    assert trailers["x-grpcgw-reason"] == "no-key"
    assert trailers["www-authenticate"] == "Key"
    assert trailers["grpc-status-details-bin"] == DETAILS


# --- at once


def test_a_policy_allows_and_edits_what_the_pod_gets(lab: Lab) -> None:
    pod, settings = lab.pod(), KeySettings(name="Trial key")
    gateway = gateway_with(lab, settings, pod=pod)
    assert begin(lab, gateway, *KEY).result() == b"pod:hi"
    (seen,) = pod.calls
    assert seen.values("x-user") == ["ann"]
    assert seen.values("x-key") == []
    assert seen.values("x-tenant") == ["a"]
    eventually(lambda: [status.code for status in settings.ended] == [Code.OK], "the policy hears of the end")


def test_a_policy_denies_with_its_whole_status(lab: Lab) -> None:
    pod, settings = lab.pod(), KeySettings(name="Trial key")
    gateway = gateway_with(lab, settings, pod=pod)
    assert_denied(begin(lab, gateway))
    answer = lab.raw_client(gateway).call("Unary")
    assert (answer.status, answer.trailers_only) == (Code.UNAUTHENTICATED, True)
    assert not pod.calls
    assert not settings.ended, "it did not allow them"


@pytest.mark.parametrize("defect", ["bug", "exit"])
def test_a_policy_that_raises_ends_the_rpc_with_internal_and_no_other(lab: Lab, defect: str) -> None:
    pod = lab.pod()
    gateway = gateway_with(lab, KeySettings(name="Trial key"), pod=pod)
    call = begin(lab, gateway, ("x-key", defect))
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.INTERNAL, "policy-defect")
    assert not pod.calls
    assert begin(lab, gateway, *KEY).result() == b"pod:hi"


def test_a_policy_that_cannot_be_built_refuses_its_mapping(lab: Lab) -> None:
    pod = lab.pod()
    call = begin(
        lab, gateway_with(lab, KeySettings(name="Trial key"), BrokenSettings(name="Trial broken"), pod=pod), *KEY
    )
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-not-built")
    assert "Trial broken" in call.details()
    assert not pod.calls


def test_facts_reach_the_access_log(lab: Lab) -> None:
    gateway = gateway_with(lab, KeySettings(name="Trial key"))
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    gateway.route(guarded(KeySettings(name="Trial key")))
    begin(lab, gateway, *KEY).result()
    begin(lab, gateway).code()
    eventually(lambda: len(records) == 2)
    assert [(one.facts, one.reason) for one in records] == [({"user": "ann"}, ""), ({"policy": "Trial key"}, "no-key")]


# --- later


@LATE
def test_a_late_verdict_allows_and_nothing_reaches_a_pod_before(lab: Lab, make: MakeDecider) -> None:
    pod = lab.pod()
    gateway, decider = late(lab, make, pod)
    call = begin(lab, gateway, *KEY)
    assert decider.reached.wait(PATIENCE_S)
    assert gateway.in_flight() == 1
    assert not pod.calls
    decider.say(b"yes")
    assert call.result() == b"pod:hi"
    (seen,) = pod.calls
    assert (seen.values("x-user"), seen.values("x-key")) == (["ann"], [])


@LATE
def test_a_late_verdict_denies_with_its_whole_status(lab: Lab, make: MakeDecider) -> None:
    pod = lab.pod()
    gateway, decider = late(lab, make, pod)
    decider.say(b"no")
    assert_denied(begin(lab, gateway))
    assert not pod.calls


@LATE
@pytest.mark.parametrize("defect", [b"bug", b"exit"])
def test_a_defect_in_a_late_verdict_ends_the_rpc_with_internal(lab: Lab, make: MakeDecider, defect: bytes) -> None:
    gateway, decider = late(lab, make)
    decider.say(defect)
    call = begin(lab, gateway)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.INTERNAL, "policy-defect")


@LATE
def test_policies_that_wait_follow_those_that_decide_at_once(lab: Lab, make: MakeDecider) -> None:
    decider = make(lab)
    gateway = gateway_with(lab, decider.settings(), KeySettings(name="Trial key"), auth=decider.pods)
    assert_denied(begin(lab, gateway))
    assert not decider.reached.is_set(), "identity comes first, in whatever order they are set"


def test_a_policys_own_rpc_says_what_it_asks_for(lab: Lab) -> None:
    gateway, decider = late(lab, ByRpc)
    decider.say(b"yes")
    begin(lab, gateway).result()
    (asked,) = decider.pods[0].calls
    assert asked.values("x-asked-for") == ["/test.Pod/Unary"]
    assert asked.time_left_s is not None
    assert 0 < asked.time_left_s <= 30


# --- no verdict


@LATE
@pytest.mark.parametrize("mode", FailMode)
def test_without_a_verdict_in_time_the_fail_mode_decides(lab: Lab, make: MakeDecider, mode: FailMode) -> None:
    pod = lab.pod()
    gateway, decider = late(lab, make, pod, timeout_s=0.2, fail_mode=mode)
    call = begin(lab, gateway)
    if mode is FailMode.OPEN:
        assert call.result() == b"pod:hi"
    else:
        assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
        assert "no answer within 200 ms" in call.details()
        assert not pod.calls
    assert decider.cancelled.wait(PATIENCE_S), "what was asked is taken back"


@pytest.mark.parametrize("mode", FailMode)
def test_while_the_server_is_away_the_fail_mode_decides(lab: Lab, mode: FailMode) -> None:
    away, pod = lab.pod("auth"), lab.pod()
    settings = LateSettings(name="Trial rpc", fail_mode=mode, upstreams=(UPSTREAM,))
    gateway = gateway_with(lab, settings, pod=pod, auth=(away,))
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    gateway.route(guarded(settings))
    away.stop()
    call = begin(lab, gateway)
    if mode is FailMode.OPEN:
        assert call.result() == b"pod:hi"
        eventually(lambda: records)
        assert records[0].facts == {FAILED_OPEN: "Trial rpc"}
    else:
        assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
        assert not pod.calls


def test_without_a_pod_of_the_server_the_fail_mode_decides(lab: Lab) -> None:
    call = begin(lab, gateway_with(lab, LateSettings(name="Trial rpc", upstreams=(UPSTREAM,))))
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")


def test_a_status_of_the_server_is_no_verdict(lab: Lab) -> None:
    call = begin(lab, gateway_with(lab, LateSettings(name="Trial rpc", upstreams=(UPSTREAM,)), auth=(lab.pod("auth"),)))
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    assert "UNIMPLEMENTED" in call.details()


def test_an_answer_above_the_servers_limit_is_no_verdict(lab: Lab) -> None:
    auth = lab.pod("auth", {"Check": lambda requests, context: iter([b"yes" * 100])})
    limited = replace(UPSTREAM, max_message_bytes=100)
    call = begin(lab, gateway_with(lab, LateSettings(name="Trial rpc", upstreams=(limited,)), auth=(auth,)))
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
    assert "300 bytes is larger than max_message_bytes 100" in call.details()


# --- the RPC ends while a policy waits


@LATE
def test_a_client_that_cancels_takes_the_question_back(lab: Lab, make: MakeDecider) -> None:
    pod = lab.pod()
    gateway, decider = late(lab, make, pod)
    call = begin(lab, gateway)
    assert decider.reached.wait(PATIENCE_S)
    call.cancel()
    assert decider.cancelled.wait(PATIENCE_S), "the server sees the cancellation"
    eventually(lambda: not gateway.in_flight())
    assert not pod.calls


@LATE
def test_the_deadline_holds_while_a_policy_waits(lab: Lab, make: MakeDecider) -> None:
    pod = lab.pod()
    decider = make(lab)
    gateway = gateway_with(lab, decider.settings(), pod=pod, auth=decider.pods, timeout_ms=200)
    call = begin(lab, gateway)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.DEADLINE_EXCEEDED, "timeout")
    assert decider.cancelled.wait(PATIENCE_S)
    assert not pod.calls


@LATE
def test_the_end_of_the_drain_time_ends_rpcs_that_wait(lab: Lab, make: MakeDecider) -> None:
    gateway, decider = late(lab, make)
    call = begin(lab, gateway)
    assert decider.reached.wait(PATIENCE_S)
    draining = Draining(gateway, limit_s=0.3)
    assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "draining")
    assert decider.cancelled.wait(PATIENCE_S)
    draining.wait()


@LATE
def test_an_rpc_that_waits_is_served_while_the_gateway_drains(lab: Lab, make: MakeDecider) -> None:
    gateway, decider = late(lab, make)
    call = begin(lab, gateway)
    assert decider.reached.wait(PATIENCE_S)
    draining = Draining(gateway, limit_s=PATIENCE_S)
    eventually(lambda: gateway.serving.draining)
    decider.say(b"yes")
    assert call.result() == b"pod:hi"
    draining.wait()


@LATE
def test_an_engine_that_stops_leaves_no_question_open(lab: Lab, make: MakeDecider) -> None:
    gateway, decider = late(lab, make)
    call = begin(lab, gateway)
    assert decider.reached.wait(PATIENCE_S)
    gateway.stop()
    assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert decider.cancelled.wait(PATIENCE_S)


# --- what was read meanwhile


@LATE
def test_a_message_that_was_held_reaches_the_pod_intact(lab: Lab, make: MakeDecider) -> None:
    message = bytes(range(256)) * 400
    gateway, decider = late(lab, make)
    channel = lab.channel(gateway)
    call = channel.unary_unary("/test.Pod/Unary").future(message, timeout=PATIENCE_S)
    assert decider.reached.wait(PATIENCE_S)
    decider.say(b"yes")
    assert call.result() == b"pod:" + message
    assert channel.unary_unary("/test.Pod/Unary")(message, timeout=PATIENCE_S) == b"pod:" + message


@LATE
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_a_stream_that_was_held_reaches_the_pod_intact_and_in_order(lab: Lab, make: MakeDecider, count: int) -> None:
    messages = [str(number).encode() * 100 for number in range(count)]
    gateway, decider = late(lab, make)
    call = lab.channel(gateway).stream_unary("/test.Pod/Join").future(iter(messages), timeout=PATIENCE_S)
    assert decider.reached.wait(PATIENCE_S)
    decider.say(b"yes")
    assert call.result() == b",".join(messages)


@LATE
def test_a_stream_that_is_still_open_goes_on_after_the_verdict(lab: Lab, make: MakeDecider) -> None:
    gateway, decider = late(lab, make)
    messages: queue.Queue[bytes | None] = queue.Queue()
    messages.put(b"one")
    replies = lab.channel(gateway).stream_stream("/test.Pod/Chat")(iter(messages.get, None), timeout=PATIENCE_S)
    assert decider.reached.wait(PATIENCE_S)
    decider.say(b"yes")
    assert next(replies) == b"one"
    messages.put(b"two")
    assert next(replies) == b"two"
    messages.put(None)
    assert list(replies) == []
    assert replies.code() is grpc.StatusCode.OK


@LATE
def test_many_rpcs_wait_at_once_and_each_gets_its_answer(lab: Lab, make: MakeDecider) -> None:
    gateway, decider = late(lab, make)
    channel = lab.channel(gateway)
    ask = channel.unary_unary("/test.Pod/Unary")
    calls = [ask.future(str(number).encode(), timeout=PATIENCE_S) for number in range(30)]
    assert decider.reached.wait(PATIENCE_S)
    calls[7].cancel()
    decider.say(b"yes")
    for number, call in enumerate(calls):
        if number != 7:
            assert call.result() == f"pod:{number}".encode()


def test_a_coroutine_policy_leaves_no_thread_where_nobody_uses_it(lab: Lab) -> None:
    gateway = gateway_with(lab, KeySettings(name="Trial key"))
    begin(lab, gateway, *KEY).result()
    assert not [thread for thread in threading.enumerate() if thread.name == "grpcgw policies"]


@pytest.mark.parametrize("how", ["at once", "by RPC", "by coroutine"])
def test_an_rpc_with_policies_leaves_no_more_to_the_garbage_collector_than_one_without(lab: Lab, how: str) -> None:
    make = {"by RPC": ByRpc, "by coroutine": ByCoroutine}.get(how)
    decider = None if make is None else make(lab)
    if decider is not None:
        decider.say(b"yes")
    settings = KeySettings(name="Trial key") if decider is None else decider.settings()
    gateway = gateway_with(lab, settings, auth=() if decider is None else decider.pods)
    with_policies = sessions_left(lab, gateway)
    gateway.route(guarded())
    assert with_policies <= sessions_left(lab, gateway)


def sessions_left(lab: Lab, gateway: Gateway) -> int:
    """How many of 10 RPCs only the garbage collector would remove."""
    ask = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    ask(b"hi", metadata=KEY, timeout=PATIENCE_S)
    eventually(lambda: not gateway.in_flight())
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            ask(b"hi", metadata=KEY, timeout=PATIENCE_S)
        eventually(lambda: not gateway.in_flight())
        return max(2, sum(isinstance(one, Session) for one in gc.get_objects()))  # the last may be just ending
    finally:
        gc.enable()
