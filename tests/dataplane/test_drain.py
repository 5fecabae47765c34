"""Shutting down: new RPCs are refused, running ones finish within the drain time, clients are told to go elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dataplane.lab import Gateway, Lab
from dataplane.pods import Context, Gate
from dataplane.waiting import PATIENCE_S, eventually

UNAVAILABLE = 14


class Draining:
    """`Engine.drain` in a thread, as it blocks."""

    def __init__(self, gateway: Gateway, limit_s: float) -> None:
        self._thread = threading.Thread(target=gateway.engine.drain, args=(limit_s,))
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive(), "drain never returned"


def held_pod(lab: Lab) -> tuple[Gateway, Gate]:
    gate = Gate()

    def hold(requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        gate.hold(context)
        yield b"done"

    lab.defer(gate.open)
    return lab.gateway(lab.pod(methods={"Hold": hold})), gate


def held_stream(lab: Lab, gateway: Gateway) -> grpc.Call:
    replies = lab.channel(gateway).unary_stream("/test.Pod/Hold")(b"")
    assert next(replies) == b"started"
    return replies


def test_running_rpc_finishes_while_draining(lab: Lab) -> None:
    gateway, gate = held_pod(lab)
    running = held_stream(lab, gateway)
    draining = Draining(gateway, limit_s=PATIENCE_S)
    eventually(lambda: gateway.serving.draining)
    gate.open()
    assert list(running) == [b"done"]
    assert running.code() is grpc.StatusCode.OK
    draining.wait()


def test_new_rpc_of_a_draining_gateway_is_unavailable(lab: Lab) -> None:
    """On a connection that has not heard of it yet the gateway says so; a new connection is refused."""
    gateway, gate = held_pod(lab)
    client = lab.raw_client(gateway)
    held = client.request("Hold")
    while not client.answers[held].data:
        assert client.receive()
    gateway.serving.draining = True  # the moment between the decision and GOAWAY to clients
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "draining")
    assert answer.trailers_only
    gateway.serving.draining = False
    draining = Draining(gateway, limit_s=PATIENCE_S)
    eventually(lambda: _refused(lab, gateway), "new connections are refused")
    gate.open()
    assert client.finish(held).status == 0
    client.close()
    draining.wait()


def _refused(lab: Lab, gateway: Gateway) -> bool:
    try:
        lab.channel(gateway).unary_unary("/test.Pod/Unary")(b"", timeout=PATIENCE_S)
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


def test_clients_get_goaway_and_finish_what_they_have(lab: Lab) -> None:
    gateway, gate = held_pod(lab)
    client = lab.raw_client(gateway)
    held = client.request("Hold")
    while not client.answers[held].data:
        assert client.receive()
    draining = Draining(gateway, limit_s=PATIENCE_S)
    while not client.goaway:
        assert client.receive()
    assert not client.answers[held].over
    gate.open()
    assert client.finish(held).status == 0
    client.close()
    draining.wait()


def test_rpc_beyond_the_drain_limit_ends_unavailable(lab: Lab) -> None:
    gateway, gate = held_pod(lab)
    running = held_stream(lab, gateway)
    began_s = time.monotonic()
    draining = Draining(gateway, limit_s=0.2)
    _ended_by(running)
    assert dict(running.trailing_metadata())["x-grpcgw-reason"] == "draining"
    assert gate.cancelled.wait(PATIENCE_S)
    draining.wait()
    assert time.monotonic() - began_s >= 0.2


def _ended_by(replies: grpc.Call) -> None:
    with pytest.raises(grpc.RpcError) as ended:
        next(replies)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE


def test_drain_returns_at_once_when_nothing_runs(lab: Lab) -> None:
    gateway = lab.gateway(lab.pod())
    assert lab.channel(gateway).unary_unary("/test.Pod/Unary")(b"") == b"pod:"
    Draining(gateway, limit_s=10 * PATIENCE_S).wait()


def health(lab: Lab, gateway: Gateway) -> health_pb2_grpc.HealthStub:
    return health_pb2_grpc.HealthStub(lab.channel(gateway))


SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_health_of_the_gateway_is_serving_without_any_mapping(lab: Lab) -> None:
    stub = health(lab, lab.gateway(routes=[]))
    assert stub.Check(health_pb2.HealthCheckRequest()).status == SERVING


def test_health_knows_no_other_service(lab: Lab) -> None:
    stub = health(lab, lab.gateway(routes=[]))
    with pytest.raises(grpc.RpcError) as refused:
        stub.Check(health_pb2.HealthCheckRequest(service="test.Pod"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="test.Pod"))
    assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


def test_health_watch_hears_of_the_drain(lab: Lab) -> None:
    gateway, gate = held_pod(lab)
    held_stream(lab, gateway)
    watch = health(lab, gateway).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    draining = Draining(gateway, limit_s=PATIENCE_S)
    assert next(watch).status == NOT_SERVING
    watch.cancel()
    gate.open()
    draining.wait()


def test_health_watch_does_not_hold_the_drain_up(lab: Lab) -> None:
    gateway = lab.gateway(routes=[])
    watch = health(lab, gateway).Watch(health_pb2.HealthCheckRequest())
    assert next(watch).status == SERVING
    draining = Draining(gateway, limit_s=0.2)
    with pytest.raises(grpc.RpcError) as ended:
        list(watch)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    draining.wait()


def test_malformed_health_request_is_an_error_of_the_call(lab: Lab) -> None:
    gateway = lab.gateway(routes=[])
    with pytest.raises(grpc.RpcError) as refused:
        lab.channel(gateway).unary_unary("/grpc.health.v1.Health/Check")(b"\xff\xff\xff")
    assert refused.value.code() is grpc.StatusCode.INTERNAL
    assert health(lab, gateway).Check(health_pb2.HealthCheckRequest()).status == SERVING
