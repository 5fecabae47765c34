"""A call that provably never reached its pod is tried once on another; nothing else ever is."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator

import pytest

from dataplane.lab import Gateway, Lab
from dataplane.scripted_pod import ScriptedPod, Stream
from dataplane.waiting import PATIENCE_S, eventually

REFUSED_STREAM, INTERNAL_ERROR = 7, 2
CANCELLED, INTERNAL, UNAVAILABLE = 1, 13, 14


def refuse(stream: Stream) -> None:
    stream.read_message()
    stream.reset(REFUSED_STREAM)


def echo(stream: Stream) -> None:
    messages = stream.read_all()
    stream.send_headers()
    for message in messages:
        stream.send_message(message)
    stream.end()


class Recorder:
    """A pod's script that keeps what it was sent."""

    def __init__(self) -> None:
        self.received: list[list[bytes]] = []

    def __call__(self, stream: Stream) -> None:
        messages = stream.read_all()
        self.received.append(messages)
        stream.send_headers(("x-count", str(len(messages))))
        stream.end()


def retries(gateway: Gateway) -> int:
    return gateway.serving.counters.retries


def request_ids(pod: ScriptedPod) -> set[str | None]:
    return {stream.header("x-request-id") for stream in pod.streams}


def asked(*pods: ScriptedPod) -> int:
    return sum(len(pod.streams) for pod in pods)


@pytest.mark.parametrize("messages", [(), (b"",), (b"hello",), (bytes(30_000),)])
def test_refused_stream_goes_to_another_pod_with_all_its_messages_once(lab: Lab, messages: tuple[bytes, ...]) -> None:
    recorder = Recorder()
    refusing, willing = lab.scripted_pod(refuse), lab.scripted_pod(recorder)
    gateway = lab.gateway(refusing, willing)
    client = lab.raw_client(gateway)
    for _ in range(4):
        answer = client.call("Unary", ("x-mine", "1"), messages=messages)
        assert (answer.status, answer.header("x-count")) == (0, str(len(messages))), answer
    assert recorder.received == [list(messages)] * 4
    assert 1 <= len(refusing.streams) == retries(gateway)
    assert request_ids(refusing) <= request_ids(willing), "to both pods it is the same RPC"


WORDS_OF_CORE = {
    "refused stream": (UNAVAILABLE, "Stream removed (RST_STREAM (Received RST_STREAM with error code 7))"),
    "goaway": (UNAVAILABLE, "Stream removed (GOAWAY received; Error code: 0; Debug Text: )"),
    "no connection": (UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: refused"),
    "closed": (UNAVAILABLE, "Stream removed (Transport closed)"),
    "never handled": (CANCELLED, "CANCELLED"),
    "unsendable": (INTERNAL, "Invalid metadata"),
}
"""What core says on this side, and what a pod may pass on of a connection of its own, or write for the fun of it."""


def say(stream: Stream) -> None:
    """Answer with the words, and in the way, that the caller asks for."""
    name, way = stream.header("x-words") or "", stream.header("x-way")
    if way != "at once":
        stream.read_message()
    if way == "after headers":
        stream.send_headers()
        stream.end(*WORDS_OF_CORE[name])
    else:
        stream.end_at_once(*WORDS_OF_CORE[name])


def test_whatever_a_pod_says_is_its_answer_and_no_proof_that_it_did_not_see_the_call(lab: Lab) -> None:
    pods = [lab.scripted_pod(say) for _ in range(2)]
    gateway = lab.gateway(*pods)
    gateway.wait_for_ready_pods(2)
    client = lab.raw_client(gateway)
    calls = 0
    for name, said in WORDS_OF_CORE.items():
        for way in ("at once", "trailers only", "after headers"):
            for size in (10, 30_000):
                answer = client.call("Unary", ("x-words", name), ("x-way", way), messages=(bytes(size),))
                assert (answer.status, answer.message, answer.header("x-grpcgw-reason")) == (*said, None), (name, way)
                calls += 1
    assert (asked(*pods), retries(gateway)) == (calls, 0)


def test_refused_connection_goes_to_another_pod(lab: Lab) -> None:
    gone, pod = lab.scripted_pod(), lab.pod("a")
    gone.stop()
    gateway = lab.gateway(gone, pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert [call(b"%d" % number) for number in range(20)] == [b"a:%d" % number for number in range(20)]


def test_stream_still_open_is_retried_as_well(lab: Lab) -> None:
    """The first message is sent to the second pod, and the conversation goes on there."""
    refusing, pod = lab.scripted_pod(refuse), lab.pod("a")
    channel = lab.channel(lab.gateway(refusing, pod))
    for _ in range(4):
        turn = threading.Semaphore(1)
        lab.defer(functools.partial(turn.release, 3))

        def talk(turn: threading.Semaphore = turn) -> Iterator[bytes]:
            for word in (b"one", b"two", b"three"):
                assert turn.acquire(timeout=PATIENCE_S)
                yield word

        replies = []
        for reply in channel.stream_stream("/test.Pod/Chat")(talk()):
            replies.append(reply)
            turn.release()
        assert replies == [b"one", b"two", b"three"]
    assert refusing.streams


def test_second_refusal_is_the_answer(lab: Lab) -> None:
    pods = [lab.scripted_pod(refuse) for _ in range(3)]
    gateway = lab.gateway(*pods)
    answer = lab.raw_client(gateway).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "stream-refused")
    assert answer.trailers_only
    assert asked(*pods) == 2
    assert retries(gateway) == 1


def test_refusal_of_the_only_pod_is_the_answer(lab: Lab) -> None:
    pod = lab.scripted_pod(refuse)
    answer = lab.raw_client(lab.gateway(pod)).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "stream-refused")
    assert asked(pod) == 1


def test_all_pods_dead_is_one_unavailable(lab: Lab) -> None:
    pods = [lab.scripted_pod() for _ in range(3)]
    for pod in pods:
        pod.stop()
    gateway = lab.gateway(*pods)
    client = lab.raw_client(gateway)
    for _ in range(3):
        answer = client.call("Unary")
        assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "connect-failed")
        assert answer.trailers_only
    eventually(lambda: gateway.codes("Unary") == {UNAVAILABLE: 3})


def test_second_message_makes_a_call_unrepeatable(lab: Lab) -> None:
    """The gateway keeps one message; what came after it is gone."""

    def refuse_after_two(stream: Stream) -> None:
        stream.read_message()
        stream.read_message()
        stream.reset(REFUSED_STREAM)

    pods = [lab.scripted_pod(refuse_after_two) for _ in range(2)]
    client = lab.raw_client(lab.gateway(*pods))
    answer = client.finish(client.request("Join", messages=(b"one", b"two"), end=False))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "stream-refused")
    assert asked(*pods) == 1


def test_refusal_after_headers_is_not_repeated(lab: Lab) -> None:
    heard = threading.Event()
    lab.defer(heard.set)

    def answer_then_refuse(stream: Stream) -> None:
        stream.send_headers()
        stream.send_message(b"one")
        assert heard.wait(PATIENCE_S)
        stream.reset(REFUSED_STREAM)

    pods = [lab.scripted_pod(answer_then_refuse) for _ in range(2)]
    client = lab.raw_client(lab.gateway(*pods))
    stream = client.request("Unary")
    while not client.answers[stream].data:
        assert client.receive()
    heard.set()
    answer = client.finish(stream)
    assert answer.status == UNAVAILABLE
    assert answer.header("x-grpcgw-reason") == lab.reason_after_headers("stream-reset")
    assert asked(*pods) == 1


def test_stream_above_the_last_of_a_goaway_goes_to_another_pod(lab: Lab) -> None:
    """RFC 9113, 6.8: the pod says it never looked at it."""

    def leave(stream: Stream) -> None:
        stream.connection.goaway(last_stream=0)

    leaving, staying = lab.scripted_pod(leave), lab.scripted_pod(echo)
    client = lab.raw_client(lab.gateway(leaving, staying))
    for _ in range(4):
        answer = client.call("Unary", messages=(b"hello",))
        assert answer.status == 0
        assert answer.data.endswith(b"hello")
    assert leaving.streams


def test_pod_that_dies_between_pick_and_send_costs_nothing(lab: Lab) -> None:
    dying, pod = lab.pod("dying"), lab.pod("a")
    gateway = lab.gateway(dying, pod)
    gateway.wait_for_ready_pods(2)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert {call(b""), call(b"")} == {b"dying:", b"a:"}
    dying.stop()
    assert [call(b"%d" % number) for number in range(30)] == [b"a:%d" % number for number in range(30)]


def test_pod_that_comes_back_gets_its_turns_again(lab: Lab) -> None:
    first, pod = lab.pod("first"), lab.pod("a")
    gateway = lab.gateway(first, pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    first.stop()
    assert {call(b"") for _ in range(10)} == {b"a:"}
    lab.pod("again", port=first.port)
    eventually(lambda: call(b"") == b"again:")
    assert {call(b"") for _ in range(4)} == {b"again:", b"a:"}
