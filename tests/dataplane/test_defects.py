"""A defect in the gateway ends the one RPC it happens in, with INTERNAL; the others do not notice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

from dataplane.lab import Gateway, Lab, mapping, snapshot
from dataplane.scripted_pod import Stream
from dataplane.waiting import PATIENCE_S, eventually
from grpcgw.engines.generic_handler.loop_proxy import LoopProxy
from grpcgw.listeners.open_ports import PortView
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import REASON_KEY
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.upstream.pod import Pod

INTERNAL, CANCEL = 13, 8
LOOK_S = 0.005


class Defect(Exception):
    """What nobody thought of."""


def fail(*_: object, **__: object) -> None:
    raise Defect


class BrokenReception:
    receive = fail


class Broken:
    """A Target of which one thing does not work."""

    def __init__(self, target: Target, what: str) -> None:
        self._target, self._what = target, what

    def __getattr__(self, name: str) -> object:
        return fail if name == self._what else getattr(self._target, name)


def break_target(gateway: Gateway, what: str) -> Callable[[], None]:
    """Let `what` fail for new RPCs with the metadata `break`."""
    route = gateway.serving.route

    def broken(path: str, authority: str, metadata: Metadata, port: PortView) -> Target | Deny:
        if not any(key == "break" for key, _ in metadata):
            return route(path, authority, metadata, port)
        if what == "route":
            fail()
        return Broken(route(path, authority, metadata, port), what)  # type: ignore[arg-type,return-value]

    gateway.serving.route = broken  # type: ignore[method-assign]


@pytest.mark.parametrize("what", ["route", "pick", "rewrite", "done"])
@pytest.mark.parametrize("method", ["Unary", "Join"])
def test_a_defect_ends_one_rpc_with_internal(
    lab: Lab, what: str, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")  # the tracebacks are expected
    gateway = lab.gateway(lab.pod("a"))
    call = lab.channel(gateway).stream_unary(f"/test.Pod/{method}")
    break_target(gateway, what)
    with pytest.raises(grpc.RpcError) as failed:
        call(iter([b"hello"]), metadata=(("break", "1"),), timeout=PATIENCE_S)
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert dict(failed.value.trailing_metadata())[REASON_KEY] == "defect"
    assert call(iter([b"hello"]), timeout=PATIENCE_S)


def test_a_defect_while_headers_are_sent_to_the_client_gives_it_a_status(
    lab: Lab, caplog: pytest.LogCaptureFixture
) -> None:
    """The pod answers all at once, so that its status may come while its headers cross."""
    caplog.set_level(logging.CRITICAL, "grpcgw")

    def answer(stream: Stream) -> None:
        stream.send_headers(("x-pod", "here"))
        stream.send_message(b"one")
        stream.end()

    gateway = lab.gateway(lab.scripted_pod(answer))
    call = lab.channel(gateway).stream_unary("/test.Pod/Stream")
    break_target(gateway, "done")
    over = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"hello"
        over.wait(PATIENCE_S)

    try:
        for _ in range(5):
            running = [call.future(requests(), metadata=(("break", "1"),), timeout=PATIENCE_S) for _ in range(20)]
            assert {one.code() for one in running} == {grpc.StatusCode.INTERNAL}
    finally:
        over.set()


def test_a_defect_while_a_pod_answers_ends_the_try_as_well(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """The lab checks that the pod counts no RPC as running."""
    caplog.set_level(logging.CRITICAL, "grpcgw")

    def answer_slowly(stream: Stream) -> None:
        stream.send_headers(("x-pod", "here"))
        stream.send_message(b"one")
        stream.wait_gone()

    pod = lab.scripted_pod(answer_slowly)
    gateway = lab.gateway(pod)
    break_target(gateway, "edit_response")
    answer = lab.raw_client(gateway).call("Unary", ("break", "1"))
    assert (answer.status, answer.header(REASON_KEY)) == (INTERNAL, "defect")
    assert pod.streams[0].wait_gone() == CANCEL


def test_an_rpc_that_cannot_even_begin_is_ended(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")
    gateway = lab.gateway(lab.pod("a"))
    client = lab.raw_client(gateway)
    gateway.serving.reception = BrokenReception()  # type: ignore[assignment]
    assert client.call("Unary").over
    gateway.serving.reception = None
    assert client.call("Unary").status == 0


def test_a_defect_of_housekeeping_ends_one_rpc(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A stream is sent on by housekeeping: nothing else comes from its client that could."""
    caplog.set_level(logging.CRITICAL, "grpcgw")
    gateway = lab.gateway(lab.pod("a"))
    break_target(gateway, "pick")
    call = lab.channel(gateway).stream_stream("/test.Pod/Chat")
    requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    lab.defer(lambda: requests.put(None))
    requests.put(b"hello")
    stream = call(iter(requests.get, None), metadata=(("break", "1"),), timeout=PATIENCE_S)
    assert stream.code() is grpc.StatusCode.INTERNAL
    assert list(call(iter([b"hello"]), timeout=PATIENCE_S)) == [b"hello"]


def test_a_defect_of_housekeeping_does_not_end_it(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "grpcgw")
    staying, leaving = lab.pod("staying"), lab.pod("leaving")
    gateway = lab.gateway(staying, leaving)
    refresh, stumbled = gateway.serving.refresh, threading.Event()

    def stumble_once(now_s: float, looks: bool = True) -> tuple[Pod, ...]:
        if not stumbled.is_set():
            stumbled.set()
            fail()
        return refresh(now_s, looks)

    gateway.serving.refresh = stumble_once  # type: ignore[method-assign]
    assert stumbled.wait(PATIENCE_S)
    gateway.set_pods(staying)
    eventually(lambda: len(gateway.serving.clusters.pods()) == 1, "the connection to the pod that left is closed")


def test_connections_of_pods_that_leave_before_the_first_are_settled_are_closed() -> None:
    """In the engine that takes its first steps beside its housekeeping; the pods take connections and say nothing."""

    async def run() -> list[bool]:
        proxy = LoopProxy(65_536)
        proxy.serving.apply(snapshot(mapping()), time.monotonic())
        endpoints = sorted(Endpoint(*sock.getsockname()) for sock in deaf)
        proxy.serving.set_endpoints("pods", EndpointSet(tuple(endpoints)), time.monotonic())
        left = proxy.serving.clusters.pods()[1:]
        starting = asyncio.create_task(proxy.start(PATIENCE_S))
        while endpoints[1:]:
            await asyncio.sleep(LOOK_S)
            del endpoints[-1]
            proxy.serving.set_endpoints("pods", EndpointSet(tuple(endpoints)), time.monotonic())
        async with asyncio.timeout(PATIENCE_S):
            while len(proxy.serving.clusters.pods()) > 1:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(LOOK_S)
        assert not starting.done()
        starting.cancel()
        closed = [pod.connection.closed for pod in left]  # type: ignore[attr-defined]
        await proxy.stop()
        return closed

    with contextlib.ExitStack() as stack:
        deaf = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(12)]
        assert asyncio.run(run()) == [True] * 11
