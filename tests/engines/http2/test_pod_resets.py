"""Cancels of one client do not end the connection that other clients' RPCs run on: pods bound the resets they take."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import cast

import grpc
import pytest
from dataplane.lab import Lab
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import ScriptedPod
from dataplane.waiting import PATIENCE_S, eventually

from engines.http2.nghttp2_pod import EnvoyLimit, NettyLimit, Nghttp2Pod, NoFurtherLimit, ResetLimit
from grpcgw.engines.http2.reset_budget import BURST

CANCELS, AT_ONCE = 5000, 250
FIRST, SECOND = b"first", b"second"
SERVERS = {"libnghttp2": NoFurtherLimit, "Netty": NettyLimit, "Envoy": EnvoyLimit}
"""Which limit resets, by default or where they are asked to."""


@pytest.fixture(params=SERVERS)
def pod(http2: Lab, request: pytest.FixtureRequest) -> Nghttp2Pod:
    make_limit: type[ResetLimit] = SERVERS[request.param]
    pod = Nghttp2Pod(make_limit)
    http2.defer(pod.stop)
    return pod


class OrdinaryClient:
    """Calls one RPC after the other until it is stopped."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._call = channel.unary_unary("/test.Pod/Unary")
        self._stopped = threading.Event()
        self.calls, self.faults = 0, list[str]()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.calls += 1
            try:
                self._call(b"", timeout=PATIENCE_S)
            except grpc.RpcError as error:
                self.faults.append(str(error))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()


def cancel_many(client: RawClient, pod: Nghttp2Pod, count: int) -> None:
    """Open RPCs, and cancel them when the pod has them all."""
    held = pod.held + count
    streams = [client.request("Hold", end=False) for _ in range(count)]
    eventually(lambda: pod.held == held, "the pod gets the RPCs")
    for stream in streams:
        client.cancel(stream)


class Conversation:
    """An RPC that runs while others are cancelled."""

    def __init__(self, http2: Lab, channel: grpc.Channel) -> None:
        self._go_on = threading.Event()
        http2.defer(self._go_on.set)
        self._replies = channel.stream_stream("/test.Pod/Join")(self._messages())
        assert next(self._replies) == FIRST

    def _messages(self) -> Iterator[bytes]:
        yield FIRST
        self._go_on.wait()
        yield SECOND

    def end(self) -> list[bytes]:
        self._go_on.set()
        return list(self._replies)


def test_5000_cancels_of_one_client_end_no_rpc_of_another(http2: Lab, pod: Nghttp2Pod) -> None:
    gateway = http2.gateway(cast(ScriptedPod, pod))
    channel = http2.channel(gateway)
    conversation = Conversation(http2, channel)
    ordinary = OrdinaryClient(channel)
    client = http2.raw_client(gateway)
    for _ in range(CANCELS // AT_ONCE):
        cancel_many(client, pod, AT_ONCE)
    ordinary.stop()
    assert (conversation.end(), ordinary.faults) == ([SECOND], [])
    assert ordinary.calls > 0
    assert pod.broken == 0
    eventually(lambda: gateway.pod_in_flight() == 0)
    http2.raw_client(gateway).call("Unary")
    eventually(lambda: pod.connects - pod.ended <= 2, "connections that have carried many resets are closed")


def test_more_cancels_at_once_than_a_pod_takes_reach_it_later(http2: Lab, pod: Nghttp2Pod) -> None:
    """They all ran on one connection, and another RPC goes on there."""
    gateway = http2.gateway(cast(ScriptedPod, pod))
    conversation = Conversation(http2, http2.channel(gateway))
    client = http2.raw_client(gateway)
    cancel_many(client, pod, BURST + 2)
    eventually(lambda: pod.closed_streams == BURST + 2, "a part of them waits for the budget")
    assert (conversation.end(), pod.broken) == ([SECOND], 0)


def test_a_connection_with_cancels_alone_is_closed_where_the_pod_takes_no_more(http2: Lab, pod: Nghttp2Pod) -> None:
    client = http2.raw_client(http2.gateway(cast(ScriptedPod, pod)))
    cancel_many(client, pod, BURST + 90)
    eventually(lambda: pod.ended >= 1, "to close it cancels all at once")
    assert client.call("Unary").status == 0
    assert pod.broken == 0
