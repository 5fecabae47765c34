"""`retry_policy`: an RPC that failed is tried again as its Mapping says, and never more than its budget allows."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from dataplane.configured import configured
from dataplane.lab import Lab
from dataplane.pods import Pod
from dataplane.scripted_pod import ScriptedPod, Stream
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.engines.http2.headers import parse_timeout

UNAVAILABLE, ABORTED, DEADLINE_EXCEEDED = 14, 10, 4


def retrying(policy: str) -> str:
    return f"metadata: {{name: test}}\nspec: {{service: pods:50051, retry_policy: {{{policy}}}}}"


class Failing:
    """A script that fails the first RPCs it gets, then answers with what it was sent. Any number of pods share it."""

    def __init__(self, times: int, status: int = UNAVAILABLE, *trailers: tuple[str, str]) -> None:
        self.seen_s: list[float] = []
        self._times, self._status, self._trailers = times, status, trailers
        self._lock = threading.Lock()

    def __call__(self, stream: Stream) -> None:
        messages = stream.read_all()
        with self._lock:
            self.seen_s.append(time.monotonic())
            fails = len(self.seen_s) <= self._times
        if fails:
            stream.end_at_once(self._status, "not now", *self._trailers)
            return
        stream.send_headers(("x-attempts", stream.header("grpc-previous-rpc-attempts") or "0"))
        for message in messages:
            stream.send_message(message)
        stream.end()


def pods(lab: Lab, script: Failing, count: int = 2) -> list[ScriptedPod]:
    return [lab.scripted_pod(script) for _ in range(count)]


def test_rpc_that_fails_is_tried_again_with_all_it_said(lab: Lab) -> None:
    failing = Failing(2)
    gateway = configured(lab, retrying("retry_on: unavailable, num_retries: 2"), pods=pods(lab, failing))
    answer = lab.raw_client(gateway).call("Unary", messages=[b"hello"])
    assert (answer.status, answer.header("x-attempts")) == (0, "2")
    assert answer.data[5:] == b"hello"
    assert (len(failing.seen_s), gateway.serving.counters.retries) == (3, 2)
    eventually(lambda: gateway.codes("Unary") == {0: 1}, "to the client it is one RPC")


@pytest.mark.parametrize("condition", ["5xx", "gateway-error"])
def test_http_503_of_a_hop_before_the_pod_is_tried_again(lab: Lab, condition: str) -> None:
    def refuse(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(status="503")
        stream.send_data(b"no healthy upstream")
        stream.end_without_status()

    away, there = lab.scripted_pod(refuse), lab.pod("a")
    gateway = configured(lab, retrying(f"retry_on: {condition}, num_retries: 2"), pods=[away, there])
    gateway.wait_for_ready_pods(2)
    call = lab.raw_client(gateway).call
    if lab.on_grpc_core:  # now and then the answer's headers come so long before its status that they are passed on
        eventually(lambda: call("Unary").status == 0 and gateway.serving.counters.retries, "an RPC is tried again")
    else:
        assert [call("Unary").status for _ in range(4)] == [0] * 4
    assert away.streams


def test_when_no_retries_are_left_the_client_gets_the_pods_answer(lab: Lab) -> None:
    failing = Failing(99, ABORTED, ("x-mine", "1"))
    gateway = configured(lab, retrying("retry_on: [retriable-4xx], num_retries: 1"), pods=pods(lab, failing))
    answer = lab.raw_client(gateway).call("Unary")
    assert (answer.status, answer.header("grpc-message"), answer.header("x-mine")) == (ABORTED, "not now", "1")
    assert answer.header("x-grpcgw-reason") is None
    assert len(failing.seen_s) == 2


@pytest.mark.parametrize("policy", ["retry_on: cancelled", "retry_on: unavailable, num_retries: 0"])
def test_what_the_policy_does_not_name_is_not_tried_again(lab: Lab, policy: str) -> None:
    failing = Failing(99)
    gateway = configured(lab, retrying(policy), pods=pods(lab, failing))
    assert lab.raw_client(gateway).call("Unary").status == UNAVAILABLE
    assert len(failing.seen_s) == 1


def test_answer_that_began_is_never_tried_again(lab: Lab) -> None:
    def break_off(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers()
        stream.send_message(b"part")
        stream.end(UNAVAILABLE, "lost")

    two = [lab.scripted_pod(break_off) for _ in range(2)]
    gateway = configured(lab, retrying("retry_on: unavailable"), pods=two)
    answers = lab.channel(gateway).unary_stream("/test.Pod/Split")(b"")
    assert next(answers) == b"part"
    with pytest.raises(grpc.RpcError):
        next(answers)
    assert sum(len(pod.streams) for pod in two) == 1


def test_pushback_of_a_pod_is_waited_for(lab: Lab) -> None:
    failing = Failing(1, UNAVAILABLE, ("grpc-retry-pushback-ms", "400"))
    gateway = configured(lab, retrying("retry_on: unavailable"), pods=pods(lab, failing))
    assert lab.raw_client(gateway).call("Unary").status == 0
    first_s, second_s = failing.seen_s
    assert second_s - first_s >= 0.39, "the back-off alone is 25 ms at the most"


def test_pod_that_asks_for_no_retry_gets_none(lab: Lab) -> None:
    failing = Failing(99, UNAVAILABLE, ("grpc-retry-pushback-ms", "-1"))
    gateway = configured(lab, retrying("retry_on: unavailable, num_retries: 5"), pods=pods(lab, failing))
    assert lab.raw_client(gateway).call("Unary").status == UNAVAILABLE
    assert len(failing.seen_s) == 1


def test_try_that_takes_too_long_is_cut_off_and_tried_on_another_pod(lab: Lab) -> None:
    silent, quick = lab.scripted_pod(), lab.pod("quick")
    policy = "retry_on: unavailable, per_try_timeout: 200ms"
    gateway = configured(lab, retrying(policy), pods=[silent, quick])
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert [call(b"x", PATIENCE_S) for _ in range(2)] == [b"quick:x"] * 2
    assert silent.streams
    for stream in silent.streams:
        assert stream.wait_gone() == 8, "CANCEL"
        assert 0 < parse_timeout((stream.header("grpc-timeout") or "").encode()) <= 0.2, "the pod learns of its limit"


def test_when_the_last_try_takes_too_long_the_client_is_told_so(lab: Lab) -> None:
    silent = [lab.scripted_pod(), lab.scripted_pod()]
    policy = "retry_on: unavailable, num_retries: 1, per_try_timeout: 100ms"
    gateway = configured(lab, retrying(policy), pods=silent)
    with lab.raw_client(gateway) as client:
        answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (DEADLINE_EXCEEDED, "timeout")
    assert "per_try_timeout 100 ms" in str(answer.header("grpc-message"))
    assert sum(len(pod.streams) for pod in silent) == 2


def test_retries_against_a_dead_service_do_not_multiply_its_load(lab: Lab) -> None:
    """Forty RPCs at a time, each of which would be tried four times; the budget lets a fifth of them at a time."""
    clients, rpcs = 40, 400
    failing, together = Failing(10**9), threading.Barrier(clients, timeout=PATIENCE_S)
    policy = "retry_on: unavailable, num_retries: 3, budget_percent: 20"
    gateway = configured(lab, retrying(policy), pods=pods(lab, failing))
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")

    def load() -> None:
        together.wait()
        for _ in range(rpcs // clients):
            with pytest.raises(grpc.RpcError):
                call(b"x")

    with ThreadPoolExecutor(clients) as pool:
        for client in [pool.submit(load) for _ in range(clients)]:
            client.result()
    tries = len(failing.seen_s)
    eventually(lambda: gateway.codes("Unary") == {UNAVAILABLE: rpcs})
    assert tries == rpcs + gateway.serving.counters.retries
    assert tries > rpcs, "some are tried again"
    assert tries < 2 * rpcs, "without a budget it would be four times the load"


def test_pod_that_comes_back_is_found_by_a_retry(lab: Lab) -> None:
    pod = lab.pod("a")
    gateway = configured(lab, retrying("retry_on: connect-failure, num_retries: 50"), pods=pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert call(b"1") == b"a:1"
    pod.stop()
    with ThreadPoolExecutor(1) as client:
        waiting = client.submit(call, b"2", PATIENCE_S)
        eventually(lambda: gateway.serving.counters.retries > 0)
        again = Pod("again", port=pod.port)
        lab.defer(again.stop)
        assert waiting.result() == b"again:2"
