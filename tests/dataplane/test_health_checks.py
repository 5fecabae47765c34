"""Active health checks: a pod that its own health service calls bad gets no RPCs until it is well again."""

from __future__ import annotations

import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab, on_http2
from dataplane.pods import Context, Gate, Pod
from dataplane.scripted_pod import Stream
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.engines.http2.pod_connection import MAX_LINKS

CHECK = "/grpc.health.v1.Health/Check"
CHECKED = """
    metadata: {name: test}
    spec:
      service: pods:50051
      health_checks:
      - {health_check: {grpc: {upstream_name: test.Pod, authority: health.test}}, interval: 20ms, timeout: 10s}
"""


class Health:
    """A pod's health service; notes what it was asked."""

    def __init__(self, status: int = HealthCheckResponse.SERVING) -> None:
        self.status = status
        self.asked: list[str] = []

    def __call__(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        self.asked.append(HealthCheckRequest.FromString(next(requests)).service)
        yield HealthCheckResponse(status=self.status).SerializeToString()


def pod_with(lab: Lab, name: str, health: Health) -> Pod:
    return lab.pod(name, {CHECK: health})


def notes(gateway: Gateway) -> dict[str, str]:
    return {report.address: report.note for report in gateway.serving.clusters.pod_reports()}


def answers(lab: Lab, gateway: Gateway, count: int = 6) -> set[bytes]:
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    return {call(b"") for _ in range(count)}


def test_pod_that_says_it_is_not_serving_gets_no_rpcs_says_why_and_comes_back(lab: Lab) -> None:
    health = Health()
    well, sick = pod_with(lab, "well", Health()), pod_with(lab, "sick", health)
    gateway = configured(lab, CHECKED, pods=[well, sick])
    assert answers(lab, gateway) == {b"well:", b"sick:"}
    health.status = HealthCheckResponse.NOT_SERVING
    eventually(lambda: notes(gateway)[str(sick.endpoint)], "the pod is found bad")
    assert notes(gateway) == {
        str(well.endpoint): "",
        str(sick.endpoint): "unhealthy: the pod says NOT_SERVING of test.Pod",
    }
    assert answers(lab, gateway) == {b"well:"}
    health.status = HealthCheckResponse.SERVING
    eventually(lambda: not notes(gateway)[str(sick.endpoint)], "the pod is found well again")
    assert answers(lab, gateway) == {b"well:", b"sick:"}
    asked = [seen for seen in sick.calls if seen.method == CHECK]
    assert asked[0].time_left_s is not None
    assert 5 < asked[0].time_left_s < 11
    assert set(health.asked) == {"test.Pod"}


@pytest.mark.parametrize(
    ("behaviour", "why"),
    [
        ({}, "the pod does not serve grpc.health.v1.Health"),
        ({CHECK: lambda requests, context: iter(())}, "the pod says UNKNOWN of test.Pod"),
        ({CHECK: lambda requests, context: iter([b"\xff"])}, "the pod's answer is no HealthCheckResponse"),
        (
            {CHECK: lambda requests, context: context.abort(grpc.StatusCode.NOT_FOUND, "")},
            "the pod's health service does not know 'test.Pod'",
        ),
        ({CHECK: lambda requests, context: context.abort(grpc.StatusCode.INTERNAL, "broken")}, "INTERNAL: broken"),
    ],
)
def test_pod_that_cannot_tell_is_bad(lab: Lab, behaviour: dict[str, object], why: str) -> None:
    pod = lab.pod("a", behaviour)  # type: ignore[arg-type]  # one behaviour each
    gateway = configured(lab, CHECKED, pods=pod)
    eventually(lambda: notes(gateway)[str(pod.endpoint)] == f"unhealthy: {why}", lambda: str(notes(gateway)))
    with lab.raw_client(gateway) as client:
        answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (14, "no-endpoints")
    assert why in str(answer.header("grpc-message"))


def test_pod_that_never_answers_is_bad_after_the_timeout(lab: Lab) -> None:
    gates: list[Gate] = []

    def hang(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        gates.append(gate := Gate())  # one for each check: a gate stays open after its RPC was cancelled
        lab.defer(gate.open)
        gate.hold(context)
        return iter(())

    pod = lab.pod("a", {CHECK: hang})
    gateway = configured(lab, CHECKED.replace("10s", "50ms"), pods=pod)
    eventually(lambda: notes(gateway)[str(pod.endpoint)] == "unhealthy: no answer within 50 ms")
    assert gates[0].cancelled.wait(PATIENCE_S)


@on_http2
def test_a_pod_whose_streams_are_used_up_is_not_bad_for_it(lab: Lab) -> None:
    """Its RPCs wait for a stream, and so do its checks. That it sends something meanwhile shows that it is alive."""
    ticks: list[float] = []

    def script(stream: Stream) -> None:
        stream.read_all()
        stream.send_headers()
        if stream.header(":path") == "/test.Pod/Talk":
            while not stream.gone.wait(0.02):
                ticks.append(time.monotonic())
                stream.send_message(b"tick")
        stream.send_message(HealthCheckResponse(status=HealthCheckResponse.SERVING).SerializeToString())
        stream.end()

    pod = lab.scripted_pod(script, most_streams=1)
    gateway = configured(lab, CHECKED.replace("10s", "300ms"), pods=pod)
    eventually(lambda: pod.streams, "it is checked")
    client = lab.raw_client(gateway, initial_window=1 << 30)
    talks = [client.request("Talk") for _ in range(MAX_LINKS)]
    eventually(lambda: sum(stream.header(":path") == "/test.Pod/Talk" for stream in pod.streams) == MAX_LINKS)
    began_s = time.monotonic()
    eventually(lambda: ticks and ticks[-1] > began_s + 2, "several checks had the time to fail")
    waiting = client.request("Unary")
    client.cancel(talks[0])
    assert client.finish(waiting).status == 0


def test_pod_that_is_down_is_bad_until_it_is_up_again(lab: Lab) -> None:
    health = Health()
    pod = pod_with(lab, "a", health)
    gateway = configured(lab, CHECKED, pods=pod)
    eventually(lambda: health.asked)
    pod.stop()
    eventually(lambda: notes(gateway)[str(pod.endpoint)].startswith("unhealthy: UNAVAILABLE"))
    again = lab.pod("b", {CHECK: health}, port=pod.port)
    eventually(lambda: not notes(gateway)[str(again.endpoint)], "it is checked, and found well, by itself")
    gateway.wait_for_ready_pods(1)
    assert answers(lab, gateway) == {b"b:"}


def test_pod_whose_mapping_is_gone_is_checked_no_more(lab: Lab) -> None:
    health = Health(HealthCheckResponse.NOT_SERVING)
    pod = pod_with(lab, "a", health)
    gateway = configured(lab, CHECKED, pods=pod)
    eventually(lambda: notes(gateway)[str(pod.endpoint)])
    unchecked = compile_yaml("metadata: {name: test}\nspec: {service: pods:50051}", lab.engine)
    gateway.apply(unchecked.snapshot)
    assert answers(lab, gateway) == {b"a:"}
    checked = len(health.asked)
    assert answers(lab, gateway, 100) == {b"a:"}
    assert len(health.asked) <= checked + 1, "one check may have been on its way"


def test_running_stream_is_left_alone_when_its_pod_is_found_bad(lab: Lab) -> None:
    gate, health = Gate(), Health()
    lab.defer(gate.open)

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        gate.hold(context)
        yield b"done"

    pod = lab.pod("a", {CHECK: health, "Hold": hold})
    gateway = configured(lab, CHECKED, pods=pod)
    running = lab.channel(gateway).unary_stream("/test.Pod/Hold")(b"")
    assert next(running) == b"started"
    health.status = HealthCheckResponse.NOT_SERVING
    eventually(lambda: notes(gateway)[str(pod.endpoint)])
    gate.open()
    assert list(running) == [b"done"]


def test_without_checks_pods_are_not_asked(lab: Lab) -> None:
    health = Health(HealthCheckResponse.NOT_SERVING)
    gateway = configured(lab, "metadata: {name: test}\nspec: {service: pods:50051}", pods=pod_with(lab, "a", health))
    assert answers(lab, gateway, 50) == {b"a:"}
    assert health.asked == []
