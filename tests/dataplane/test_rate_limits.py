"""Rate and concurrency limits with real clients and pods, on both engines."""

from __future__ import annotations

import threading
import time

import grpc
import pytest

from dataplane.configured import configured
from dataplane.examples import GREET, example
from dataplane.lab import Lab
from dataplane.scripted_pod import Stream
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.model.codes import Code


def limited(**limits: str) -> str:
    fields = "".join(f", {name}: {value}" for name, value in limits.items())
    return f"metadata: {{name: test}}\nspec: {{service: pods:50051{fields}}}"


def test_the_example_with_labels(lab: Lab) -> None:
    gateway, pod = example(lab, "rate-limits/labels.yaml")
    client = lab.raw_client(gateway)
    codes = [client.call(GREET, ("x-tenant", "a")).status for _ in range(4)]
    assert codes == [Code.OK] * 3 + [Code.RESOURCE_EXHAUSTED]
    assert client.call(GREET, ("x-tenant", "b")).status == Code.OK
    assert client.call(GREET).status == Code.OK
    assert len(pod.calls) == 5, "what is refused reaches no pod"


def test_the_example_with_limits_of_the_mapping(lab: Lab) -> None:
    gateway, _ = example(lab, "rate-limits/mapping.yaml")
    client = lab.raw_client(gateway)
    assert [client.call(GREET).status for _ in range(3)] == [Code.OK, Code.OK, Code.RESOURCE_EXHAUSTED]


def test_a_refused_client_is_told_the_limit_and_when_to_come_again(lab: Lab) -> None:
    gateway = configured(lab, limited(rate_limit="{rate: 1, unit: hour}"), pods=lab.pod())
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == Code.OK
    refused = client.call("Unary")
    assert (refused.status, refused.header("x-grpcgw-reason")) == (Code.RESOURCE_EXHAUSTED, "rate-limit")
    assert refused.header("grpc-message") == "Mapping test.default: rate limit rate_limit (1 per hour) reached"
    assert 3_590_000 <= int(refused.header("grpc-retry-pushback-ms") or 0) <= 3_600_000
    assert refused.trailers_only


def test_a_client_that_retries_obeys_the_pushback(lab: Lab) -> None:
    """grpc's own retry waits as long as the gateway says, and then gets through."""
    gateway = configured(lab, limited(rate_limit="{rate: 5, unit: second, burst: 1}"), pods=lab.pod())
    policy = (
        '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 5, "initialBackoff": "90s",'
        ' "maxBackoff": "90s", "backoffMultiplier": 1, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}'
    )
    channel = grpc.insecure_channel(gateway.address, [("grpc.service_config", policy)])
    lab.defer(channel.close)
    call = channel.unary_unary("/test.Pod/Unary")
    began_s = time.monotonic()
    for _ in range(3):
        call(b"hi", timeout=PATIENCE_S)
    assert 0.3 <= time.monotonic() - began_s < 90


def test_at_twice_the_rate_half_of_the_calls_get_through(lab: Lab) -> None:
    rate, seconds = 100, 2.0
    gateway = configured(lab, limited(rate_limit=f"{{rate: {rate}}}"), pods=lab.pod())
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    call(b"hi", timeout=PATIENCE_S)
    began_s, pending = time.monotonic(), []
    while (elapsed_s := time.monotonic() - began_s) < seconds:
        while len(pending) < 2 * rate * elapsed_s:
            pending.append(call.future(b"hi", timeout=PATIENCE_S))
        time.sleep(0.002)
    codes = [one.code() for one in pending]
    took_s = time.monotonic() - began_s  # on a busy machine, more than it was meant to
    assert set(codes) <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert 0.95 * rate * seconds <= codes.count(grpc.StatusCode.OK) + 1 <= 1.05 * rate * took_s


def test_a_limit_that_only_logs_refuses_nothing(lab: Lab) -> None:
    text = """
        kind: RateLimit
        metadata: {name: limits}
        spec: {limits: [{name: dry, pattern: [], rate: 1, unit: hour, action: LogOnly}]}
        ---
        metadata: {name: test}
        spec: {service: "pods:50051", labels: {ambassador: [{g: [foo]}]}}
    """
    client = lab.raw_client(configured(lab, text, pods=lab.pod()))
    assert [client.call("Unary").status for _ in range(3)] == [Code.OK] * 3


def test_a_limit_adds_headers_for_the_pod_and_for_the_client(lab: Lab) -> None:
    text = """
        kind: RateLimit
        metadata: {name: limits}
        spec:
          limits:
            - pattern: []
              rate: 1
              unit: hour
              injectRequestHeaders: [{name: x-limited, value: "yes"}]
              injectResponseHeaders: [{name: x-limit, value: "1"}]
              errorResponse: {headers: [{name: x-why, value: too much}]}
        ---
        metadata: {name: test}
        spec: {service: "pods:50051", labels: {ambassador: [{g: [foo]}]}}
    """
    pod = lab.pod()
    client = lab.raw_client(configured(lab, text, pods=pod))
    answer = client.call("Unary")
    assert answer.header("x-limit") == "1"
    assert ("x-limited", "yes") in pod.calls[0].metadata
    refused = client.call("Unary")
    assert (refused.header("x-why"), refused.header("x-limit")) == ("too much", "1")


# --- how many run at one time


class Waiting:
    """A pod's script that answers no RPC before `open`."""

    def __init__(self, lab: Lab) -> None:
        self._open = threading.Event()
        lab.defer(self._open.set)

    def __call__(self, stream: Stream) -> None:
        stream.read_all()
        self._open.wait(PATIENCE_S)
        stream.end_at_once(0)

    def open(self) -> None:
        self._open.set()


@pytest.mark.parametrize("how_they_end", ["answered", "cancelled"])
def test_so_many_calls_run_at_one_time_and_when_one_ends_another_may(lab: Lab, how_they_end: str) -> None:
    waiting = Waiting(lab)
    pod = lab.scripted_pod(waiting)
    gateway = configured(lab, limited(concurrency_limit="2"), pods=pod)
    client = lab.raw_client(gateway)
    running = [client.request("Unary") for _ in range(2)]
    eventually(lambda: len(pod.streams) == 2)
    refused = client.call("Unary")
    assert (refused.status, refused.header("x-grpcgw-reason")) == (Code.RESOURCE_EXHAUSTED, "concurrency-limit")
    assert refused.header("grpc-message") == "Mapping test.default: concurrency_limit 2 reached"
    if how_they_end == "cancelled":
        for stream in running:
            client.cancel(stream)
        client.flush()
        eventually(lambda: not gateway.in_flight())
    waiting.open()
    if how_they_end == "answered":
        assert [client.finish(stream).status for stream in running] == [0, 0]
        eventually(lambda: not gateway.in_flight())
    assert [client.call("Unary").status for _ in range(3)] == [Code.OK] * 3
