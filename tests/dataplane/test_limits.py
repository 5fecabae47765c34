"""What one client may ask for: metadata and streams are bounded, messages are not."""

from __future__ import annotations

import grpc
import pytest

from dataplane.lab import Lab, on_http2
from dataplane.raw_client import request_headers
from dataplane.scripted_pod import Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually

RESOURCE_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED


def test_metadata_up_to_the_limit_passes(lab: Lab) -> None:
    pod = lab.pod()
    channel = lab.channel(lab.gateway(pod, max_metadata_bytes=65_536))
    large = "x" * 50_000
    assert channel.unary_unary("/test.Pod/Unary")(b"", metadata=(("x-large", large),)) == b"pod:"
    assert pod.calls[0].values("x-large") == [large]


def test_metadata_above_the_limit_is_refused_and_the_connection_stands(lab: Lab) -> None:
    pod = lab.pod("a")
    call = lab.channel(lab.gateway(pod, max_metadata_bytes=16_384)).unary_unary("/test.Pod/Unary")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"", metadata=(("x-large", "x" * 40_000),))
    assert refused.value.code() is RESOURCE_EXHAUSTED
    assert call(b"x") == b"a:x"
    assert len(pod.calls) == 1


@on_http2
def test_whatever_is_in_the_header_list_counts(lab: Lab) -> None:
    """RFC 9113, 6.5.2: each name and value as it was sent, and 32 bytes. No metadata, but it goes to the pod."""
    pod = lab.scripted_pod(refusing(0))
    client = lab.raw_client(lab.gateway(pod, max_metadata_bytes=8192))
    for field in (("grpc-accept-encoding", "x" * 9000), ("grpc-encoding", "x" * 9000)):
        answer = client.call("Unary", field)
        assert (answer.status, answer.header("x-grpcgw-reason")) == (8, "metadata-too-large"), field[0]
    sent = sum(len(name) + len(value) + 32 for name, value in request_headers())
    quartets = (8192 - sent - len("x-bin") - 32) // 4
    assert client.call("Unary", ("x-bin", "AAAA" * (quartets + 1))).status == 8
    assert client.call("Unary", ("x-bin", "AAAA" * quartets)).status == 0
    assert len(pod.streams) == 1


def test_metadata_of_a_pod_above_the_limit_is_refused(lab: Lab) -> None:
    def boast(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("x-large", "x" * 12_000))
        stream.end()

    # The limit holds towards pods too; a frame of the script's takes no more than 16 KiB.
    client = lab.raw_client(lab.gateway(lab.scripted_pod(boast), max_metadata_bytes=4_096))
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (RESOURCE_EXHAUSTED.value[0], "metadata-too-large")
    assert "test.default" in answer.message
    assert answer.trailers_only


def test_streams_above_the_limit_wait_for_their_turn(lab: Lab) -> None:
    """SETTINGS_MAX_CONCURRENT_STREAMS tells the client, who holds the rest back: nothing is refused."""
    gateway = lab.gateway(lab.pod("a"), max_concurrent_streams=4)
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == 0
    assert client.remote_max_streams == 4
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    futures = [call.future(b"%d" % number) for number in range(100)]
    assert [future.result() for future in futures] == [b"a:%d" % number for number in range(100)]


def test_path_that_is_no_method_is_unimplemented(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.pod()))
    for path in ("", "/", "//", "../../etc", "a" * 5_000, "%2e%2e", "Unary?x=1"):
        answer = client.call(path)
        assert answer.status == 12, path
    assert client.call("Unary").status == 0


def test_a_client_may_have_1000_rpcs_that_wait_for_their_answers(lab: Lab) -> None:
    """An ordinary client sends some control frames for each, and gets nothing yet."""
    held: list[Stream] = []

    def hold(stream: Stream) -> None:
        held.append(stream)
        stream.wait_gone()

    gateway = lab.gateway(lab.scripted_pod(hold, most_streams=2000))
    gateway.wait_for_ready_pods(1)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    patience_s = 3 * PATIENCE_S  # a thread of the pod for each: a busy machine takes a minute
    running = [call.future(b"hi", timeout=patience_s) for _ in range(1000)]
    eventually(lambda: len(held) == 1000, lambda: f"{len(held)} wait", patience_s)
    assert not [one for one in running if one.done()]
    for one in running:
        one.cancel()
