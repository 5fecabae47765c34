"""Metadata crosses both ways as it is; what belongs to one hop stays there, and the gateway adds what Envoy would."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import pytest

from dataplane.lab import Lab, mapping, on_grpc_core
from dataplane.pods import Context
from dataplane.scripted_pod import Header, Stream
from grpcgw.policy.request import Peer
from grpcgw.session.forwarding import forward_request

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
METADATA = (
    ("x-twice", "first"),
    ("x-between", "b"),
    ("x-twice", "second"),
    ("x-empty", ""),
    ("x-list", "a, b,c"),
    ("x-raw-bin", b"\x00\x01\xff,\x80"),
    ("x-raw-bin", b""),
    ("authorization", "Bearer abc=="),
)
KEYS = {key for key, _ in METADATA}


Pairs = Sequence[tuple[str, str | bytes]]


def own(metadata: Pairs) -> Pairs:
    return tuple((key, value) for key, value in metadata if key in KEYS)


def by_key(metadata: Pairs) -> dict[str, list[str | bytes]]:
    """The values of each key, in order: what order of metadata means to gRPC."""
    return {key: [value for name, value in metadata if name == key] for key in KEYS}


def answer_ok(stream: Stream) -> None:
    stream.read_all()
    stream.send_headers()
    stream.send_message(b"ok")
    stream.end()


def values(headers: list[Header], name: str) -> list[str]:
    return [value for key, value in headers if key == name]


def test_request_metadata_keeps_duplicates_and_bytes(lab: Lab) -> None:
    pod = lab.pod()
    lab.channel(lab.gateway(pod)).unary_unary("/test.Pod/Unary")(b"", metadata=METADATA)
    assert by_key(pod.calls[0].metadata) == by_key(METADATA)


def test_pod_headers_and_trailers_keep_duplicates_and_bytes(lab: Lab) -> None:
    def answer(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.send_initial_metadata(METADATA)
        context.set_trailing_metadata(tuple(reversed(METADATA)))
        yield from requests

    channel = lab.channel(lab.gateway(lab.pod(methods={"Tell": answer})))
    for messages in ([b"one"], [b"one", b"two"], []):
        call = channel.stream_stream("/test.Pod/Tell")(iter(messages))
        assert list(call) == messages
        assert by_key(call.initial_metadata()) == by_key(METADATA)
        assert by_key(call.trailing_metadata()) == by_key(tuple(reversed(METADATA)))


def test_metadata_keeps_the_order_of_different_keys(lab: Lab) -> None:
    def answer(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.send_initial_metadata(METADATA)
        context.set_trailing_metadata(tuple(reversed(METADATA)))
        yield from requests

    pod = lab.pod(methods={"Tell": answer})
    call = lab.channel(lab.gateway(pod)).unary_stream("/test.Pod/Tell")(b"", metadata=METADATA)
    assert list(call) == [b""]
    assert own(pod.calls[0].metadata) == METADATA
    assert own(call.initial_metadata()) == METADATA
    assert own(call.trailing_metadata()) == tuple(reversed(METADATA))


def headers_at_the_pod(lab: Lab, *sent: Header) -> list[Header]:
    pod = lab.scripted_pod(answer_ok)
    assert lab.raw_client(lab.gateway(pod)).call("Unary", *sent).status == 0
    return pod.streams[0].headers


def test_headers_of_this_hop_are_this_hops(lab: Lab) -> None:
    headers = headers_at_the_pod(lab, ("user-agent", "somebody/1.0"), ("x-kept", "yes"))
    assert [len(values(headers, name)) for name in ("te", "user-agent", "content-type", ":path")] == [1, 1, 1, 1]
    assert values(headers, "te") == ["trailers"]
    assert values(headers, "x-kept") == ["yes"]


def test_user_agent_and_encodings_are_the_clients(lab: Lab) -> None:
    """They describe who made the messages, which cross unparsed."""
    sent = [("user-agent", "somebody/1.0"), ("grpc-accept-encoding", "zstd"), ("grpc-encoding", "identity")]
    headers = headers_at_the_pod(lab, *sent)
    assert [(name, value) for name, value in headers if name in dict(sent)] == sent


@on_grpc_core
def test_user_agent_and_encodings_are_those_of_each_hop_on_grpc_core(lab: Lab) -> None:
    headers = headers_at_the_pod(lab, ("user-agent", "somebody/1.0"), ("grpc-accept-encoding", "zstd"))
    assert values(headers, "user-agent")[0].startswith("grpcgw/")
    assert "zstd" not in "".join(values(headers, "grpc-accept-encoding"))


def test_client_is_told_nothing_of_the_gateway_in_a_pods_answer(lab: Lab) -> None:
    answer = lab.raw_client(lab.gateway(lab.scripted_pod(answer_ok))).call("Unary")
    assert [key for block in answer.blocks for key, _ in block if key.startswith("x-")] == []
    assert answer.header("content-type") == "application/grpc"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ((), "127.0.0.1"),
        (("10.1.2.3",), "10.1.2.3,127.0.0.1"),
        (("10.1.2.3, 10.4.5.6",), "10.1.2.3, 10.4.5.6,127.0.0.1"),
    ],
)
def test_client_address_is_appended_to_forwarded_for(lab: Lab, sent: tuple[str, ...], expected: str) -> None:
    pod = lab.pod()
    metadata = tuple(("x-forwarded-for", value) for value in sent)
    lab.channel(lab.gateway(pod)).unary_unary("/test.Pod/Unary")(b"", metadata=metadata)
    assert pod.calls[0].values("x-forwarded-for") == [expected]


def test_lines_of_forwarded_for_are_one_list(lab: Lab) -> None:
    """RFC 9110, 5.3. A client must not hide the addresses that a proxy before the gateway has added."""
    headers = headers_at_the_pod(lab, ("x-forwarded-for", "10.1.1.1"), ("x-forwarded-for", "10.2.2.2"))
    assert values(headers, "x-forwarded-for") == ["10.1.1.1,10.2.2.2,127.0.0.1"]


def test_request_id_is_made_where_there_is_none_and_differs_per_rpc(lab: Lab) -> None:
    pod = lab.pod()
    call = lab.channel(lab.gateway(pod)).unary_unary("/test.Pod/Unary")
    for _ in range(20):
        call(b"")
    made = [seen.values("x-request-id") for seen in pod.calls]
    assert all(len(ids) == 1 and UUID4.fullmatch(str(ids[0])) for ids in made)
    assert len({ids[0] for ids in made}) == 20


def test_request_id_of_an_internal_client_is_kept(lab: Lab) -> None:
    pod = lab.pod()
    call = lab.channel(lab.gateway(pod)).unary_unary("/test.Pod/Unary")
    call(b"", metadata=(("x-request-id", "mine"),))
    assert pod.calls[0].values("x-request-id") == ["mine"]


def test_request_id_of_an_external_client_is_replaced() -> None:
    # A client of this machine is internal, so that this rule shows only without sockets.
    forwarded = forward_request((("x-request-id", "mine"), ("x-a", "b")), Peer("8.8.8.8"), tls=False)
    ids = [value for key, value in forwarded if key == "x-request-id"]
    assert len(ids) == 1
    assert ids != ["mine"]
    assert ("x-a", "b") in forwarded


def test_authority_is_the_clients(lab: Lab) -> None:
    pod = lab.scripted_pod(answer_ok)
    gateway = lab.gateway(pod)
    assert lab.raw_client(gateway).call("Unary", authority="greeter.example.com").status == 0
    lab.channel(gateway, ("grpc.default_authority", "other.example.com")).unary_unary("/test.Pod/Unary")(b"")
    assert [stream.header(":authority") for stream in pod.streams] == ["greeter.example.com", "other.example.com"]


def test_rewrite_replaces_the_matched_prefix(lab: Lab) -> None:
    pod = lab.pod("a")
    gateway = lab.gateway(pod, routes=[mapping("/public.v1.Pod/", rewrite="/test.Pod/")])
    assert lab.channel(gateway).unary_unary("/public.v1.Pod/Unary")(b"x") == b"a:x"
    assert pod.calls[0].method == "/test.Pod/Unary"
