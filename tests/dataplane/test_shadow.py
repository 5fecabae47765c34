"""A shadow Mapping gets copies of RPCs, whole; whatever becomes of them, the originals are as they would be without."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from dataplane.configured import configured, who_answers
from dataplane.lab import Gateway, Lab, mapping
from dataplane.pods import Context, Gate, Pod
from dataplane.raw_client import Answer
from dataplane.scripted_pod import Script, ScriptedPod, Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.route import Route
from grpcgw.session.shadow_copy import MAX_HELD_BYTES
from grpcgw.telemetry.report import ShadowReport

REFUSED_STREAM = 7


class Recorder:
    """A pod's script that keeps what it was sent."""

    def __init__(self) -> None:
        self.received: list[list[bytes]] = []

    def __call__(self, stream: Stream) -> None:
        self.received.append(stream.read_all())
        stream.send_headers()
        stream.send_message(b"nobody hears this")
        stream.end()


def patient_pod(lab: Lab, name: str = "pod") -> Pod:
    """One that answers when it has the whole request. A busy grpc core may tell the gateway of a half-close after the
    pod's answer to the first message, and the copy of a request that was not over when its original was is cancelled.
    """

    def answer(requests: Iterator[bytes], _: Context) -> Iterator[bytes]:
        yield f"{name}:".encode() + b"".join(requests)

    def split(requests: Iterator[bytes], _: Context) -> Iterator[bytes]:
        yield from b"".join(requests).split(b",")

    return lab.pod(name, methods={"Unary": answer, "Split": split})


def shadowed(weight_percent: int = 100, timeout_ms: int | None = None) -> Route:
    """The Mapping `test` over `pods`, and its shadow over `shadows`."""
    (shadow,) = mapping(name="shadow", cluster="shadows", timeout_ms=timeout_ms).destinations
    return replace(mapping(), shadow=replace(shadow, weight=weight_percent))


def gateway_with(lab: Lab, pod: Pod | ScriptedPod, *shadows: Pod | ScriptedPod, route: Route | None = None) -> Gateway:
    return lab.gateway(routes=[route or shadowed()], clusters={"pods": (pod,), "shadows": shadows})


def copies(gateway: Gateway) -> ShadowReport:
    (report,) = gateway.serving.shadow_reports()
    return report


def wait_for_copies(gateway: Gateway, count: int) -> ShadowReport:
    """Until so many have ended, one way or the other."""

    def ended() -> bool:
        report = copies(gateway)
        return sum(report.codes.values()) + sum(report.dropped.values()) == count and not report.in_flight

    eventually(ended, lambda: str(copies(gateway)))
    return copies(gateway)


# --- what a copy is


@pytest.mark.parametrize(
    ("method", "messages"),
    [("Unary", [b"hi"]), ("Join", [b"a", b"", b"c"]), ("Split", [b"a,b"]), ("Chat", [b"x" * 30_000, b"y", b"z"])],
)
def test_every_kind_of_rpc_is_copied_with_all_its_messages(lab: Lab, method: str, messages: list[bytes]) -> None:
    recorder, pod = Recorder(), patient_pod(lab)
    shadow = lab.scripted_pod(recorder)
    gateway = gateway_with(lab, pod, shadow)
    client = lab.raw_client(gateway)
    for count in (1, 2):  # the second time the gateway knows the shape of the method
        answer = client.call(method, ("x-key", "value"), messages=messages)
        assert answer.status == 0
        assert b"nobody hears this" not in answer.data
        assert wait_for_copies(gateway, count).codes == {0: count}
    assert recorder.received == [messages, messages]
    for original, copied in zip(pod.calls, shadow.streams, strict=True):
        assert copied.header(":path") == f"/test.Pod/{method}"
        assert copied.header("x-key") == "value"
        assert [copied.header("x-request-id")] == original.values("x-request-id")


def test_authority_of_a_copy_says_that_it_is_one(lab: Lab) -> None:
    shadow = lab.scripted_pod(Recorder())
    (destination,) = mapping(name="shadow", cluster="shadows").destinations
    route = replace(mapping(), shadow=replace(destination, authority="greet.example:8443"))
    gateway = gateway_with(lab, lab.pod(), shadow, route=route)
    assert lab.raw_client(gateway).call("Unary").status == 0
    wait_for_copies(gateway, 1)
    assert shadow.streams[0].header(":authority") == "greet.example-shadow:8443"


@pytest.mark.parametrize(("weight_percent", "expected"), [(0, 0), (25, 5), (50, 10), (100, 20)])
def test_weight_is_the_exact_share_that_is_copied(lab: Lab, weight_percent: int, expected: int) -> None:
    shadow = lab.pod("shadow")
    gateway = gateway_with(lab, patient_pod(lab), shadow, route=shadowed(weight_percent))
    greet = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    for _ in range(20):
        assert greet(b"hi") == b"pod:hi"
    assert wait_for_copies(gateway, expected).codes == ({0: expected} if expected else {})
    assert len(shadow.calls) == expected


def test_copies_are_balanced_over_the_shadows_own_pods(lab: Lab) -> None:
    one, two = lab.pod("one"), lab.pod("two")
    gateway = gateway_with(lab, patient_pod(lab), one, two)
    gateway.wait_for_ready_pods(3)
    greet = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    for _ in range(10):
        greet(b"hi")
    wait_for_copies(gateway, 10)
    assert (len(one.calls), len(two.calls)) == (5, 5)


def test_an_original_that_is_tried_again_is_copied_once(lab: Lab) -> None:
    recorder = Recorder()

    def refuse(stream: Stream) -> None:
        stream.read_message()
        stream.reset(REFUSED_STREAM)

    refusing_pod, willing = lab.scripted_pod(refuse), lab.pod("willing")
    clusters = {"pods": (refusing_pod, willing), "shadows": (lab.scripted_pod(recorder),)}
    gateway = lab.gateway(routes=[shadowed()], clusters=clusters)
    gateway.wait_for_ready_pods(3)
    greet = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert [greet(b"hi") for _ in range(4)] == [b"willing:hi"] * 4
    assert refusing_pod.streams, "nothing was tried again"
    wait_for_copies(gateway, 4)
    assert recorder.received == [[b"hi"]] * 4


def test_a_copy_is_cancelled_with_its_original(lab: Lab) -> None:
    shadow = lab.scripted_pod()
    gateway = gateway_with(lab, lab.scripted_pod(), shadow)
    client = lab.raw_client(gateway)
    stream = client.request("Chat", messages=[b"one", b"two"], end=False)
    eventually(lambda: shadow.streams, "the copy has begun")
    copied = shadow.streams[0]
    assert [copied.read_message(), copied.read_message()] == [b"one", b"two"]
    client.cancel(stream)
    assert copied.wait_gone() is not None
    assert wait_for_copies(gateway, 1).codes == {1: 1}


# --- what becomes of copies is nobody's business


def hang_up(stream: Stream) -> None:
    stream.connection.close()


def send_garbage(stream: Stream) -> None:
    stream.send_headers()
    stream.send_data(b"\xff\xff\xff\xff\xff garbage that is no message")
    stream.wait_gone()


def speak_no_http(stream: Stream) -> None:
    with contextlib.suppress(OSError):  # so another stream has done
        stream.connection.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def flood(stream: Stream) -> None:
    stream.send_headers()
    while not stream.gone.is_set():
        stream.send_message(bytes(10_000))


BAD: dict[str, Script] = {
    "refuses": refusing(14, "go away"),
    "hangs": Stream.wait_gone,
    "resets": lambda stream: stream.reset(2),
    "refuses the stream": lambda stream: stream.reset(REFUSED_STREAM),
    "hangs up": hang_up,
    "answers garbage": send_garbage,
    "speaks no HTTP/2": speak_no_http,
    "ends without a status": lambda stream: (stream.send_headers(), stream.end_without_status())[0],
    "floods": flood,
}


def converse(lab: Lab, gateway: Gateway) -> list[object]:
    """Everything that a client sees of some RPCs, whether or not the machine is slow.

    Where a pod's headers and its status come apart, they are passed on so.
    """
    client = lab.raw_client(gateway)
    answers: list[Answer] = []
    for _ in range(2):
        answers += [
            client.call("Unary", messages=[b"hi"]),
            client.call("Join", messages=[b"a", b"b"]),
            client.call("Split", messages=[b"a,b,c"]),
            client.call("Chat", messages=[bytes(5000)] * 10),
            client.call("Fail", messages=[b"why"]),
            client.call("Unknown"),
        ]
    return [
        ([item for block in answer.blocks for item in block if item[0] != "grpc-accept-encoding"], answer.data)
        for answer in answers
    ]


def failing_pod(lab: Lab) -> Pod:
    def fail(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        assert list(requests) == [b"why"]
        yield b"some"
        context.set_trailing_metadata((("why-bin", b"\x00\xff"),))
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this")

    return lab.pod(methods={"Fail": fail})


@pytest.mark.parametrize("how", BAD)
def test_a_bad_shadow_changes_nothing_of_the_originals(lab: Lab, how: str) -> None:
    pod = failing_pod(lab)
    plain = converse(lab, lab.gateway(pod))
    gateway = gateway_with(lab, pod, lab.scripted_pod(BAD[how]), route=shadowed(timeout_ms=500))
    assert converse(lab, gateway) == plain
    eventually(lambda: gateway.in_flight() == 0)
    assert {report.mapping for report in gateway.serving.counters.reports()} == {"test.default"}


def test_a_dead_shadow_changes_nothing_of_the_originals(lab: Lab) -> None:
    pod, dead = failing_pod(lab), lab.scripted_pod()
    dead.stop()
    plain = converse(lab, lab.gateway(pod))
    gateway = gateway_with(lab, pod, dead)
    assert converse(lab, gateway) == plain
    assert wait_for_copies(gateway, len(plain)).codes == {14: len(plain)}


def test_a_shadow_that_cannot_be_connected_to_changes_nothing_of_the_originals(lab: Lab) -> None:
    pod = failing_pod(lab)
    plain = converse(lab, lab.gateway(pod))
    gateway = gateway_with(lab, pod, lab.scripted_pod(deaf=True), route=shadowed(timeout_ms=300))
    assert converse(lab, gateway) == plain
    codes = wait_for_copies(gateway, len(plain)).codes
    # CANCELLED: the original was over before it had all been sent. UNAVAILABLE: connecting timed out before the call.
    assert set(codes) <= {1, 4, 14}


def test_without_pods_of_the_shadow_copies_are_dropped_and_counted(lab: Lab) -> None:
    pod = failing_pod(lab)
    plain = converse(lab, lab.gateway(pod))
    gateway = gateway_with(lab, pod)
    assert converse(lab, gateway) == plain
    assert wait_for_copies(gateway, len(plain)).dropped == {"no-endpoints": len(plain)}


def test_a_copy_whose_pod_reads_nothing_is_dropped_and_its_original_goes_on(lab: Lab) -> None:
    gate = Gate()

    def read_nothing(_: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gate.hold(context)
        return iter(())

    gateway = gateway_with(lab, lab.pod(), lab.pod(methods={"Chat": read_nothing}))
    message = bytes(1 << 20)
    count = 3 * MAX_HELD_BYTES // len(message)
    sizes = [len(reply) for reply in lab.channel(gateway).stream_stream("/test.Pod/Chat")(iter([message] * count))]
    assert sizes == [len(message)] * count
    assert wait_for_copies(gateway, 1).dropped == {"too-slow": 1}
    assert gate.cancelled.wait(PATIENCE_S)


# --- how long a copy lives


def test_a_copy_may_answer_after_its_original(lab: Lab) -> None:
    answer = threading.Event()
    lab.defer(answer.set)

    def answer_late(stream: Stream) -> None:
        stream.read_all()
        assert answer.wait(PATIENCE_S)
        stream.send_headers()
        stream.end()

    gateway = gateway_with(lab, patient_pod(lab), lab.scripted_pod(answer_late))
    assert lab.raw_client(gateway).call("Unary").status == 0
    eventually(lambda: gateway.codes("Unary") == {0: 1})
    assert copies(gateway).in_flight == 1
    answer.set()
    assert wait_for_copies(gateway, 1).codes == {0: 1}


def test_timeout_of_the_shadow_is_its_copies_alone(lab: Lab) -> None:
    pod, copied = lab.scripted_pod(refusing(0)), lab.scripted_pod()
    gateway = gateway_with(lab, pod, copied, route=shadowed(timeout_ms=100))
    assert lab.raw_client(gateway).call("Unary").status == 0
    assert wait_for_copies(gateway, 1).codes == {4: 1}
    assert copied.streams[0].header("grpc-timeout") is not None
    assert pod.streams[0].header("grpc-timeout") is None


def test_a_drain_ends_copies_at_once_and_lets_originals_finish(lab: Lab) -> None:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        gate.hold(context)
        yield b"done"

    lab.defer(gate.open)
    shadow = lab.scripted_pod()
    gateway = gateway_with(lab, lab.pod(methods={"Hold": hold}), shadow)
    replies = lab.channel(gateway).unary_stream("/test.Pod/Hold")(b"")
    assert next(replies) == b"started"
    eventually(lambda: shadow.streams, "the copy has begun")
    draining = threading.Thread(target=gateway.engine.drain, args=(PATIENCE_S,))
    draining.start()
    shadow.streams[0].wait_gone()
    assert wait_for_copies(gateway, 1).dropped == {"draining": 1}
    gate.open()
    assert list(replies) == [b"done"]
    draining.join(PATIENCE_S)


def test_a_gateway_stops_with_copies_that_hang(lab: Lab) -> None:
    shadow = lab.scripted_pod()
    gateway = gateway_with(lab, lab.pod(), shadow)
    client = lab.raw_client(gateway)
    for _ in range(5):
        assert client.call("Unary").status == 0
    eventually(lambda: len(shadow.streams) == 5)
    gateway.stop()
    assert copies(gateway).in_flight == 0


def test_pods_of_a_shadow_may_leave_under_copies(lab: Lab) -> None:
    shadow = lab.scripted_pod()
    gateway = lab.gateway(
        routes=[shadowed()], clusters={"pods": (patient_pod(lab),), "shadows": (shadow,)}, drain_time_s=0.1
    )
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == 0
    eventually(lambda: shadow.streams)
    gateway.set_pods(cluster="shadows")
    assert client.call("Unary").status == 0
    report = wait_for_copies(gateway, 2)
    assert (report.codes, report.dropped) == ({14: 1}, {"no-endpoints": 1})


def test_a_shadow_comes_and_goes_by_configuration(lab: Lab) -> None:
    shadow = lab.pod("shadow")
    gateway = gateway_with(lab, patient_pod(lab), shadow)
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == 0
    wait_for_copies(gateway, 1)
    gateway.route(mapping())
    assert client.call("Unary").status == 0
    gateway.route(shadowed())
    gateway.serving.set_endpoints("shadows", EndpointSet((Endpoint("127.0.0.1", shadow.port),)), 0.0)
    assert client.call("Unary").status == 0
    assert wait_for_copies(gateway, 2).codes == {0: 2}
    assert len(shadow.calls) == 2


def test_a_shadow_of_ambassadors_yaml_gets_its_share_with_settings_of_its_own(lab: Lab) -> None:
    recorder = Recorder()
    copied = lab.scripted_pod(recorder)
    gateway = configured(
        lab,
        """
        metadata: {name: real}
        spec: {service: real}
        ---
        metadata: {name: copy}
        spec:
          service: copies
          shadow: true
          weight: 50
          rewrite: /other.Service/
          add_request_headers: {x-shadow: "yes"}
        """,
        real=patient_pod(lab, "real"),
        copies=copied,
    )
    client = lab.raw_client(gateway)
    assert [who_answers(client) for _ in range(10)] == ["real"] * 10
    assert wait_for_copies(gateway, 5).codes == {0: 5}
    assert {stream.header(":path") for stream in copied.streams} == {"/other.Service/Unary"}
    assert {stream.header("x-shadow") for stream in copied.streams} == {"yes"}
