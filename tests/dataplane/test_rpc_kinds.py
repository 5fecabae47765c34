"""All four kinds of RPC cross the gateway unchanged, whatever the number and size of their messages."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import grpc
import pytest

from dataplane.lab import Lab
from dataplane.pods import Context, Gate
from dataplane.waiting import PATIENCE_S

COUNTS = [0, 1, 2, 100]


def test_unary_answer_arrives(lab: Lab) -> None:
    call = lab.channel(lab.gateway(lab.pod("a"))).unary_unary("/test.Pod/Unary")
    assert call(b"hello") == b"a:hello"
    assert call(b"") == b"a:"


@pytest.mark.parametrize("count", COUNTS)
def test_client_stream_arrives_whole_and_in_order(lab: Lab, count: int) -> None:
    call = lab.channel(lab.gateway(lab.pod())).stream_unary("/test.Pod/Join")
    messages = [b"%d" % number for number in range(count)]
    for _ in range(3):  # what the gateway learnt of the method in one RPC must not harm the next
        assert call(iter(messages)) == b",".join(messages)


@pytest.mark.parametrize("count", COUNTS)
def test_server_stream_arrives_whole_and_in_order(lab: Lab, count: int) -> None:
    call = lab.channel(lab.gateway(lab.pod())).unary_stream("/test.Pod/Split")
    messages = [b"%d" % number for number in range(count)]
    for _ in range(3):
        assert list(call(b",".join(messages))) == messages


@pytest.mark.parametrize("count", COUNTS)
def test_bidirectional_stream_arrives_whole_and_in_order(lab: Lab, count: int) -> None:
    call = lab.channel(lab.gateway(lab.pod())).stream_stream("/test.Pod/Chat")
    messages = [b"%d" % number for number in range(count)]
    for _ in range(3):
        assert list(call(iter(messages))) == messages


def test_empty_messages_are_messages(lab: Lab) -> None:
    call = lab.channel(lab.gateway(lab.pod())).stream_stream("/test.Pod/Chat")
    for messages in ([b""], [b"", b""], [b"", b"x", b""]):
        assert list(call(iter(messages))) == messages


def test_messages_of_ten_megabytes_cross_both_ways(lab: Lab) -> None:
    channel = lab.channel(lab.gateway(lab.pod("a")))
    message = bytes(range(256)) * (10 * 4096)
    assert channel.unary_unary("/test.Pod/Unary")(message) == b"a:" + message
    assert list(channel.stream_stream("/test.Pod/Chat")(iter([message, b"", message]))) == [message, b"", message]


def test_messages_cross_one_by_one_in_a_conversation(lab: Lab) -> None:
    """Each request is sent only when the reply to the one before is here."""
    channel = lab.channel(lab.gateway(lab.pod()))
    for _ in range(3):
        turn = threading.Semaphore(1)

        def talk(turn: threading.Semaphore = turn) -> Iterator[bytes]:
            for number in range(20):
                assert turn.acquire(timeout=PATIENCE_S)
                yield b"%d" % number

        replies = []
        for reply in channel.stream_stream("/test.Pod/Chat")(talk()):
            replies.append(reply)
            turn.release()
        assert replies == [b"%d" % number for number in range(20)]


def test_server_that_speaks_first_is_heard_before_the_client_says_anything(lab: Lab) -> None:
    heard: list[list[bytes]] = []

    def greet_then_listen(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"welcome"
        heard.append(list(requests))
        yield b"bye"

    channel = lab.channel(lab.gateway(lab.pod(methods={"Greet": greet_then_listen})))
    for _ in range(3):
        quiet = threading.Event()

        def requests(quiet: threading.Event = quiet) -> Iterator[bytes]:
            quiet.wait(PATIENCE_S)
            yield b"at last"

        replies = channel.stream_stream("/test.Pod/Greet")(requests())
        assert next(replies) == b"welcome"
        quiet.set()
        assert list(replies) == [b"bye"]
    assert heard == [[b"at last"]] * 3


def test_pod_headers_arrive_before_any_message(lab: Lab) -> None:
    gate = Gate()

    def announce_then_wait(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.send_initial_metadata((("x-stage", "started"),))
        gate.hold(context)
        yield b"done"

    channel = lab.channel(lab.gateway(lab.pod(methods={"Slow": announce_then_wait})))
    call = channel.unary_stream("/test.Pod/Slow")(b"")
    assert ("x-stage", "started") in call.initial_metadata()
    gate.open()
    assert list(call) == [b"done"]


def test_empty_headers_of_a_quiet_stream_arrive_before_any_message(lab: Lab) -> None:
    gate = Gate()

    def announce_then_wait(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.send_initial_metadata(())
        gate.hold(context)
        yield b"done"

    client = lab.raw_client(lab.gateway(lab.pod(methods={"Slow": announce_then_wait})))
    stream = client.request("Slow")
    while not client.answers[stream].blocks:
        assert client.receive()
    assert client.answers[stream].header(":status") == "200"
    assert not client.answers[stream].over
    gate.open()
    assert client.finish(stream).status == 0


def test_first_reply_long_after_the_headers_does_not_wait_for_what_follows(lab: Lab) -> None:
    started, replied = Gate(), Gate()

    def start_slowly(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.send_initial_metadata(())
        started.hold(context)
        yield b"first"
        replied.hold(context)
        yield b"last"

    channel = lab.channel(lab.gateway(lab.pod(methods={"Slow": start_slowly})))
    replies = channel.unary_stream("/test.Pod/Slow")(b"")
    replies.initial_metadata()
    started.open()
    assert next(replies) == b"first"
    replied.open()
    assert list(replies) == [b"last"]


def test_half_close_crosses_before_the_server_ends(lab: Lab) -> None:
    """The pod answers only when the client has said all it has to say, and the stream goes on after that."""

    def count_then_tell(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        total = sum(1 for _ in requests)
        yield b"%d" % total
        yield b"and more"

    channel = lab.channel(lab.gateway(lab.pod(methods={"Count": count_then_tell})))
    for count in (0, 1, 5):
        replies = channel.stream_stream("/test.Pod/Count")(itertools.repeat(b"x", count))
        assert list(replies) == [b"%d" % count, b"and more"]


def test_server_may_end_while_the_client_still_sends(lab: Lab) -> None:
    def enough(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield next(requests)
        context.abort(grpc.StatusCode.OUT_OF_RANGE, "enough")

    channel = lab.channel(lab.gateway(lab.pod(methods={"Enough": enough})))
    silence = threading.Event()
    lab.defer(silence.set)

    def requests() -> Iterator[bytes]:
        yield b"first"
        silence.wait(PATIENCE_S)

    replies = channel.stream_stream("/test.Pod/Enough")(requests())
    assert next(replies) == b"first"
    with pytest.raises(grpc.RpcError) as ended:
        next(replies)
    assert (ended.value.code(), ended.value.details()) == (grpc.StatusCode.OUT_OF_RANGE, "enough")


def test_many_rpcs_at_once_do_not_mix_their_answers(lab: Lab) -> None:
    channel = lab.channel(lab.gateway(lab.pod("a")))
    unary, chat = channel.unary_unary("/test.Pod/Unary"), channel.stream_stream("/test.Pod/Chat")
    unaries = [unary.future(b"%d" % number) for number in range(200)]
    chats = [chat(iter([b"%d" % number] * 3)) for number in range(20)]
    assert [future.result() for future in unaries] == [b"a:%d" % number for number in range(200)]
    assert [list(replies) for replies in chats] == [[b"%d" % number] * 3 for number in range(20)]
