"""Messages cross as they are, compressed or not, of any codec, padded or not, and what describes them beside them."""

from __future__ import annotations

import gzip
import struct

import pytest
from h2.events import Event, ResponseReceived
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from dataplane.lab import Lab, on_http2
from dataplane.raw_client import Answer, RawClient, request_headers
from dataplane.scripted_pod import Stream, frame
from grpcgw.model.codes import Code

PACKED = gzip.compress(b"a" * 1000)
PACKED_FRAME = struct.pack(">BI", 1, len(PACKED)) + PACKED
ENCODING_FIELDS = {"grpc-encoding": "gzip", "grpc-accept-encoding": "gzip,zstd"}


def described(found: Answer | Stream) -> dict[str, str | None]:
    return {name: found.header(name) for name in ENCODING_FIELDS}


def ask(client: RawClient, data: bytes, *extra: tuple[str, str]) -> int:
    stream = client.request("Unary", *extra, messages=(), end=False)
    client.send_data(stream, data, end=True)
    return stream


def test_compressed_messages_and_their_encoding_cross_both_ways(lab: Lab) -> None:
    def echo(stream: Stream) -> None:
        data = stream.read_bytes()
        stream.send_headers(*ENCODING_FIELDS.items())
        stream.send_data(data)
        stream.end()

    pod = lab.scripted_pod(echo)
    client = lab.raw_client(lab.gateway(pod))
    data = PACKED_FRAME + frame(b"plain") + PACKED_FRAME
    answer = client.finish(ask(client, data, *ENCODING_FIELDS.items()))
    assert (answer.status, answer.data) == (Code.OK, data)
    assert described(pod.streams[0]) == described(answer) == ENCODING_FIELDS


@on_http2
@pytest.mark.parametrize("flag", [2, 255])
def test_frames_with_a_flag_that_grpc_does_not_know_cross_both_ways(lab: Lab, flag: int) -> None:
    """Each end refuses them itself. grpc core reports nothing of them, not even an end."""
    data = bytes([flag]) + frame(b"x")[1:]

    def echo(stream: Stream) -> None:
        received = stream.read_bytes()
        stream.send_headers()
        stream.send_data(received)
        stream.end()

    client = lab.raw_client(lab.gateway(lab.scripted_pod(echo)))
    assert client.finish(ask(client, data)).data == data


@pytest.mark.parametrize("content_type", ["application/grpc+proto", "application/grpc+json", "application/grpc;a=b"])
def test_content_types_cross_both_ways(lab: Lab, content_type: str) -> None:
    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(content_type=content_type)
        stream.send_message(b"{}")
        stream.end()

    pod = lab.scripted_pod(answer)
    client = lab.raw_client(lab.gateway(pod))
    stream = client.begin([*request_headers()[:-1], ("content-type", content_type)])
    client.send_data(stream, frame(b"{}"), end=True)
    got = client.finish(stream)
    assert (got.status, got.header("content-type"), got.data) == (Code.OK, content_type, frame(b"{}"))
    assert pod.streams[0].header("content-type") == content_type


@on_http2
def test_padding_of_either_side_is_read_and_costs_no_window(lab: Lab) -> None:
    """Padding counts against windows (RFC 9113, 6.9.1): more of it than a window holds goes each way. grpc core
    does not read it."""
    count = 5000

    def answer(stream: Stream) -> None:
        assert stream.read_all() == [b"x"] * count
        stream.send_headers()
        for _ in range(count):
            stream.send_data(frame(b"y"), pad_bytes=255)
        stream.end()

    client = lab.raw_client(lab.gateway(lab.scripted_pod(answer)), initial_window=1 << 24)
    stream = client.request("Chat", messages=(), end=False)
    for _ in range(count):
        client.send_data(stream, frame(b"x"), pad_bytes=255)
    client.h2.end_stream(stream)
    client.flush()
    got = client.finish(stream)
    assert (got.status, got.data) == (Code.OK, frame(b"y") * count)


def test_binary_values_joined_by_commas_cross_as_several(lab: Lab) -> None:
    """grpc `PROTOCOL-HTTP2`: "Implementations MUST split Binary-Headers on "," before decoding"."""

    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("x-id-bin", "AAE=,AgM"))
        stream.end(Code.NOT_FOUND, "", ("x-more-bin", "YQ,,Yg=="))

    pod = lab.scripted_pod(answer)
    got = lab.raw_client(lab.gateway(pod)).call("Unary", ("x-id-bin", "AAE=, AgM"))
    sent = [value for name, value in pod.streams[0].headers if name == "x-id-bin"]
    returned = [value for block in got.blocks for name, value in block if name.endswith("-bin")]
    assert (got.status, sent, returned) == (Code.NOT_FOUND, ["AAE", "AgM"], ["AAE", "AgM", "YQ", "", "Yg"])


@on_http2
def test_what_either_side_keeps_out_of_header_tables_stays_out_of_them(lab: Lab) -> None:
    """RFC 7541, 6.2.3: an intermediary has no choice."""
    told: list[list[str]] = []

    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(NeverIndexedHeaderTuple("x-told", "secret"), ("x-free", "2"))
        stream.end()

    class Client(RawClient):
        def _on(self, event: Event) -> None:
            if isinstance(event, ResponseReceived):
                told.append(kept_out(event.headers))
            super()._on(event)

    pod = lab.scripted_pod(answer)
    with Client(lab.gateway(pod).address) as client:
        for _ in range(2):
            assert client.call("Unary", NeverIndexedHeaderTuple("x-key", "secret"), ("x-free", "1")).status == Code.OK
    asked = [kept_out(stream.headers) for stream in pod.streams]
    assert [("x-key" in names, "x-free" in names) for names in asked] == [(True, False)] * 2
    assert [("x-told" in names, "x-free" in names) for names in told] == [(True, False)] * 2


def kept_out(headers: list[HeaderTuple]) -> list[str]:
    return [str(each[0]) for each in headers if not each.indexable]
