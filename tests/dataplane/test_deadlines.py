"""Deadlines travel on and only ever shrink; quiet streams end; every end by time says whose time it was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from dataplane.lab import Lab, mapping, on_http2
from dataplane.pods import Context, Gate
from dataplane.scripted_pod import Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually

UNIT_MS = {"n": 1e-6, "u": 1e-3, "m": 1, "S": 1_000, "M": 60_000, "H": 3_600_000}
CANCEL, DEADLINE_EXCEEDED = 8, 4


def timeout_ms(stream: Stream) -> float | None:
    """`grpc-timeout` as it came to the pod."""
    text = stream.header("grpc-timeout")
    return None if text is None else int(text[:-1]) * UNIT_MS[text[-1]]


def answer_ok(stream: Stream) -> None:
    stream.send_headers()
    stream.send_message(b"ok")
    stream.end()


SENT = ["900m", "999m", "1001m", "1999m", "2000m", "2001m", "9999m", "10001m", "12345m", "99999m", "100001m", "123456m"]
SENT += ["1S", "7S", "61S", "999S", "1001S", "3601S", "99999S", "1M", "61M", "1441M", "1H", "25H", "999H"]


def test_remaining_time_travels_on_and_never_grows(lab: Lab) -> None:
    pod = lab.scripted_pod(answer_ok)
    client = lab.raw_client(lab.gateway(pod))
    for text in SENT:
        began_s = time.monotonic()
        answer = client.call("Unary", ("grpc-timeout", text))
        took_ms = (time.monotonic() - began_s) * 1000
        given_ms = int(text[:-1]) * UNIT_MS[text[-1]]
        if answer.status != 0:
            assert took_ms > given_ms  # a very busy machine
            continue
        seen_ms = timeout_ms(pod.streams[-1])
        assert seen_ms is not None
        assert seen_ms <= given_ms, text
        assert seen_ms >= 0.9 * (given_ms - took_ms) - 20, text


def test_no_deadline_stays_no_deadline(lab: Lab) -> None:
    pod = lab.scripted_pod(answer_ok)
    assert lab.raw_client(lab.gateway(pod)).call("Unary").status == 0
    assert timeout_ms(pod.streams[0]) is None


@pytest.mark.parametrize(
    ("client", "gateway_ms", "at_most_ms"), [(None, 5_000, 5_000), ("60S", 5_000, 5_000), ("3S", 60_000, 3_000)]
)
def test_mapping_timeout_only_shortens(lab: Lab, client: str | None, gateway_ms: int, at_most_ms: int) -> None:
    pod = lab.scripted_pod(answer_ok)
    sender = lab.raw_client(lab.gateway(pod, routes=[mapping(timeout_ms=gateway_ms)]))
    sender.call("Unary", *([("grpc-timeout", client)] if client else []))
    seen_ms = timeout_ms(pod.streams[0])
    assert seen_ms is not None
    assert seen_ms <= at_most_ms


def test_mapping_timeout_ends_the_rpc_on_both_sides(lab: Lab) -> None:
    pod = lab.scripted_pod()
    answer = lab.raw_client(lab.gateway(pod, routes=[mapping(timeout_ms=500)])).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "timeout")
    assert "test.default" in answer.message
    assert "timeout_ms 500" in answer.message
    assert answer.trailers_only
    pod.streams[0].wait_gone()


def test_mapping_timeout_bounds_a_busy_stream_too(lab: Lab) -> None:
    def talk(stream: Stream) -> None:
        stream.send_headers()
        while not stream.gone.wait(0.01):
            stream.send_message(b"tick")

    answer = lab.raw_client(lab.gateway(lab.scripted_pod(talk), routes=[mapping(timeout_ms=1000)])).call("Watch")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "timeout")
    assert answer.data


def test_timeout_of_a_client_that_says_nothing_is_noticed(lab: Lab) -> None:
    """No pod has the RPC yet: there the deadline is the gateway's to keep."""
    client = lab.raw_client(lab.gateway(lab.scripted_pod(), routes=[mapping(timeout_ms=150)]))
    answer = client.finish(client.request("Join", messages=(), end=False))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "timeout")


@on_http2
def test_an_rpc_whose_deadline_has_passed_reaches_no_pod(lab: Lab) -> None:
    """Its client has given it up: what the pod did for it would be done for nobody."""
    pod = lab.scripted_pod(refusing(0))
    client = lab.raw_client(lab.gateway(pod))
    answers = [client.call("Unary", ("grpc-timeout", "0m")) for _ in range(20)]
    assert {(answer.status, answer.header("x-grpcgw-reason")) for answer in answers} == {(4, "client-deadline")}
    assert pod.streams == []


def test_client_deadline_ends_the_rpc_on_both_sides(lab: Lab) -> None:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        return iter(())

    channel = lab.channel(lab.gateway(lab.pod(methods={"Hold": hold})))
    call = channel.unary_stream("/test.Pod/Hold")(b"", timeout=1.5)
    with pytest.raises(grpc.RpcError):
        next(call)
    assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert gate.cancelled.wait(PATIENCE_S)


def test_pod_that_notices_the_deadline_first_and_cancels_is_the_deadline(lab: Lab) -> None:
    """As Envoy and others do."""

    def cancel_at_the_deadline(stream: Stream) -> None:
        stream.gone.wait(((timeout_ms(stream) or 0) - 1) / 1000)
        stream.reset(CANCEL)

    client = lab.raw_client(lab.gateway(lab.scripted_pod(cancel_at_the_deadline)))
    answers = {client.call("Unary", ("grpc-timeout", f"{40 + number}m")).status for number in range(20)}
    assert answers == {DEADLINE_EXCEEDED}


def test_pods_own_deadline_exceeded_passes(lab: Lab) -> None:
    pod = lab.scripted_pod(refusing(4, "my database is slow"))
    answer = lab.raw_client(lab.gateway(pod)).call("Unary", ("grpc-timeout", "60S"))
    assert (answer.status, answer.message, answer.header("x-grpcgw-reason")) == (4, "my database is slow", None)


def test_quiet_stream_is_ended_before_the_pod_answers(lab: Lab) -> None:
    pod = lab.scripted_pod()
    answer = lab.raw_client(lab.gateway(pod, routes=[mapping(idle_timeout_ms=500)])).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "idle-timeout")
    assert "test.default" in answer.message
    assert answer.trailers_only
    assert pod.streams[0].wait_gone() == CANCEL


def test_quiet_stream_is_ended_after_headers_and_messages(lab: Lab) -> None:
    def talk_then_stop(stream: Stream) -> None:
        stream.send_headers()
        stream.send_message(b"one")
        stream.wait_gone()

    pod = lab.scripted_pod(talk_then_stop)
    client = lab.raw_client(lab.gateway(pod, routes=[mapping(idle_timeout_ms=700)]))
    answer = client.finish(client.request("Chat", messages=(b"hello",), end=False))
    assert (answer.status, answer.header("x-grpcgw-reason")) == (4, "idle-timeout")
    assert answer.data.endswith(b"one")
    assert pod.streams[0].wait_gone() == CANCEL


def test_stream_with_one_busy_direction_is_not_idle(lab: Lab) -> None:
    """One where only the client speaks and one where only the pod does outlive the idle timeout side by side."""
    idle_timeout_s = 2.0
    never = threading.Event()

    def ticks() -> Iterator[bytes]:
        until_s = time.monotonic() + 1.2 * idle_timeout_s
        while time.monotonic() < until_s:
            yield b"tick"
            never.wait(0.02)

    def listen(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"%d" % sum(1 for _ in requests)

    def talk(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        return ticks()

    pod = lab.pod(methods={"Listen": listen, "Talk": talk})
    channel = lab.channel(lab.gateway(pod, routes=[mapping(idle_timeout_ms=round(1000 * idle_timeout_s))]))
    said = channel.stream_stream("/test.Pod/Listen")(ticks())
    heard = channel.unary_stream("/test.Pod/Talk")(b"")
    assert set(heard) == {b"tick"}
    assert int(next(said)) > 1


def test_stream_without_idle_timeout_stays(lab: Lab) -> None:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        yield b"still here"

    pod = lab.pod(methods={"Hold": hold})
    routes = [mapping(), mapping("/short.Pod/", name="short", idle_timeout_ms=50, rewrite="/test.Pod/")]
    gateway = lab.gateway(pod, routes=routes)
    long = lab.channel(gateway).unary_stream("/test.Pod/Hold")(b"")
    assert gate.reached.wait(PATIENCE_S)
    short = lab.raw_client(gateway)
    stream = short.request("Hold")  # of the patient Mapping: what sweeps the other one must spare it
    eventually(lambda: len(pod.calls) == 2)
    with pytest.raises(grpc.RpcError) as ended:
        lab.channel(gateway).unary_unary("/short.Pod/Hold")(b"")
    assert dict(ended.value.trailing_metadata())["x-grpcgw-reason"] == "idle-timeout"
    gate.open()
    assert list(long) == [b"still here"]
    assert short.finish(stream).status == 0
