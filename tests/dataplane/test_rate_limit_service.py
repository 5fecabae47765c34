"""A RateLimitService on both engines, from Ambassador's YAML, with real servers of Envoy's protocol."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from dataplane.configured import configured
from dataplane.lab import Gateway, Lab
from dataplane.pods import Context, Gate, Pod
from dataplane.scripted_pod import ScriptedPod, Stream
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    DescriptorStatus,
    HeaderValue,
    Limit,
    RateLimitRequest,
    RateLimitResponse,
    Unit,
)
from grpcgw.session.serving import RpcLog
from grpcgw.telemetry.access_log import RpcRecord

EXAMPLE = Path(__file__).parents[2] / "examples" / "rate-limit-service" / "limits.yaml"
METHOD = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
Decide = Callable[[RateLimitRequest, Context], RateLimitResponse]
SLOW = "timeout_ms: 30000"
CLOSED = "timeout_ms: 30000, failure_mode_deny: true"

CONFIGURATION = """
kind: RateLimitService
name: limits
service: limits
resolver: endpoint
protocol_version: v3
domain: shop
grpc: {{use_resource_exhausted_code: {exhausted}}}
{fields}
---
name: limited
service: greet
labels:
  shop:
    - all: [{{generic_key: {{value: all}}}}]
    - tenant: [{{request_headers: {{key: tenant, header_name: x-tenant}}}}]
---
name: free
prefix: /test.Free/
rewrite: /test.Pod/
service: greet
"""


class Counter:
    """A server of the protocol."""

    def __init__(self, lab: Lab, decide: Decide) -> None:
        self.asked: list[RateLimitRequest] = []
        self._decide = decide
        self.pod = lab.pod("limits", {METHOD: self._answer})

    def _answer(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        for message in requests:
            request = RateLimitRequest.FromString(message)
            self.asked.append(request)
            yield self._decide(request, context).SerializeToString()


def ok(request: RateLimitRequest, context: Context) -> RateLimitResponse:
    return RateLimitResponse(overall_code=OK)


def over(request: RateLimitRequest, context: Context) -> RateLimitResponse:
    return RateLimitResponse(
        overall_code=OVER_LIMIT,
        raw_body=b"come again later",
        response_headers_to_add=[HeaderValue(key="x-plan", value="free")],
        statuses=[
            DescriptorStatus(
                code=OVER_LIMIT,
                current_limit=Limit(requests_per_unit=10, unit=Unit.MINUTE),
                duration_until_reset=Duration(seconds=2, nanos=500_000_000),
            )
        ],
    )


def limited_by(
    lab: Lab, service: Pod | ScriptedPod, fields: str = SLOW, greet: Pod | None = None, exhausted: bool = True
) -> Gateway:
    lines = "\n".join(fields.split(", "))
    text = CONFIGURATION.format(fields=lines, exhausted=str(exhausted).lower())
    return configured(lab, text, limits=service, greet=greet or lab.pod("greet"))


def begin(lab: Lab, gateway: Gateway, *metadata: tuple[str, str], method: str = "/test.Pod/Unary") -> grpc.Future:
    channel = lab.channel(gateway)
    return channel.unary_unary(method).future(b"hi", metadata=metadata, timeout=PATIENCE_S)


def reason_of(call: grpc.Call) -> object:
    return dict(call.trailing_metadata()).get("x-grpcgw-reason")


def test_the_service_counts_each_rpc_by_its_labels(lab: Lab) -> None:
    counter = Counter(lab, ok)
    gateway = limited_by(lab, counter.pod)
    assert begin(lab, gateway).result() == b"greet:hi"
    assert begin(lab, gateway, ("x-tenant", "ann")).result() == b"greet:hi"
    assert begin(lab, gateway, method="/test.Free/Unary").result() == b"greet:hi"
    first, second = counter.asked
    assert first.domain == "shop"
    entries = [[(one.key, one.value) for one in descriptor.entries] for descriptor in second.descriptors]
    assert entries == [[("generic_key", "all")], [("tenant", "ann")]]
    assert second.descriptors[:1] == list(first.descriptors)


def test_the_service_adds_to_the_request_and_to_the_answer(lab: Lab) -> None:
    def add(request: RateLimitRequest, context: Context) -> RateLimitResponse:
        return RateLimitResponse(
            overall_code=OK,
            request_headers_to_add=[HeaderValue(key="x-plan", value="gold")],
            response_headers_to_add=[HeaderValue(key="x-left", value="9")],
        )

    greet = lab.pod("greet")
    call = begin(lab, limited_by(lab, Counter(lab, add).pod, greet=greet))
    assert call.result() == b"greet:hi"
    assert dict(call.initial_metadata())["x-left"] == "9"
    (seen,) = greet.calls
    assert seen.values("x-plan") == ["gold"]


@pytest.mark.parametrize("exhausted", [True, False])
def test_an_rpc_above_the_limit_is_refused_with_all_that_helps_its_client(lab: Lab, exhausted: bool) -> None:
    greet = lab.pod("greet")
    call = begin(lab, limited_by(lab, Counter(lab, over).pod, greet=greet, exhausted=exhausted))
    code = grpc.StatusCode.RESOURCE_EXHAUSTED if exhausted else grpc.StatusCode.UNAVAILABLE
    assert (call.code(), call.details()) == (code, "come again later")
    trailers = dict(call.trailing_metadata())
    assert trailers["x-grpcgw-reason"] == "rate-limit"
    assert (trailers["x-envoy-ratelimited"], trailers["x-plan"]) == ("true", "free")
    assert trailers["x-ratelimit-limit"] == "10, 10;w=60"
    assert trailers["grpc-retry-pushback-ms"] == "2500"
    details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info = error_details_pb2.RetryInfo()
    assert details.details[0].Unpack(info)
    assert info.retry_delay.ToMilliseconds() == 2500
    assert not greet.calls


def test_the_example_limits_greet_by_tenant(lab: Lab) -> None:
    counter = Counter(lab, ok)
    greet = lab.pod("greet", {"/greet.GrpcService/Greet": lambda requests, _: iter(requests)})
    text = EXAMPLE.read_text().replace("timeout_ms: 50", "timeout_ms: 30000")  # the machine may be busy
    gateway = configured(lab, text, ratelimit=counter.pod, greet=greet)
    assert begin(lab, gateway, ("x-tenant", "ann"), method="/greet.GrpcService/Greet").result() == b"hi"
    (asked,) = counter.asked
    assert asked.domain == "shop"
    assert [[(one.key, one.value) for one in descriptor.entries] for descriptor in asked.descriptors] == [
        [("service", "greet"), ("tenant", "ann")]
    ]


# --- bad days


def fail(request: RateLimitRequest, context: Context) -> RateLimitResponse:
    context.abort(grpc.StatusCode.INTERNAL, "out of order")
    raise AssertionError


def say_nothing(request: RateLimitRequest, context: Context) -> RateLimitResponse:
    return RateLimitResponse()


def reset(stream: Stream) -> None:
    stream.read_all()
    stream.reset(2)


def babble(stream: Stream) -> None:
    stream.read_all()
    stream.send_headers()
    stream.send_message(b"\xff\xff\xff")
    stream.end()


def drop_connection(stream: Stream) -> None:
    stream.read_all()
    stream.connection.close()


BAD: dict[str, Callable[[Lab], Pod | ScriptedPod]] = {
    "fails": lambda lab: Counter(lab, fail).pod,
    "says-nothing": lambda lab: Counter(lab, say_nothing).pod,
    "resets": lambda lab: lab.scripted_pod(reset),
    "babbles": lambda lab: lab.scripted_pod(babble),
    "drops-the-connection": lambda lab: lab.scripted_pod(drop_connection),
}


def check_failure(lab: Lab, gateway: Gateway, closed: bool) -> None:
    records: list[RpcRecord] = []
    gateway.serving.rpc_log = RpcLog(records.append, 100.0)
    gateway.apply(gateway.serving.snapshot)
    call = begin(lab, gateway)
    if closed:
        assert (call.code(), reason_of(call)) == (grpc.StatusCode.UNAVAILABLE, "policy-unavailable")
        assert "RateLimitService limits.default" in call.details()
    else:
        assert call.result() == b"greet:hi"


@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("kind", BAD)
def test_a_service_that_gives_no_answer_limits_nothing_or_refuses(lab: Lab, kind: str, closed: bool) -> None:
    check_failure(lab, limited_by(lab, BAD[kind](lab), CLOSED if closed else SLOW), closed)


@pytest.mark.parametrize("closed", [False, True])
def test_a_service_that_is_down_limits_nothing_or_refuses(lab: Lab, closed: bool) -> None:
    counter = Counter(lab, ok)
    gateway = limited_by(lab, counter.pod, CLOSED if closed else SLOW)
    counter.pod.stop()
    check_failure(lab, gateway, closed)


@pytest.mark.parametrize("closed", [False, True])
def test_a_slow_service_is_not_waited_for_and_its_call_is_cancelled(lab: Lab, closed: bool) -> None:
    gate = Gate()
    lab.defer(gate.open)

    def hold(request: RateLimitRequest, context: Context) -> RateLimitResponse:
        gate.hold(context)
        return RateLimitResponse(overall_code=OVER_LIMIT)

    fields = "timeout_ms: 100, failure_mode_deny: true" if closed else "timeout_ms: 100"
    gateway = limited_by(lab, Counter(lab, hold).pod, fields)
    check_failure(lab, gateway, closed)
    assert gate.cancelled.wait(PATIENCE_S)


def test_a_client_that_cancels_cancels_the_call_of_the_service(lab: Lab) -> None:
    gate, greet = Gate(), lab.pod("greet")
    lab.defer(gate.open)

    def hold(request: RateLimitRequest, context: Context) -> RateLimitResponse:
        gate.hold(context)
        return RateLimitResponse(overall_code=OK)

    gateway = limited_by(lab, Counter(lab, hold).pod, greet=greet)
    call = begin(lab, gateway)
    assert gate.reached.wait(PATIENCE_S)
    call.cancel()
    assert gate.cancelled.wait(PATIENCE_S)
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())
    assert not greet.calls


def test_many_rpcs_at_once_are_each_counted_once(lab: Lab) -> None:
    left = threading.Semaphore(100)

    def count(request: RateLimitRequest, context: Context) -> RateLimitResponse:
        return RateLimitResponse(overall_code=OK if left.acquire(blocking=False) else OVER_LIMIT)

    counter = Counter(lab, count)
    gateway = limited_by(lab, counter.pod)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    running = [call.future(b"hi", timeout=PATIENCE_S) for _ in range(300)]
    codes = [one.code() for one in running]
    assert codes.count(grpc.StatusCode.OK) == 100
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 200
    assert len(counter.asked) == 300


@pytest.mark.parametrize(
    ("lab", "closed"), [("http2", False), ("http2", True), ("generic-handler", True)], indirect=["lab"]
)
def test_a_service_that_goes_down_under_1000_rpcs_leaves_none_without_a_status(lab: Lab, closed: bool) -> None:
    held: list[Stream] = []

    def hold(stream: Stream) -> None:
        stream.read_all()
        held.append(stream)
        stream.wait_gone()

    service = lab.scripted_pod(hold, most_streams=2000)
    gateway = limited_by(lab, service, CLOSED if closed else SLOW)
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    patience_s = 3 * PATIENCE_S  # a thread of the service for each: a busy machine takes a minute
    running = [call.future(b"hi", timeout=patience_s) for _ in range(1000)]
    eventually(lambda: len(held) == 1000, lambda: f"{len(held)} held", patience_s)
    service.stop()
    expected = grpc.StatusCode.UNAVAILABLE if closed else grpc.StatusCode.OK
    assert {one.code() for one in running} == {expected}
    eventually(lambda: not gateway.in_flight() and not gateway.pod_in_flight())
