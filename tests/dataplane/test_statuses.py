"""A pod's status passes untouched; one of the gateway's own is trailers-only and says why and by which Mapping."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import grpc
import pytest

from dataplane.lab import Lab, mapping, snapshot
from dataplane.pods import Context, Gate
from dataplane.raw_client import Answer
from dataplane.scripted_pod import Stream, frame, refusing
from grpcgw.engines.generic_handler.pod_attempt import LOST_STATUS_S, WRITE_FAILED
from grpcgw.model.route import Unenforced

NO_ERROR, REFUSED_STREAM = 0, 7
CANCELLED, UNKNOWN, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 1, 2, 4, 7, 8
UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 12, 13, 14
DETAILS = b"\x08\x05\x12\x03abc\xff\x00"


def assert_gateway_made(answer: Answer, status: int, reason: str, *words: str) -> None:
    assert (answer.status, answer.header("x-grpcgw-reason")) == (status, reason), answer
    for word in words:
        assert word in answer.message
    assert answer.trailers_only, answer


def test_what_is_to_decide_on_a_mappings_calls_and_cannot_be_asked_refuses_them(lab: Lab) -> None:
    pod = lab.pod("a")
    (destination,) = mapping().destinations
    guarded = replace(
        mapping(), destinations=(replace(destination, policies=(Unenforced(name="AuthService auth.default"),)),)
    )
    bypassing = mapping("/test.Pod/Unary", "bypassing")
    gateway = lab.gateway(pod, configuration=snapshot(bypassing, guarded))
    with lab.raw_client(gateway) as client:
        assert client.call("Unary").status == 0
        refused = client.call("ServerStream")
        assert_gateway_made(refused, UNAVAILABLE, "not-enforced", "test.default", "AuthService auth.default")
    assert [call.method for call in pod.calls] == ["/test.Pod/Unary"], "no pod sees a call that is refused"


# --- the pod's own


def text(lab: Lab, code: int, message: str) -> str:
    """What an engine keeps of a status message: on grpc core none of an OK."""
    return "" if lab.on_grpc_core and not code else message


def test_a_pod_that_says_what_grpc_says_of_a_write_is_answered_with_at_once(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.scripted_pod(refusing(INTERNAL, WRITE_FAILED))))

    def duration_s() -> float:
        began_s = time.monotonic()
        answer = client.call("Unary")
        assert (answer.status, answer.message) == (INTERNAL, WRITE_FAILED)
        return time.monotonic() - began_s

    assert min(duration_s() for _ in range(5)) < LOST_STATUS_S


@pytest.mark.parametrize("code", range(17))
def test_status_of_a_pod_passes(lab: Lab, code: int) -> None:
    def end(stream: Stream) -> None:
        stream.send_headers()
        stream.end(code, "so%20it%20is", ("x-trailer", "kept"))

    answer = lab.raw_client(lab.gateway(lab.scripted_pod(end))).call("Unary")
    assert (answer.status, answer.message, answer.header("x-trailer")) == (code, text(lab, code, "so it is"), "kept")
    assert answer.header("x-grpcgw-reason") is None


@pytest.mark.parametrize("code", range(17))
def test_trailers_only_of_a_pod_stays_trailers_only(lab: Lab, code: int) -> None:
    """Clients retry on it (gRFC A6): a header block sent ahead would take that from them."""
    pod = lab.scripted_pod(refusing(code, "no%20way", ("x-trailer", "kept")))
    client = lab.raw_client(lab.gateway(pod))
    for _ in range(2):
        answer = client.call("Unary")
        assert (answer.status, answer.message, answer.header("x-trailer")) == (code, text(lab, code, "no way"), "kept")
        assert answer.trailers_only
    assert answer.header("x-grpcgw-reason") is None
    assert len(pod.streams) == 2, "a pod's status is never retried without configuration"


def test_code_that_grpc_does_not_know_passes(lab: Lab) -> None:
    """A client takes it for UNKNOWN (grpc `statuscodes`), and so does grpc core on the way."""
    answer = lab.raw_client(lab.gateway(lab.scripted_pod(refusing(42, "odd")))).call("Unary")
    assert (answer.status, answer.message) == (UNKNOWN if lab.on_grpc_core else 42, "odd")


def test_headers_ahead_of_an_answer_stay_behind(lab: Lab) -> None:
    """103 and its like (RFC 9113, 8.1): a hop before the pod may send them."""

    def answer(stream: Stream) -> None:
        stream.read_all()
        for status in ("100", "103"):
            stream.send_headers(("x-early", "1"), status=status)
        stream.send_headers()
        stream.send_message(b"ok")
        stream.end()

    got = lab.raw_client(lab.gateway(lab.scripted_pod(answer))).call("Unary")
    assert (got.status, got.data, got.header("x-early")) == (0, frame(b"ok"), None)


def test_the_length_that_a_pod_declares_does_not_cross(lab: Lab) -> None:
    """An answer that ends before it would be malformed for the client, which then got no status."""

    def break_off(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers(("content-length", "1000"))
        stream.send_message(b"one")
        stream.wait_gone()

    client = lab.raw_client(lab.gateway(lab.scripted_pod(break_off), routes=[mapping(timeout_ms=100)]))
    answer = client.call("Unary")
    assert (answer.status, answer.data, answer.header("content-length")) == (DEADLINE_EXCEEDED, frame(b"one"), None)


def test_headers_and_status_without_a_message_stay_two_blocks(lab: Lab) -> None:
    def end(stream: Stream) -> None:
        stream.read_all()  # grpc.aio forgets the headers where a write fails meanwhile
        stream.send_headers(("x-header", "here"))
        stream.end(5, "nothing")

    answer = lab.raw_client(lab.gateway(lab.scripted_pod(end))).call("Unary")
    assert len(answer.blocks) == 2
    assert ("x-header", "here") in answer.blocks[0]
    assert (answer.status, answer.message) == (5, "nothing")


def test_status_details_and_text_beyond_ascii_pass(lab: Lab) -> None:
    def refuse(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        context.set_trailing_metadata((("grpc-status-details-bin", DETAILS), ("x-more", "1")))
        yield b"one"
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Prüfung 100% ✓ nein\n2nd line")

    channel = lab.channel(lab.gateway(lab.pod(methods={"Refuse": refuse})))
    call = channel.unary_stream("/test.Pod/Refuse")(b"")
    assert next(call) == b"one"
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert call.details() == "Prüfung 100% ✓ nein\n2nd line"
    assert dict(call.trailing_metadata()) == {"grpc-status-details-bin": DETAILS, "x-more": "1"}


def test_pod_that_refuses_without_hearing_the_rpc_out_is_understood(lab: Lab) -> None:
    """The status arrives while the gateway still writes, as of a pod that checks a token first."""
    pods = [lab.scripted_pod(lambda stream: stream.end_at_once(16, "who are you")) for _ in range(2)]
    channel = lab.channel(lab.gateway(*pods))
    for number in range(60):
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/test.Pod/Unary")(bytes(1000 * number))
        assert refused.value.details() == "who are you"
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.fixture
def threads_in_turns() -> Iterator[None]:
    """Threads change places as often as they can: what two of them do is mixed in every order."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("threads_in_turns")
def test_status_of_a_pod_counts_in_whatever_order_it_and_a_failed_write_are_reported(lab: Lab) -> None:
    """The loops of two gateways share grpc.aio's events: one may report a failed write before the other the status."""
    pod = lab.pod()  # a grpc server refuses an unknown method before it has read a message
    methods = [lab.channel(lab.gateway(pod)).unary_unary("/test.Pod/Unknown") for _ in range(2)]
    for _ in range(30):
        calls = [method.future(b"") for _ in range(16) for method in methods]
        assert {call.details() for call in calls} == {"Method not found!"}


def test_all_replies_of_a_pod_that_ends_an_rpc_without_reading_it_arrive(lab: Lab) -> None:
    def answer(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield from (b"1", b"2", b"3")
        context.abort(grpc.StatusCode.NOT_FOUND, "no more")

    method = lab.channel(lab.gateway(lab.pod(methods={"Answer": answer}))).stream_stream("/test.Pod/Answer")
    for _ in range(40):
        call = method(iter([b"a", b"b", b"c"]))
        replies = []
        with pytest.raises(grpc.RpcError):
            replies.extend(call)
        assert (replies, call.details()) == ([b"1", b"2", b"3"], "no more")


def test_unknown_method_is_the_pods_to_refuse(lab: Lab) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        lab.channel(lab.gateway(lab.pod())).unary_unary("/test.Pod/Nothing")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert not refused.value.trailing_metadata()


# --- the gateway's own


def test_no_mapping_is_unimplemented(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(lab.pod(), routes=[mapping("/other.Pod/")]))
    assert_gateway_made(client.call("Unary"), UNIMPLEMENTED, "no-mapping", "/test.Pod/Unary")


def test_no_endpoints_is_unavailable(lab: Lab) -> None:
    assert_gateway_made(
        lab.raw_client(lab.gateway()).call("Unary"), UNAVAILABLE, "no-endpoints", "test.default", "pods.test:50051"
    )


def test_unknown_endpoints_are_unavailable(lab: Lab) -> None:
    client = lab.raw_client(lab.gateway(clusters={}))
    assert_gateway_made(client.call("Unary"), UNAVAILABLE, "no-endpoints", "test.default", "not known yet")


def test_refused_connection_is_unavailable(lab: Lab) -> None:
    pod = lab.scripted_pod()
    pod.stop()
    answer = lab.raw_client(lab.gateway(pod)).call("Unary")
    assert_gateway_made(answer, UNAVAILABLE, "connect-failed", "test.default", str(pod.endpoint))


def reset(code: int) -> Callable[[Stream], None]:
    def script(stream: Stream) -> None:
        stream.read_message()
        stream.reset(code)

    return script


def close_connection(stream: Stream) -> None:
    stream.read_message()
    stream.connection.close()


def garbage(stream: Stream) -> None:
    stream.read_message()
    stream.connection.write(b"\x00\x00\x05\x09\x04\x00\x00\x00\x01HELLO HTTP/1.1 teapot\r\n" * 20)


def broken_message(stream: Stream) -> None:
    stream.send_headers()
    stream.send_data(b"\xff" + frame(b"hello")[1:])
    stream.wait_gone()


@pytest.mark.parametrize(
    ("script", "status", "reason"),
    [
        pytest.param(reset(2), INTERNAL, "stream-reset", id="reset with INTERNAL_ERROR"),
        pytest.param(reset(0), INTERNAL, "stream-reset", id="reset with NO_ERROR"),
        pytest.param(reset(8), CANCELLED, "stream-reset", id="reset with CANCEL"),
        pytest.param(reset(11), RESOURCE_EXHAUSTED, "stream-reset", id="reset with ENHANCE_YOUR_CALM"),
        pytest.param(reset(12), PERMISSION_DENIED, "stream-reset", id="reset with INADEQUATE_SECURITY"),
        pytest.param(close_connection, UNAVAILABLE, "connection-lost", id="connection closed"),
        pytest.param(garbage, None, None, id="garbage"),
    ],
)
def test_pod_that_fails_before_its_headers(
    lab: Lab, script: Callable[[Stream], None], status: int | None, reason: str | None
) -> None:
    """The pod had the RPC: it is never tried again, though another pod is there."""
    pod, other = lab.scripted_pod(script), lab.scripted_pod(script)
    answer = lab.raw_client(lab.gateway(pod, other)).call("Unary")
    assert answer.trailers_only
    assert "test.default" in answer.message
    if status is None:
        assert answer.status in (INTERNAL, UNAVAILABLE)
        assert answer.header("x-grpcgw-reason") in ("bad-response", "connection-lost")
    else:
        assert_gateway_made(answer, status, reason or "")
    assert len(pod.streams) + len(other.streams) == 1


HTTP_STATUSES = {
    400: INTERNAL,
    401: 16,
    403: 7,
    404: UNIMPLEMENTED,
    409: UNKNOWN,
    412: UNKNOWN,
    413: UNKNOWN,
    418: UNKNOWN,
    429: UNAVAILABLE,
    431: UNKNOWN,
    500: UNKNOWN,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
    505: UNKNOWN,
}
"""grpc `doc/http-grpc-status-mapping.md`."""


def answer_http(stream: Stream) -> None:
    """As a hop before the pod does. The method's name says with which status, and what comes with it."""
    _, number, body = (stream.header(":path") or "").rpartition("/")[2].split("_")
    stream.read_all()
    if body == "alone":
        stream.end_http(number)
        return
    stream.send_headers(status=number)
    stream.send_data(b"no healthy upstream")
    if body == "reset":
        stream.reset(NO_ERROR)
    else:
        stream.end_without_status()


@pytest.mark.parametrize("body", ["alone", "body", "reset"])
def test_http_status_of_a_hop_before_the_pod_is_grpcs_for_it(lab: Lab, body: str) -> None:
    client = lab.raw_client(lab.gateway(lab.scripted_pod(answer_http)))
    codes = {number: client.call(f"Http_{number}_{body}").status for number in HTTP_STATUSES}
    assert codes == HTTP_STATUSES


def end_data(stream: Stream) -> None:
    stream.send_headers()
    stream.send_message(b"x")
    stream.end_without_status()


def end_headers(stream: Stream) -> None:
    stream.connection.act(
        lambda h2c: h2c.send_headers(
            stream.number, [(":status", "200"), ("content-type", "application/grpc")], end_stream=True
        )
    )


def end_trailers(stream: Stream) -> None:
    stream.send_headers()
    stream.send_message(b"x")
    stream.connection.act(lambda h2c: h2c.send_headers(stream.number, [("x-other", "1")], end_stream=True))


@pytest.mark.parametrize("end", [end_data, end_headers, end_trailers])
def test_answer_without_a_status_is_unknown(lab: Lab, end: Callable[[Stream], None]) -> None:
    """grpc `http-grpc-status-mapping`: HTTP 200 without `grpc-status`."""
    answer = lab.raw_client(lab.gateway(lab.scripted_pod(end))).call("Unary")
    assert answer.status == UNKNOWN
    assert answer.header("x-grpcgw-reason") == lab.reason_after_headers("no-status")


def test_a_pod_that_refuses_the_stream_after_its_headers_had_the_rpc(lab: Lab) -> None:
    """It is not sent to another pod: the headers, which no client has yet, prove that a handler may have run."""

    def answer_and_refuse(stream: Stream) -> None:
        stream.read_all()
        stream.connection.act(
            lambda h2c: (
                h2c.send_headers(stream.number, [(":status", "200"), ("content-type", "application/grpc")]),
                h2c.reset_stream(stream.number, REFUSED_STREAM),
            )
        )

    pods = [lab.scripted_pod(answer_and_refuse) for _ in range(2)]
    answer = lab.raw_client(lab.gateway(*pods)).call("Unary")
    assert answer.header("x-grpcgw-reason") == lab.reason_after_headers("stream-reset")
    assert sum(len(pod.streams) for pod in pods) == 1


def test_bytes_that_are_no_message_end_with_the_idle_timeout(lab: Lab) -> None:
    """grpc core reports neither them nor an end: to the gateway the pod is quiet. The http2 engine passes them on, and
    the pod is quiet after them."""
    client = lab.raw_client(lab.gateway(lab.scripted_pod(broken_message), routes=[mapping(idle_timeout_ms=150)]))
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (DEADLINE_EXCEEDED, "idle-timeout")


@pytest.mark.parametrize(
    ("failure", "code", "reason"),
    [
        pytest.param(reset(2), grpc.StatusCode.INTERNAL, "stream-reset", id="reset"),
        pytest.param(reset(7), grpc.StatusCode.UNAVAILABLE, "stream-reset", id="reset with REFUSED_STREAM"),
        pytest.param(reset(8), grpc.StatusCode.CANCELLED, "stream-reset", id="reset with CANCEL"),
        pytest.param(close_connection, grpc.StatusCode.UNAVAILABLE, "connection-lost", id="connection closed"),
        pytest.param(garbage, grpc.StatusCode.UNAVAILABLE, "connection-lost", id="garbage"),
    ],
)
def test_pod_that_fails_in_the_middle_of_a_stream_ends_it_with_a_status(
    lab: Lab, failure: Callable[[Stream], None], code: grpc.StatusCode, reason: str
) -> None:
    """What came before is kept. grpc core makes UNKNOWN of garbage."""

    def fail_later(stream: Stream) -> None:
        stream.send_headers()
        stream.send_message(b"one")
        stream.send_message(b"two")
        failure(stream)

    channel = lab.channel(lab.gateway(lab.scripted_pod(fail_later)))
    acknowledged = Gate()

    def requests() -> Iterator[bytes]:
        acknowledged._open.wait()
        yield b"now fail"

    call = channel.stream_stream("/test.Pod/Chat")(requests())
    assert [next(call), next(call)] == [b"one", b"two"]
    acknowledged.open()
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is (grpc.StatusCode.UNKNOWN if lab.on_grpc_core and failure is garbage else code)
    assert dict(call.trailing_metadata()).get("x-grpcgw-reason") == lab.reason_after_headers(reason)


@pytest.mark.parametrize("number", ["banana", "-1", ""])
def test_pod_status_that_is_no_number_is_unknown(lab: Lab, number: str) -> None:
    answer = lab.raw_client(lab.gateway(lab.scripted_pod(refusing(number)))).call("Unary")
    assert_gateway_made(answer, UNKNOWN, "no-status", "test.default")


def test_pod_that_says_unavailable_in_words_of_grpc_core_is_still_the_pods(lab: Lab) -> None:
    """A pod that is a proxy itself may tell of a connection of its own."""

    def complain(stream: Stream) -> None:
        stream.send_headers()
        stream.end(UNAVAILABLE, "failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.9:80")

    pod, other = lab.scripted_pod(complain), lab.scripted_pod(complain)
    answer = lab.raw_client(lab.gateway(pod, other)).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, None)
    assert len(pod.streams) + len(other.streams) == 1
