"""What a port takes of one message. On grpc core its size is counted unpacked, on the http2 engine as it crosses."""

from __future__ import annotations

import gzip
import os

from dataplane.lab import Lab, clear_port, on_grpc_core
from dataplane.raw_client import Answer, RawClient
from dataplane.scripted_pod import Gone, Stream, frame
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.codes import Code

LIMIT_BYTES = 10_000
CANCEL = 8
PORT = clear_port(max_message_bytes=LIMIT_BYTES)


def packed(message: bytes) -> bytes:
    data = gzip.compress(message)
    return b"\1" + len(data).to_bytes(4, "big") + data


def test_a_message_up_to_the_limit_passes_packed_or_not(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[PORT]))
    message = bytes(LIMIT_BYTES)
    assert client.call("Unary", messages=[message]).data == frame(b"pod:" + message)
    assert send_packed(client, message).data == frame(b"pod:" + message)


def test_a_larger_message_reaches_no_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[PORT]))
    answer = client.call("Unary", messages=[bytes(LIMIT_BYTES + 1)])
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    assert client.call("Unary").status == Code.OK
    assert len(pod.calls) == 1


def send_packed(client: RawClient, message: bytes) -> Answer:
    stream = client.request("Unary", ("grpc-encoding", "gzip"), messages=(), end=False)
    client.h2.send_data(stream, packed(message), end_stream=True)
    client.flush()
    return client.finish(stream)


@on_grpc_core
def test_a_larger_message_reaches_no_pod_packed_either(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[PORT]))
    assert send_packed(client, bytes(1_000_000)).status == Code.RESOURCE_EXHAUSTED
    assert client.call("Unary").status == Code.OK
    assert len(pod.calls) == 1


def test_a_packed_message_counts_as_it_crosses(lab: Lab) -> None:
    """Nothing is unpacked, so no client can make the gateway hold more than it sent; the pod has a limit of its own."""
    client = lab.raw_client(lab.gateway(lab.pod(), ports=[PORT]))
    assert send_packed(client, bytes(1_000_000)).data == frame(b"pod:" + bytes(1_000_000))
    refused = send_packed(client, os.urandom(LIMIT_BYTES))
    assert (refused.status, refused.header("x-grpcgw-reason")) == (Code.RESOURCE_EXHAUSTED, "message-too-large")


def test_a_message_that_is_announced_too_large_is_not_waited_for(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.pod(), ports=[PORT]))
    stream = client.request("Chat", messages=(), end=False)
    client.h2.send_data(stream, b"\0" + (2 * LIMIT_BYTES + 1).to_bytes(4, "big"))
    client.flush()
    assert client.finish(stream).status == Code.RESOURCE_EXHAUSTED


def test_a_request_with_a_message_too_large_is_never_complete_for_the_pod(lab: Lab) -> None:
    ended: list[bytes | Gone | None] = []

    def read(stream: Stream) -> None:
        stream.send_headers()
        assert stream.read_message() == b"good"
        ended.append(stream.events.get(timeout=PATIENCE_S))

    client = lab.raw_client(lab.gateway(lab.scripted_pod(read), ports=[PORT]))
    stream = client.request("Chat", messages=[b"good"], end=False)
    while not client.answers[stream].blocks:
        assert client.receive()
    client.h2.send_data(stream, frame(bytes(LIMIT_BYTES + 1)), end_stream=True)
    client.flush()
    assert client.finish(stream).status == Code.RESOURCE_EXHAUSTED
    eventually(lambda: ended)
    assert isinstance(ended[0], Gone)
    assert ended[0].code == CANCEL


@on_grpc_core
def test_a_packed_request_whose_message_is_refused_is_never_complete_for_the_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[clear_port(max_message_bytes=4 << 20)]))
    assert client.call("Join", messages=[b"a", b"b"]).status == Code.OK  # a stream: the pod has it before its messages
    bomb = packed(bytes(6 << 20))
    streams = [client.request("Join", ("grpc-encoding", "gzip"), messages=(), end=False) for _ in range(8)]
    for stream in streams:
        client.h2.send_data(stream, bomb)
    client.flush()
    assert [client.finish(stream).status for stream in streams] == [Code.RESOURCE_EXHAUSTED] * 8
