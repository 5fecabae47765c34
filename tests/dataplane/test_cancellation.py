"""Whoever gives up, the other side learns it at once, for every kind of RPC and in every phase."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import grpc.aio
import pytest

from dataplane.lab import CLIENT_ARGUMENTS, Lab, on_http2
from dataplane.pods import Context, Gate
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually

CANCEL = 8


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
def test_cancel_of_the_client_reaches_the_pod(lab: Lab, kind: str) -> None:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        next(requests)
        gate.hold(context)
        return iter(())

    channel = lab.channel(lab.gateway(lab.pod(methods={"Hold": hold})))
    silence = threading.Event()
    lab.defer(silence.set)

    def requests() -> Iterator[bytes]:
        yield b"first"
        silence.wait(PATIENCE_S)

    start = getattr(channel, kind)("/test.Pod/Hold")
    begin = start.future if kind.endswith("_unary") else start
    call = begin(requests() if kind.startswith("stream") else b"first")
    assert gate.reached.wait(PATIENCE_S)
    call.cancel()
    assert gate.cancelled.wait(PATIENCE_S)


def test_cancel_in_the_middle_of_a_conversation_reaches_the_pod(lab: Lab) -> None:
    gate = Gate()

    def talk(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.add_callback(gate.cancelled.set)
        yield from requests

    channel = lab.channel(lab.gateway(lab.pod(methods={"Talk": talk})))
    silence = threading.Event()
    lab.defer(silence.set)

    def requests() -> Iterator[bytes]:
        yield b"one"
        yield b"two"
        silence.wait(PATIENCE_S)

    call = channel.stream_stream("/test.Pod/Talk")(requests())
    assert [next(call), next(call)] == [b"one", b"two"]
    call.cancel()
    assert gate.cancelled.wait(PATIENCE_S)


def test_cancel_reaches_the_pod_as_a_reset_with_cancel(lab: Lab) -> None:
    pod = lab.scripted_pod()
    client = lab.raw_client(lab.gateway(pod))
    stream = client.request("Unary")
    eventually(lambda: pod.streams)
    client.cancel(stream)
    assert pod.streams[0].wait_gone() == CANCEL


def test_cancel_before_anything_was_sent_to_a_pod_leaves_nothing(lab: Lab) -> None:
    pod = lab.scripted_pod()
    gateway = lab.gateway(pod)
    client = lab.raw_client(gateway)
    for _ in range(50):
        client.cancel(client.request("Join", messages=(), end=False))
    eventually(lambda: sum(gateway.codes("Join").values()) == 50)
    eventually(lambda: not gateway.pod_in_flight())
    assert set(gateway.codes("Join")) == {1}


def test_a_request_that_is_reset_is_a_cancel_to_the_pod_whatever_the_timing(lab: Lab) -> None:
    cut_off_requests(lab, RawClient.cancel)


@on_http2
def test_a_request_whose_connection_is_cut_off_is_a_cancel_to_the_pod_whatever_the_timing(lab: Lab) -> None:
    """grpc core notices some clients that leave within milliseconds only by a ping."""
    cut_off_requests(lab, lambda client, _: client.close())


def cut_off_requests(lab: Lab, cut_off: Callable[[RawClient, int], None]) -> None:
    """Some before the pod has seen the RPC, some in the middle of it; none may look complete to it."""
    pod = lab.scripted_pod()
    gateway = lab.gateway(pod)
    client = lab.raw_client(gateway)
    for number in range(150):
        before = len(pod.streams)
        stream = client.request("Join", messages=[b"x"] * (number % 3), end=False)
        if number % 5 == 0:
            eventually(lambda before=before: len(pod.streams) > before)
        elif number % 5 == 1:
            time.sleep(number % 7 / 5000)
        cut_off(client, stream)
        if client.socket.fileno() < 0:
            client = lab.raw_client(gateway)
    eventually(lambda: not gateway.engine.active)
    eventually(lambda: not gateway.pod_in_flight())
    assert {stream.wait_gone() for stream in pod.streams} == {CANCEL}
    assert not [stream for stream in pod.streams if None in stream.events.queue], "a half-close"
    assert client.finish(client.request("/none.S/M")).status == 12


def test_client_that_disappears_is_a_cancel_to_the_pod(lab: Lab) -> None:
    pod = lab.scripted_pod()
    gateway = lab.gateway(pod)
    client = lab.raw_client(gateway)
    client.request("Unary")
    client.request("Chat", messages=(b"x",), end=False)
    eventually(lambda: len(pod.streams) == 2)
    client.close()
    assert [stream.wait_gone() for stream in pod.streams] == [CANCEL, CANCEL]


def test_client_that_disappears_while_the_pod_pours_is_a_cancel_to_the_pod(lab: Lab) -> None:
    def pour(stream: Stream) -> None:
        stream.send_headers()
        while True:
            stream.send_message(bytes(1000))

    pod = lab.scripted_pod(pour)
    client = lab.raw_client(lab.gateway(pod))
    stream = client.request("Pour")
    while not client.answers[stream].data:
        assert client.receive()
    client.close()
    assert pod.streams[0].wait_gone() == CANCEL


def test_client_that_leaves_what_the_pod_has_sent_unread_leaves_nothing(lab: Lab) -> None:
    """The pod has ended the RPC before: the gateway had its status, behind what the client did not take."""
    go_on, ended = threading.Event(), threading.Event()

    def answer(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.add_callback(ended.set)
        yield b"a" * 100_000
        go_on.wait(PATIENCE_S)
        yield b"b"

    gateway = lab.gateway(lab.pod(methods={"Answer": answer}))
    client = lab.raw_client(gateway, initial_window=10)
    stream = client.request("Answer")
    while not client.answers[stream].data:
        assert client.receive()
    go_on.set()
    assert ended.wait(PATIENCE_S)
    assert client.call("Unary").status == 0, "so the end of the first RPC has come, over the same connection"
    client.cancel(stream)
    eventually(lambda: not gateway.pod_in_flight(), "no RPC in flight to a pod")


def test_pods_own_cancelled_passes_as_its_status(lab: Lab) -> None:
    answer = lab.raw_client(lab.gateway(lab.scripted_pod(refusing(1, "changed my mind")))).call("Unary")
    assert (answer.status, answer.message, answer.header("x-grpcgw-reason")) == (1, "changed my mind", None)


def test_clients_that_cancel_all_the_time_disturb_nobody(lab: Lab) -> None:
    gate = Gate()
    lab.defer(gate.open)

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        while context.is_active() and not gate.cancelled.wait(0.01):
            pass
        return iter(())

    gateway = lab.gateway(lab.pod("a", methods={"Hold": hold}))
    lab.defer(gate.cancelled.set)
    restless, calm = lab.channel(gateway), lab.channel(gateway).unary_unary("/test.Pod/Unary")
    for number in range(100):
        call = restless.unary_unary("/test.Pod/Hold").future(b"")
        assert calm(b"%d" % number) == b"a:%d" % number
        call.cancel()


def test_asyncio_client_cancels_and_converses(lab: Lab) -> None:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        return iter(())

    gateway = lab.gateway(lab.pod(methods={"Hold": hold}))

    async def run() -> list[bytes]:
        async with grpc.aio.insecure_channel(gateway.address, CLIENT_ARGUMENTS) as channel:
            held = channel.unary_unary("/test.Pod/Hold")(b"")
            await asyncio.to_thread(gate.reached.wait, PATIENCE_S)
            held.cancel()
            await asyncio.to_thread(gate.cancelled.wait, PATIENCE_S)
            talk = channel.stream_stream("/test.Pod/Chat")()
            replies = []
            for number in range(5):
                await talk.write(b"%d" % number)
                replies.append(await talk.read())
            await talk.done_writing()
            assert await talk.read() is grpc.aio.EOF
            return replies

    assert asyncio.run(run()) == [b"0", b"1", b"2", b"3", b"4"]
    assert gate.cancelled.is_set()


def test_cancel_before_the_pod_is_connected_leaves_nothing_that_a_stop_would_wait_for(lab: Lab) -> None:
    gateway = lab.gateway(lab.scripted_pod(deaf=True))
    client = lab.raw_client(gateway)
    for _ in range(10):
        client.cancel(client.request("Unary"))
    eventually(lambda: gateway.codes("Unary") == {1: 10})
    stopping = threading.Thread(target=gateway.stop, daemon=True)
    stopping.start()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive(), "the gateway never stopped"
