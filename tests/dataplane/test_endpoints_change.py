"""Pods and Mappings come and go under traffic: new RPCs know it at once, running ones are left in peace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from dataplane.lab import Lab, mapping
from dataplane.pods import Context, Gate
from dataplane.scripted_pod import refusing
from dataplane.waiting import PATIENCE_S, eventually

UNAVAILABLE = 14


class Held:
    """A stream that the pod keeps open until its gate opens."""

    def __init__(self) -> None:
        self.gate = Gate()

    def __call__(self, requests: Iterator[bytes], context: Context) -> Iterator[bytes]:
        yield b"started"
        self.gate.hold(context)
        yield b"done"


def test_pod_that_left_gets_no_new_rpc_and_finishes_its_stream(lab: Lab) -> None:
    held = Held()
    leaving, staying = lab.pod("leaving", {"Hold": held}), lab.pod("staying", {"Hold": held})
    gateway = lab.gateway(leaving)
    channel = lab.channel(gateway)
    running = channel.unary_stream("/test.Pod/Hold")(b"")
    assert next(running) == b"started"
    gateway.set_pods(staying)
    call = channel.unary_unary("/test.Pod/Unary")
    assert {call(b"") for _ in range(10)} == {b"staying:"}
    assert [r.state for r in gateway.serving.clusters.pod_reports() if r.in_flight] == ["draining"]
    held.gate.open()
    assert list(running) == [b"done"]
    eventually(lambda: len(gateway.serving.clusters.pods()) == 1, "the connection to the pod that left is closed")


def test_stream_on_a_pod_that_left_ends_at_the_drain_limit(lab: Lab) -> None:
    held = Held()
    leaving, staying = lab.pod("leaving", {"Hold": held}), lab.pod("staying")
    gateway = lab.gateway(leaving, drain_time_s=0.3)
    running = lab.channel(gateway).unary_stream("/test.Pod/Hold")(b"")
    assert next(running) == b"started"
    gateway.set_pods(staying)
    with pytest.raises(grpc.RpcError):
        next(running)
    assert running.code() is grpc.StatusCode.UNAVAILABLE
    assert dict(running.trailing_metadata())["x-grpcgw-reason"] == "connection-lost"
    assert held.gate.cancelled.wait(PATIENCE_S)
    assert lab.channel(gateway).unary_unary("/test.Pod/Unary")(b"") == b"staying:"


def test_stream_on_a_pod_that_comes_back_outlives_the_drain_time(lab: Lab) -> None:
    held = Held()
    back, gone, staying = lab.pod("back", {"Hold": held}), lab.pod("gone", {"Hold": held}), lab.pod("staying")
    gateway = lab.gateway(back, drain_time_s=0.3)
    call = lab.channel(gateway).unary_stream("/test.Pod/Hold")
    goes_on = call(b"")
    assert next(goes_on) == b"started"
    gateway.set_pods(gone)
    cut_off = call(b"")
    assert next(cut_off) == b"started"
    gateway.set_pods(back, staying)
    with pytest.raises(grpc.RpcError):
        next(cut_off)
    held.gate.open()
    assert list(goes_on) == [b"done"]


def test_pod_that_stays_keeps_its_connection(lab: Lab) -> None:
    staying, other = lab.scripted_pod(refusing(0)), lab.scripted_pod(refusing(0))
    gateway = lab.gateway(staying, other)
    client = lab.raw_client(gateway)
    client.call("Unary")
    for pods in ([staying], [other, staying], [staying, other], [staying]):
        gateway.set_pods(*pods)
        gateway.route(mapping(timeout_ms=10_000 + len(pods)))
        assert client.call("Unary").status == 0
    assert staying.connects == 1


def test_emptied_endpoint_set_is_unavailable_and_filled_again_serves(lab: Lab) -> None:
    pod = lab.pod("a")
    gateway = lab.gateway(pod)
    client = lab.raw_client(gateway)
    assert client.call("Unary").status == 0
    gateway.set_pods()
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "no-endpoints")
    gateway.set_pods(pod)
    assert client.call("Unary").status == 0


def test_stream_outlives_its_mapping(lab: Lab) -> None:
    held = Held()
    gateway = lab.gateway(lab.pod(methods={"Hold": held}))
    channel = lab.channel(gateway)
    running = channel.unary_stream("/test.Pod/Hold")(b"")
    assert next(running) == b"started"
    gateway.route()
    with pytest.raises(grpc.RpcError) as refused:
        channel.unary_unary("/test.Pod/Unary")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    held.gate.open()
    assert list(running) == [b"done"]
    eventually(lambda: not gateway.serving.clusters.pods(), "the connection to its pod is closed")


def test_swaps_under_load_lose_no_rpc(lab: Lab) -> None:
    pods = [lab.pod(name) for name in ("a", "b", "c")]
    gateway = lab.gateway(*pods)
    stop = threading.Event()
    lab.defer(stop.set)

    def load() -> int:
        call, done = lab.channel(gateway).unary_unary("/test.Pod/Unary"), 0
        while not stop.is_set():
            assert call(b"x")[1:] == b":x"
            done += 1
        return done

    with ThreadPoolExecutor(4) as clients:
        running = [clients.submit(load) for _ in range(4)]
        try:
            for number in range(60):
                gateway.set_pods(*(pod for index, pod in enumerate(pods) if index != number % 4))
                gateway.route(mapping(timeout_ms=20_000 + number))
                served = sum(gateway.codes("Unary").values())
                eventually(lambda served=served: sum(gateway.codes("Unary").values()) > served + 3)
        finally:
            stop.set()
        done = sum(client.result() for client in running)
    eventually(lambda: gateway.codes("Unary") == {0: done})


def test_pods_restarting_one_after_the_other_fail_no_rpc(lab: Lab) -> None:
    """A rolling restart as Kubernetes does it: a new pod joins, then an old one leaves, finishes its RPCs and ends."""
    old = [lab.pod("old"), lab.pod("old")]
    members = list(old)
    gateway = lab.gateway(*members)
    stop = threading.Event()
    lab.defer(stop.set)

    def load() -> int:
        call, done = lab.channel(gateway).unary_unary("/test.Pod/Unary"), 0
        while not stop.is_set():
            call(b"x")
            done += 1
        return done

    with ThreadPoolExecutor(2) as clients:
        running = [clients.submit(load) for _ in range(2)]
        try:
            for leaving in old:
                members.append(lab.pod("new"))
                gateway.set_pods(*members)
                members.remove(leaving)
                gateway.set_pods(*members)
                # What a preStop hook is for: a pod that stops listening at once may meet an RPC on its way.
                eventually(lambda: len(gateway.serving.clusters.pods()) == 2)
                leaving.stop()
        finally:
            stop.set()
        done = sum(client.result() for client in running)
    eventually(lambda: gateway.codes("Unary") == {0: done})
