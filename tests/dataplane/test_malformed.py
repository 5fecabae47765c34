"""What HTTP/2 forbids, and what is no gRPC, ends at the gateway; nobody else on a connection notices.

RFC 9113, 8.1.1: a malformed request or response is a stream error PROTOCOL_ERROR. grpc core takes some of it; what the
gateway does about that is in test_admission.py.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dataplane.lab import Lab, on_http2
from dataplane.raw_client import RawClient, lenient, request_headers
from dataplane.scripted_pod import Header, Stream, frame, refusing
from dataplane.test_metadata import answer_ok
from dataplane.waiting import eventually
from grpcgw.model.codes import Code

PROTOCOL_ERROR, CANCEL = 1, 8
FORBIDDEN_FIELDS = (
    ("x-a", " a"),
    ("x-a", "a\t"),
    ("x-a", "a\x01"),
    ("x-a", "\x7f"),
    ("x-a", "a\0b"),
    ("X-Upper", "a"),
    ("x a", "a"),
    ("", "a"),
    ("connection", "x"),
    ("keep-alive", "x"),
    ("proxy-connection", "x"),
    ("transfer-encoding", "chunked"),
    ("upgrade", "h2c"),
    ("te", "gzip"),
    ("te", "trailers, deflate"),
    ("x:a", "a"),
    ("content-length", "x"),
)
"""RFC 9113, 8.1.1, 8.2.1 and 8.2.2."""


def test_a_request_with_fields_that_http2_forbids_is_reset(lab: Lab) -> None:
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod)))
    for field in FORBIDDEN_FIELDS:
        assert client.call("Unary", field).reset == PROTOCOL_ERROR, field
        assert client.call("Unary").status == Code.OK
    assert len(pod.calls) == len(FORBIDDEN_FIELDS)


PSEUDO_HEADERS: dict[str, list[Header]] = {
    "a second path": [(":path", "/test.Pod/Other"), *request_headers()],
    "a second authority": [(":authority", "other.test"), *request_headers()],
    "a second method": [(":method", "GET"), *request_headers()],
    "no path": [field for field in request_headers() if field[0] != ":path"],
    "an empty path": request_headers(path=""),
    "a path without a slash before it": request_headers(path="test.Pod/Unary"),
    "a whole URL as path": request_headers(path="http://gateway.test/test.Pod/Unary"),
    "a space in the path": request_headers(path="/test.Pod/a b"),
    "no authority and no host": [field for field in request_headers() if field[0] != ":authority"],
    "an empty authority": request_headers(authority=""),
    "an authority with a user": request_headers(authority="user@gateway.test"),
    "an authority with a slash": request_headers(authority="gateway.test/a"),
    "two hosts": [*request_headers(), ("host", "gateway.test"), ("host", "gateway.test")],
    "an empty method": [(":method", ""), *request_headers()[1:]],
    "CONNECT": [(":method", "CONNECT"), *request_headers()[1:]],
    "a scheme that is none": [(":method", "POST"), (":scheme", "1x"), *request_headers()[2:]],
    "no scheme": [field for field in request_headers() if field[0] != ":scheme"],
    "no method": [field for field in request_headers() if field[0] != ":method"],
    "a status": [(":status", "200"), *request_headers()],
    "an unknown one": [(":protocol", "grpc"), *request_headers()],
    "one after the others": [*request_headers()[:3], *request_headers()[4:], (":authority", "gateway.test")],
}
"""RFC 9113, 8.3 and 8.3.1."""


def test_a_request_with_wrong_pseudo_headers_is_reset(lab: Lab) -> None:
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod)))
    for what, headers in PSEUDO_HEADERS.items():
        assert client.call_with(headers).reset == PROTOCOL_ERROR, what
    assert pod.calls == []
    assert client.call("Unary").status == Code.OK


@on_http2
def test_a_body_of_another_length_than_its_content_length_is_reset(lab: Lab) -> None:
    """RFC 9113, 8.1.1. Its RPC has begun: the pod gets a cancel, and no half-close."""
    gone: list[int | None] = []
    pod = lab.scripted_pod(lambda stream: gone.append(stream.wait_gone()))
    client = lab.raw_client(lab.gateway(pod))
    stream = client.request("Unary", ("content-length", "99"), end=False)
    eventually(lambda: len(pod.streams) == 1, "the RPC reaches the pod")
    client.h2.end_stream(stream)
    client.flush()
    assert client.finish(stream).reset == PROTOCOL_ERROR
    eventually(lambda: gone == [CANCEL], "the pod gets a cancel")


BAD_PATH, BAD_AUTHORITY, BAD_METADATA = (
    (Code.UNIMPLEMENTED, "bad-path"),
    (Code.INVALID_ARGUMENT, "bad-authority"),
    (Code.INVALID_ARGUMENT, "bad-metadata"),
)
ANSWERED: dict[str, tuple[list[Header], tuple[Code, str | None]]] = {
    "a path that is no method": (request_headers(path="/"), BAD_PATH),
    "a path of two readings": (request_headers(path="//a/b"), BAD_PATH),
    "a path with a query": (request_headers(path="/a/b?x"), BAD_PATH),
    "a path of other bytes": (request_headers(path="/a\xff/b"), BAD_PATH),
    "an authority of characters for other parts of a URL": (request_headers(authority="a,b"), BAD_AUTHORITY),
    "a host that is not the authority": ([*request_headers(), ("host", "other.test")], BAD_METADATA),
    "a name that gRPC does not allow": ([*request_headers(), ("x!", "a")], BAD_METADATA),
    "a value of other bytes": ([*request_headers(), ("x-a", "\xe9")], BAD_METADATA),
    "a tab in a value": ([*request_headers(), ("x-a", "a\tb")], BAD_METADATA),
    "a timeout that is none": ([*request_headers(), ("grpc-timeout", "-1S")], BAD_METADATA),
    "no base64": ([*request_headers(), ("x-bin", "!")], BAD_METADATA),
    "no te": ([field for field in request_headers() if field[0] != "te"], (Code.OK, None)),
    "another scheme": ([(":method", "POST"), (":scheme", "ftp"), *request_headers()[2:]], (Code.OK, None)),
}


@on_http2
def test_what_http2_allows_and_grpc_does_not_is_answered_as_grpc(lab: Lab) -> None:
    client = lenient(lab.raw_client(lab.gateway(lab.scripted_pod(refusing(0)))))
    for what, (headers, expected) in ANSWERED.items():
        answer = client.call_with(headers)
        assert (answer.status, answer.header("x-grpcgw-reason")) == expected, what


@pytest.mark.parametrize("where", ["headers", "trailers", "trailers-only"])
def test_an_answer_with_fields_that_http2_forbids_is_a_bad_response(lab: Lab, where: str) -> None:
    def answer(stream: Stream) -> None:
        number = int((stream.header(":path") or "").rpartition("/")[2])
        bad = (FORBIDDEN_FIELDS[number],) if number < len(FORBIDDEN_FIELDS) else ()
        stream.read_all()
        if where == "trailers-only":
            stream.end_at_once(0, "", *bad)
            return
        stream.send_headers(*(bad if where == "headers" else ()))
        stream.send_message(b"ok")
        stream.end(0, "", *(bad if where == "trailers" else ()))

    pod = lab.scripted_pod(answer)
    client = lab.raw_client(lab.gateway(pod))
    for number, field in enumerate(FORBIDDEN_FIELDS):
        got = client.call(str(number))
        assert (got.status, got.header("x-grpcgw-reason")) == (Code.INTERNAL, "bad-response"), field
        assert got.header(field[0].lower()) is None
    assert client.call(str(len(FORBIDDEN_FIELDS))).status == Code.OK
    assert pod.connects == 1


def test_host_stands_in_for_an_absent_authority_and_must_not_contradict_one(lab: Lab) -> None:
    """RFC 9113, 8.3.1. A pod that reads the other of the two would serve another virtual host."""
    pod = lab.scripted_pod(answer_ok)
    client = lab.raw_client(lab.gateway(pod))
    without = [field for field in request_headers() if field[0] != ":authority"]
    assert lenient(client).call_with([*without, ("host", "shop.test")]).status == Code.OK
    assert client.call("Unary", ("host", "gateway.TEST")).status == Code.OK
    answer = client.call("Unary", ("host", "other.test"))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (Code.INVALID_ARGUMENT, "bad-metadata")
    assert [(stream.header(":authority"), stream.header("host")) for stream in pod.streams] == [
        ("shop.test", None),
        ("gateway.test", None),
    ]


NO_GRPC = {
    "a GET": ("GET", "application/grpc", "405"),
    "a PUT": ("PUT", "application/grpc", "405"),
    "JSON": ("POST", "application/json", "415"),
    "gRPC-Web": ("POST", "application/grpc-web", "415"),
    "gRPC-Web as text": ("POST", "application/grpc-web-text+proto", "415"),
    "no content-type": ("POST", None, "415"),
    "a codec beyond ASCII": ("POST", "application/grpc+\u00e9", "415"),
}


def test_a_request_that_is_no_grpc_gets_an_answer_of_http(lab: Lab) -> None:
    """grpc `PROTOCOL-HTTP2`: 415 for a content-type of another kind."""
    pod = lab.pod()
    client = lab.raw_client(lab.gateway(pod))
    for what, (method, content_type, status) in NO_GRPC.items():
        headers = [(":method", method), *request_headers()[1:5]]
        if content_type is not None:
            headers.append(("content-type", content_type))
        answer = client.call_with(headers)
        assert (answer.header(":status"), answer.header("grpc-status"), answer.ended) == (status, None, True), what
        assert b"gRPC" in answer.data
        assert answer.header("allow") == ("POST" if status == "405" else None)
    assert pod.calls == []
    assert client.call("Unary").status == Code.OK


@on_http2
@pytest.mark.parametrize(
    "types",
    [
        ("application/json", "application/grpc"),
        ("application/grpc", "application/json"),
        ("\xff", "application/grpc"),
        ("application/grpc+\xff", "application/grpc", "application/grpc"),
        ("application/grpc", "application/grpc"),
    ],
)
def test_a_request_of_several_content_types_reaches_no_pod(lab: Lab, types: tuple[str, ...]) -> None:
    """RFC 9110, 8.3: there is one. A pod may read another one of them than the gateway, and not be able to."""
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod)))
    answer = client.call_with([*request_headers()[:5], *(("content-type", each) for each in types)])
    assert (answer.header(":status"), answer.header("grpc-status")) == ("415", None)
    assert pod.calls == []


MALFORMED_LATER: dict[str, Callable[[RawClient], int]] = {
    "longer than declared": lambda client: client.request("Unary", ("content-length", "1"), messages=[b"more"]),
    "shorter than declared": lambda client: client.request("Unary", ("content-length", "99"), messages=[b"less"]),
    "trailers that end nothing": lambda client: _trail(client, [("x-a", "1")], end=False),
    "a pseudo-header among trailers": lambda client: _trail(client, [(":path", "/test.Pod/Other")], end=True),
}


def _trail(client: RawClient, trailers: list[Header], end: bool) -> int:
    stream = client.begin(request_headers())
    client.h2.send_data(stream, frame(b"x"))
    client.h2.send_headers(stream, trailers, end_stream=True)
    sent = bytearray(client.h2.data_to_send())
    if not end:
        sent[sent.rindex(b"\x01\x05" + stream.to_bytes(4)) + 1] = 4
    client.socket.sendall(sent)
    return stream


@on_http2
@pytest.mark.parametrize("case", MALFORMED_LATER)
def test_a_request_that_is_found_malformed_after_its_headers_reaches_no_pod(lab: Lab, case: str) -> None:
    """RFC 9113, 8.1.1. Where it comes in one piece: floods of them cost the pods nothing."""
    pod = lab.scripted_pod(refusing(0))
    client = lenient(lab.raw_client(lab.gateway(pod)))
    assert client.call("Unary").status == Code.OK
    assert client.finish(MALFORMED_LATER[case](client)).reset == PROTOCOL_ERROR
    assert client.call("Unary").status == Code.OK
    assert len(pod.streams) == 2


def test_trailers_of_a_client_end_its_request(lab: Lab) -> None:
    """gRPC knows none: a pod gets the half-close."""
    pod = lab.scripted_pod(refusing(0))
    client = lab.raw_client(lab.gateway(pod))
    stream = client.request("Unary", messages=[b"x"], end=False)
    client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.flush()
    assert client.finish(stream).status == Code.OK
    assert pod.streams[0].header("x-trailer") is None
