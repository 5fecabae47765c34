"""What a port takes of one message, and that it is counted as it is, not as it was packed."""

from __future__ import annotations

import gzip

from dataplane.lab import Lab, clear_port
from dataplane.scripted_pod import frame
from grpcgw.model.codes import Code

LIMIT_BYTES = 10_000
PORT = clear_port(max_message_bytes=LIMIT_BYTES)


def packed(message: bytes) -> bytes:
    data = gzip.compress(message)
    return b"\1" + len(data).to_bytes(4, "big") + data


def test_a_message_up_to_the_limit_passes_packed_or_not(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[PORT]))
    message = bytes(LIMIT_BYTES)
    assert client.call("Unary", messages=[message]).data == frame(b"pod:" + message)
    stream = client.request("Unary", ("grpc-encoding", "gzip"), messages=(), end=False)
    client.h2.send_data(stream, packed(message), end_stream=True)
    client.flush()
    assert client.finish(stream).data == frame(b"pod:" + message)


def test_a_larger_message_reaches_no_pod_packed_or_not(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[PORT]))
    answer = client.call("Unary", messages=[bytes(LIMIT_BYTES + 1)])
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.RESOURCE_EXHAUSTED, "message-too-large")
    stream = client.request("Unary", ("grpc-encoding", "gzip"), messages=(), end=False)
    client.h2.send_data(stream, packed(bytes(1_000_000)), end_stream=True)
    client.flush()
    assert client.finish(stream).status == Code.RESOURCE_EXHAUSTED
    assert client.call("Unary").status == Code.OK
    assert len(pod.calls) == 1


def test_a_message_that_is_announced_too_large_is_not_waited_for(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.pod(), ports=[PORT]))
    stream = client.request("Chat", messages=(), end=False)
    client.h2.send_data(stream, b"\0" + (2 * LIMIT_BYTES + 1).to_bytes(4, "big"))
    client.flush()
    assert client.finish(stream).status == Code.RESOURCE_EXHAUSTED


def test_a_request_whose_message_is_refused_is_never_complete_for_the_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod, ports=[clear_port(max_message_bytes=4 << 20)]))
    assert client.call("Join", messages=[b"a", b"b"]).status == Code.OK  # a stream: the pod has it before its messages
    bomb = packed(bytes(6 << 20))
    streams = [client.request("Join", ("grpc-encoding", "gzip"), messages=(), end=False) for _ in range(8)]
    for stream in streams:
        client.h2.send_data(stream, bomb)
    client.flush()
    assert [client.finish(stream).status for stream in streams] == [Code.RESOURCE_EXHAUSTED] * 8
