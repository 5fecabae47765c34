"""A slow reader slows the writer: what is under way stays small, everything arrives, and nobody else notices."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from dataplane.lab import Lab, mapping
from dataplane.pods import Context
from dataplane.scripted_pod import Stream, frame
from dataplane.waiting import eventually, settled

MESSAGE = bytes(64 * 1024)
MESSAGES = 1000
UNDER_WAY = 16 * 1024 * 1024
"""Far above what HTTP/2 windows and one message per direction hold, and a quarter of the whole stream."""


def numbered() -> Iterator[bytes]:
    return (b"%06d" % number + MESSAGE for number in range(MESSAGES))


def test_fast_pod_waits_for_a_slow_client(lab: Lab) -> None:
    sent = itertools.count()
    progress = [0]

    def pour(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        for message in numbered():
            progress[0] = next(sent) + 1
            yield message

    channel = lab.channel(lab.gateway(lab.pod(methods={"Pour": pour})))
    replies = channel.unary_stream("/test.Pod/Pour")(b"")
    assert next(replies)[:6] == b"000000"
    held = settled(lambda: progress[0])
    assert held * len(MESSAGE) < UNDER_WAY
    assert [int(reply[:6]) for reply in replies] == list(range(1, MESSAGES))


def test_fast_client_waits_for_a_slow_pod(lab: Lab) -> None:
    go_on = threading.Event()
    lab.defer(go_on.set)
    sent: list[int] = []

    def sip(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        first = next(requests)
        go_on.wait()
        yield b"%d" % sum(1 for number, request in enumerate([first, *requests]) if int(request[:6]) == number)

    def pour() -> Iterator[bytes]:
        for number, message in enumerate(numbered()):
            sent.append(number)
            yield message

    channel = lab.channel(lab.gateway(lab.pod(methods={"Sip": sip})))
    replies = channel.stream_stream("/test.Pod/Sip")(pour())
    held = settled(lambda: len(sent))
    assert 0 < held * len(MESSAGE) < UNDER_WAY
    go_on.set()
    assert list(replies) == [b"%d" % MESSAGES]


@pytest.mark.parametrize("messages", [1, 200])
def test_client_that_never_reads_is_bounded_and_ended_by_the_idle_timeout(lab: Lab, messages: int) -> None:
    sent: list[int] = []

    def pour(stream: Stream) -> None:
        stream.send_headers()
        for number in range(messages):
            stream.send_message(MESSAGE)
            sent.append(number)
        stream.wait_gone()

    pod, other = lab.scripted_pod(pour), lab.pod("other")
    gateway = lab.gateway(
        clusters={"pods": [pod], "others": [other]},
        routes=[mapping(idle_timeout_ms=900), mapping("/fine.Pod/", "fine", "others", rewrite="/test.Pod/")],
    )
    greedy = lab.raw_client(gateway, initial_window=0)
    greedy.request("Pour")
    eventually(lambda: pod.streams)
    call = lab.channel(gateway).unary_unary("/fine.Pod/Unary")
    for number in range(100):
        assert call(b"%d" % number) == b"other:%d" % number
    pod.streams[0].wait_gone()
    assert len(sent) * len(MESSAGE) < UNDER_WAY
    eventually(lambda: gateway.codes("Pour") == {4: 1})


@pytest.mark.parametrize("timeout", [None, "300m"])
def test_an_answer_that_a_client_does_not_read_is_ended_by_the_deadline(lab: Lab, timeout: str | None) -> None:
    """Though the pod has long ended the RPC: until its client has the answer it runs, and counts for limits."""

    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers()
        for _ in range(3):
            stream.send_message(MESSAGE)
        stream.end()

    pod = lab.scripted_pod(answer)
    gateway = lab.gateway(pod, routes=[mapping(timeout_ms=60_000 if timeout else 300)])
    client = lab.raw_client(gateway, initial_window=1000)
    client.request("Answer", *([("grpc-timeout", timeout)] if timeout else []))
    eventually(lambda: gateway.codes("Answer") == {4: 1})


def test_streams_of_one_connection_do_not_wait_for_each_other(lab: Lab) -> None:
    """One is full to its window; others on the same connections go on."""
    stop = threading.Event()
    lab.defer(stop.set)

    def pour(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        while not stop.is_set() and context.is_active():
            yield MESSAGE

    gateway = lab.gateway(lab.pod("a", methods={"Pour": pour}))
    client = lab.raw_client(gateway, initial_window=65_535)
    full = client.request("Pour")
    while len(client.answers[full].data) < 65_535:
        assert client.receive()
    for _ in range(20):
        answer = client.call("Unary", messages=(b"x",))
        assert answer.status == 0
        assert answer.data.endswith(b"a:x")
    assert not client.answers[full].over
    client.cancel(full)


def test_many_open_streams_are_served_by_few_threads(lab: Lab) -> None:
    """A thread per RPC would show here."""
    opened = 90  # a pod on `h2` takes 100 streams on a connection
    pod = lab.scripted_pod(lambda stream: stream.send_headers())
    client = lab.raw_client(lab.gateway(pod))
    for _ in range(opened):
        client.request("Chat", messages=(), end=False)
    while sum(1 for answer in client.answers.values() if answer.blocks) < opened:
        assert client.receive()
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("grpcgw")]
    assert len(names) < 10


CUT_OFF = 60
"""So many RPCs of 64 KiB, of which nobody reads the rest, are three times the window of a connection."""


@pytest.mark.parametrize("how", ["refused at once", "refused by the pod", "cancelled"])
def test_what_nobody_reads_of_a_client_costs_its_connection_no_window(lab: Lab, how: str) -> None:
    """RFC 9113, 6.9: bytes of a stream that is over count for the connection."""

    def refuse(stream: Stream) -> None:
        if how == "cancelled":
            stream.wait_gone()
        stream.end_at_once(9)

    gateway = lab.gateway(
        clusters={"pods": [lab.scripted_pod(refuse)], "others": [lab.pod("other")]},
        routes=[mapping(), mapping("/fine.Pod/", "fine", "others", rewrite="/test.Pod/")],
    )
    client = lab.raw_client(gateway)
    path = "/none.S/M" if how == "refused at once" else "/test.Pod/Chat"
    for _ in range(CUT_OFF):
        stream = client.request(path, messages=(), end=False)
        client.send_data(stream, frame(MESSAGE)[: len(MESSAGE) // 2])
        if how == "cancelled":
            client.cancel(stream)
        else:
            client.send_data(stream, bytes(len(MESSAGE) // 2))
            client.finish(stream)
    for _ in range(3):
        stream = client.request("/fine.Pod/Unary", messages=(), end=False)
        client.send_data(stream, frame(bytes(900_000)), end=True)
        assert client.finish(stream).status == 0


@pytest.mark.parametrize("seen", [True, False])
def test_what_nobody_reads_of_a_pod_costs_its_connection_no_window(lab: Lab, seen: bool) -> None:
    def pour(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers()
        if stream.header(":path") == "/test.Pod/Large":
            stream.send_message(bytes(1 << 20))
            stream.end()
            return
        for _ in range(100):
            stream.send_message(MESSAGE)

    pod = lab.scripted_pod(pour)
    gateway = lab.gateway(pod)
    client = lab.raw_client(gateway, initial_window=1 << 18 if seen else 0)
    for number in range(CUT_OFF):
        stream = client.request("Pour")
        while seen and not client.answers[stream].data:
            assert client.receive()
        eventually(lambda number=number: len(pod.streams) > number)
        client.cancel(stream)
    large = lab.raw_client(gateway, initial_window=1 << 22)
    for _ in range(2):
        assert large.finish(large.request("Large")).status == 0
