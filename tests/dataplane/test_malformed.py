"""What HTTP/2 forbids, and what is no gRPC, ends at the gateway; nobody else on a connection notices.

RFC 9113, 8.1.1: a malformed request or response is a stream error PROTOCOL_ERROR. grpc core takes some of it; what the
gateway does about that is in test_admission.py.
"""

from __future__ import annotations

import pytest

from dataplane.lab import Lab
from dataplane.raw_client import lenient, request_headers
from dataplane.scripted_pod import Header, Stream, refusing
from dataplane.test_metadata import answer_ok
from grpcgw.model.codes import Code

PROTOCOL_ERROR = 1
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
)
"""RFC 9113, 8.2.1 and 8.2.2."""


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


def test_trailers_of_a_client_end_its_request(lab: Lab) -> None:
    """gRPC knows none: a pod gets the half-close."""
    pod = lab.scripted_pod(refusing(0))
    client = lab.raw_client(lab.gateway(pod))
    stream = client.request("Unary", messages=[b"x"], end=False)
    client.h2.send_headers(stream, [("x-trailer", "1")], end_stream=True)
    client.flush()
    assert client.finish(stream).status == Code.OK
    assert pod.streams[0].header("x-trailer") is None
