"""What no two readers would read alike is refused at the door: the pod does not see it, and others do not notice."""

from __future__ import annotations

import pytest

from dataplane.lab import Lab, mapping, on_grpc_core
from dataplane.raw_client import Answer, lenient
from dataplane.scripted_pod import Stream
from grpcgw.model.codes import Code

ANYTHING = mapping("/")
NO_PATHS = (
    "//test.Pod/Unary",
    "/test.Pod/Unary?x=1",
    "/x.Y/../test.Pod/Unary",
    "/test.Pod/%55nary",
    "/test.Pod/Unary/",
    "/test.Pod",
)
FORBIDDEN_PATHS = ("/test.Pod/a b", "/test.Pod/a\nb", "/test.Pod/a\0b")
"""By RFC 9113, 8.2.1 and 8.3.1: grpc core hands them over."""
FORBIDDEN_AUTHORITIES = ("a b", "a\nb", "a\0b", "\xe9", "gateway.test/x", "user@gateway.test")
PROTOCOL_ERROR = 1


def refused(answer: Answer) -> tuple[int, str | None, bool]:
    return answer.status, answer.header("x-grpcgw-reason"), answer.trailers_only


def forbidden(lab: Lab, answer: Answer) -> bool:
    """Whether a request that HTTP/2 forbids was refused: its stream is reset (RFC 9113, 8.1.1), as Envoy does; on grpc
    core, which hands it over, the gateway answers."""
    if lab.on_grpc_core:
        return answer.trailers_only and answer.header("x-grpcgw-reason") in ("bad-path", "bad-authority")
    return answer.reset == PROTOCOL_ERROR


def test_a_path_that_is_not_service_and_method_reaches_no_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod, routes=[ANYTHING])))
    for path in NO_PATHS:
        assert refused(client.call(path)) == (Code.UNIMPLEMENTED, "bad-path", True), path
    assert pod.calls == []
    assert client.call("Unary").status == Code.OK


def test_a_path_that_http2_forbids_reaches_no_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod, routes=[ANYTHING])))
    for path in FORBIDDEN_PATHS:
        assert forbidden(lab, client.call(path)), path
    assert pod.calls == []
    assert client.call("Unary").status == Code.OK


def test_an_authority_that_is_no_host_reaches_no_pod(lab: Lab) -> None:
    pod = lab.pod()
    client = lenient(lab.raw_client(lab.gateway(pod)))
    answer = client.call("Unary", authority="gateway.test,x")
    assert refused(answer) == (Code.INVALID_ARGUMENT, "bad-authority", True)
    for authority in FORBIDDEN_AUTHORITIES:
        assert forbidden(lab, client.call("Unary", authority=authority)), authority
    assert pod.calls == []
    assert client.call("Unary").status == Code.OK


@on_grpc_core
def test_spaces_around_values_stay_behind_both_ways(lab: Lab) -> None:
    """RFC 9113, 8.2.1 forbids them: a strict pod ends the connection that others' RPCs are on. The http2 engine refuses
    such a request (test_malformed.py); grpc core takes it."""

    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("x-a", " a "))
        stream.send_message(b"ok")
        stream.end(0, "", ("x-b", "b\t"))

    pod = lab.scripted_pod(answer)
    client = lenient(lab.raw_client(lab.gateway(pod)))
    names = "x-a", "x-forwarded-for", "x-request-id"
    got = client.call("Unary", *((name, " 10.0.0.1 \t") for name in names), ("x-empty", "  "), ("x-bin", "IGEg"))
    assert got.status == Code.OK
    sent = dict(pod.streams[0].headers)
    assert [value for value in sent.values() if value != value.strip()] == []
    assert (sent["x-a"], sent["x-empty"], sent["x-bin"]) == ("10.0.0.1", "", "IGEg")
    assert (got.header("x-a"), got.header("x-b")) == ("a", "b")


@pytest.mark.parametrize("value", ["a\tb", "\xe9"])
def test_a_pod_s_metadata_that_is_no_text_is_left_out_and_its_answer_kept(lab: Lab, value: str) -> None:
    """gRPC allows no such value: no client on grpc core could read the answer."""
    assert_left_out(lab, value)


@on_grpc_core
@pytest.mark.parametrize("value", ["a\x01", "\x7f"])
def test_a_pod_s_metadata_that_http2_forbids_is_left_out_on_grpc_core(lab: Lab, value: str) -> None:
    """The http2 engine takes the whole answer for malformed (test_malformed.py)."""
    assert_left_out(lab, value)


def assert_left_out(lab: Lab, value: str) -> None:

    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("x-noise", value), ("x-kept", "yes"))
        stream.send_message(b"ok")
        stream.end(Code.NOT_FOUND, "none", ("x-noise-too", value), ("x-kept-too", "yes"))

    got = lab.raw_client(lab.gateway(lab.scripted_pod(answer))).call("Unary")
    assert (got.status, got.message) == (Code.NOT_FOUND, "none")
    assert (got.header("x-noise"), got.header("x-noise-too")) == (None, None)
    assert (got.header("x-kept"), got.header("x-kept-too")) == ("yes", "yes")


@on_grpc_core
@pytest.mark.parametrize("name", ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"])
def test_headers_of_the_connection_stay_on_it_both_ways(lab: Lab, name: str) -> None:
    def answer(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers((name, "x"), ("x-kept", "yes"))
        stream.send_message(b"ok")
        stream.end(0, "", (name, "x"), ("x-kept-too", "yes"))

    pod = lab.scripted_pod(answer)
    client = lenient(lab.raw_client(lab.gateway(pod)))
    got = client.call("Unary", (name, "x"), ("x-kept", "yes"))
    assert got.status == Code.OK
    sent = dict(pod.streams[0].headers)
    assert name not in sent
    assert sent["x-kept"] == "yes"
    assert got.header(name) is None
    assert (got.header("x-kept"), got.header("x-kept-too")) == ("yes", "yes")
