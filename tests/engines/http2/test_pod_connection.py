"""Connections to pods, frame by frame: limits on streams, GOAWAY, pings, and pods that cannot be connected to."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import hyperframe.frame
import pytest
from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab
from dataplane.raw_client import RawClient, request_headers
from dataplane.scripted_pod import ScriptedPod, Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually, settled

from grpcgw.engines.http2.pod_connection import MAX_LINKS
from grpcgw.engines.http2.pod_dialer import BACKOFF_FACTOR, BACKOFF_JITTER, FIRST_BACKOFF_S
from grpcgw.engines.http2.reset_budget import BURST
from grpcgw.model.endpoints import Endpoint, EndpointSet
from grpcgw.model.plugins import make_plugin
from grpcgw.upstream.cluster_state import MOST_KEPT_CONNECTED

DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNAVAILABLE = 4, 8, 14


@pytest.fixture
def http2() -> Iterator[Lab]:
    http2 = Lab("http2")
    yield http2
    http2.close()


class Held:
    """A pod's script: each RPC is answered once the test says so."""

    def __init__(self, http2: Lab) -> None:
        self._free = threading.Semaphore(0)
        http2.defer(lambda: self.release(1000))

    def release(self, count: int = 1) -> None:
        self._free.release(count)

    def __call__(self, stream: Stream) -> None:
        stream.read_all()
        assert self._free.acquire(timeout=PATIENCE_S)
        stream.end_at_once(0)


def answer(stream: Stream) -> None:
    stream.read_all()
    stream.end_at_once(0)


def begin(client: RawClient, count: int) -> list[int]:
    return [client.request("Unary", ("x-number", str(number))) for number in range(count)]


def finish(client: RawClient, streams: list[int]) -> list[int]:
    return [client.finish(stream).status for stream in streams]


def numbers(pod: ScriptedPod) -> list[int]:
    """Of the RPCs at the pod, in the order in which they came."""
    return [int(stream.header("x-number") or -1) for stream in pod.streams]


def states(gateway: Gateway) -> list[str]:
    return [report.state for report in gateway.serving.clusters.pod_reports()]


# Streams


def test_rpcs_above_a_pods_limit_use_further_connections_and_then_wait_in_their_order(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held, most_streams=2)
    client = http2.raw_client(http2.gateway(pod))
    most = 2 * MAX_LINKS
    streams = begin(client, most + 3)
    eventually(lambda: len(pod.streams) == most)
    assert settled(lambda: len(pod.streams)) == most
    assert pod.connects == MAX_LINKS
    for served in range(most + 1, most + 4):
        held.release()
        eventually(lambda served=served: len(pod.streams) == served)  # type: ignore[misc]
    assert numbers(pod)[most:] == [most, most + 1, most + 2]
    held.release(most)
    assert finish(client, streams) == [0] * len(streams)


@pytest.mark.parametrize("end", ["closes", "leaves"])
def test_rpcs_wait_for_a_further_connection_where_one_of_several_ends(http2: Lab, end: str) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held, most_streams=1)
    client = http2.raw_client(http2.gateway(pod))
    streams = begin(client, MAX_LINKS + 1)
    eventually(lambda: len(pod.streams) == MAX_LINKS)
    ending = pod.connections[0]
    if end == "closes":
        ending.close()
    else:
        ending.begin_to_leave(last_stream=1)
    eventually(lambda: len(pod.streams) == MAX_LINKS + 1, "nothing else asks for a connection")
    held.release(MAX_LINKS + 1)
    assert client.finish(streams[-1]).status == 0


def test_one_connection_is_enough_while_it_has_streams(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held, most_streams=20)
    client = http2.raw_client(http2.gateway(pod))
    streams = begin(client, 20)
    eventually(lambda: len(pod.streams) == 20)
    held.release(20)
    assert finish(client, streams) == [0] * 20
    assert pod.connects == 1


def test_a_pod_with_more_rpcs_than_a_connection_may_reset_gets_another(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held, most_streams=1000)
    client = http2.raw_client(http2.gateway(pod))
    streams = begin(client, BURST)

    def all_came() -> bool:
        return len(pod.streams) == len(streams)

    eventually(all_came)
    assert pod.connects == 1
    while len({stream.connection for stream in pod.streams}) == 1:  # none waits for the second connection
        streams.extend(begin(client, 1))
        eventually(all_came)
    streams.extend(begin(client, 10))
    eventually(all_came)
    assert {stream.connection for stream in pod.streams[-10:]} == {pod.connections[1]}
    held.release(len(streams))
    assert finish(client, streams) == [0] * len(streams)


def test_a_pod_may_lower_its_limit(http2: Lab) -> None:
    """The package `h2` ends a connection with a stream too many."""
    held = Held(http2)
    pod = http2.scripted_pod(held)
    client = http2.raw_client(http2.gateway(pod))
    streams = begin(client, 3)
    eventually(lambda: len(pod.streams) == 3)
    first = pod.connections[0]
    first.allow_streams(1)
    first.ping()
    assert first.ping_answered.wait(PATIENCE_S), "its settings have been taken before"
    streams += begin(client, 2)
    eventually(lambda: len(pod.streams) == 5)
    assert {stream.connection for stream in pod.streams[3:]} == {pod.connections[1]}
    held.release(5)
    assert finish(client, streams) == [0] * 5


def test_rpcs_wait_for_a_pod_that_allows_no_stream_until_it_does(http2: Lab) -> None:
    pod = http2.scripted_pod(answer, most_streams=0)
    client = http2.raw_client(http2.gateway(pod))
    late = client.request("Unary", ("grpc-timeout", "300m"))
    patient = client.request("Unary")
    assert client.finish(late).status == DEADLINE_EXCEEDED
    eventually(lambda: len(pod.connections) == MAX_LINKS)
    assert pod.streams == []
    pod.connections[-1].allow_streams(1)
    assert client.finish(patient).status == 0


def test_a_request_with_larger_headers_than_a_pod_takes_ends_alone(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held)
    client = http2.raw_client(http2.gateway(pod))
    running = client.request("Unary")
    eventually(lambda: len(pod.streams) == 1)
    first = pod.connections[0]
    first.allow_headers(8192)
    first.ping()
    assert first.ping_answered.wait(PATIENCE_S), "its settings have been taken before"
    large = client.call("Unary", ("x-large", "a" * 9000))
    assert (large.status, large.header("x-grpcgw-reason")) == (RESOURCE_EXHAUSTED, "metadata-too-large")
    held.release()
    assert client.finish(running).status == 0
    assert client.call("Unary", ("grpc-accept-encoding", "a" * 9000)).header("x-grpcgw-reason") == "metadata-too-large"
    held.release()
    assert client.call("Unary", ("x-large", "a" * 7000)).status == 0
    assert (len(pod.streams), pod.connects) == (2, 1)


def test_a_pod_that_takes_few_headers_gets_no_more(http2: Lab) -> None:
    """Fewer than an ordinary client may send."""
    pod = http2.scripted_pod(refusing(0))
    client = http2.raw_client(http2.gateway(pod))
    assert client.call("Unary").status == 0
    pod.connections[0].allow_headers(1000)
    pod.connections[0].ping()
    assert pod.connections[0].ping_answered.wait(PATIENCE_S), "its settings have been taken before"
    assert client.call("Unary", ("x-large", "a" * 1000)).header("x-grpcgw-reason") == "metadata-too-large"
    most = 1000 - sum(len(name) + len(value) + 32 for name, value in (*pod.streams[0].headers, ("x-large", "")))
    assert client.call("Unary", ("x-large", "a" * (most + 1))).header("x-grpcgw-reason") == "metadata-too-large"
    timed = client.call("Unary", ("x-large", "a" * most), ("grpc-timeout", "9S"))
    assert timed.header("x-grpcgw-reason") == "metadata-too-large"
    assert client.call("Unary", ("x-large", "a" * most)).status == 0
    assert (len(pod.streams), pod.connects) == (2, 1)


def test_headers_that_a_policy_makes_larger_than_a_pod_takes_end_the_rpc_alone(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held)
    text = "metadata: {name: test}\nspec: {prefix: /test.Pod/, service: pods}"
    signed = make_plugin("--policy Signs", "dataplane.own_policies:Signs", {"value": "a" * 9000})
    client = http2.raw_client(configured(http2, text, signed, pods=pod))
    running = client.request("Unary")
    eventually(lambda: len(pod.streams) == 1)
    pod.connections[0].allow_headers(8192)
    pod.connections[0].ping()
    assert pod.connections[0].ping_answered.wait(PATIENCE_S), "its settings have been taken before"
    assert client.call("Unary").header("x-grpcgw-reason") == "metadata-too-large"
    held.release()
    assert (client.finish(running).status, pod.connects) == (0, 1)


def test_rpcs_that_wait_for_a_pod_that_leaves_go_to_another(http2: Lab) -> None:
    full, other = http2.scripted_pod(Held(http2), most_streams=1), http2.scripted_pod(answer)
    gateway = http2.gateway(full, drain_time_s=0.5)
    client = http2.raw_client(gateway)
    streams = begin(client, MAX_LINKS + 2)
    eventually(lambda: len(full.streams) == MAX_LINKS)
    gateway.set_pods(other)
    answers = [client.finish(stream) for stream in streams]
    assert [each.header("x-grpcgw-reason") for each in answers] == ["connection-lost"] * MAX_LINKS + [None] * 2
    assert sorted(numbers(other)) == [MAX_LINKS, MAX_LINKS + 1]


def test_a_waiting_rpc_that_its_client_cancels_never_reaches_the_pod(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held, most_streams=1)
    gateway = http2.gateway(pod)
    client = http2.raw_client(gateway)
    streams = begin(client, MAX_LINKS + 2)
    eventually(lambda: len(pod.streams) == MAX_LINKS)
    eventually(lambda: gateway.in_flight() == MAX_LINKS + 2)
    client.cancel(streams[MAX_LINKS])
    eventually(lambda: gateway.in_flight() == MAX_LINKS + 1)
    held.release(MAX_LINKS + 1)
    assert client.finish(streams[-1]).status == 0
    assert sorted(numbers(pod)) == [0, 1, 2, 3, 5]


def test_an_rpc_that_its_client_resets_with_the_same_write_never_reaches_the_pod(http2: Lab) -> None:
    pod = http2.scripted_pod(answer)
    client = http2.raw_client(http2.gateway(pod))
    for _ in range(20):
        client.h2.reset_stream(client.begin(request_headers()), 8)
    client.flush()
    assert client.call("Unary").status == 0
    assert len(pod.streams) == 1


# GOAWAY, lost connections


def test_goaway_moves_new_rpcs_away_at_once_and_lets_running_ones_end(http2: Lab) -> None:
    held = Held(http2)
    pod = http2.scripted_pod(held)
    client = http2.raw_client(http2.gateway(pod))
    running = begin(client, 1)
    eventually(lambda: len(pod.streams) == 1)
    old = pod.streams[0].connection
    old.begin_to_leave(last_stream=1)
    eventually(lambda: pod.connects == 2)
    later = begin(client, 2)
    eventually(lambda: len(pod.streams) == 3)
    assert {stream.connection for stream in pod.streams[1:]} == {pod.connections[1]}
    assert not old.ended.is_set()
    held.release(3)
    assert finish(client, running + later) == [0, 0, 0]
    assert old.ended.wait(PATIENCE_S), "the old connection ends with its last RPC"


def test_an_rpc_whose_connection_is_lost_is_not_repeated(http2: Lab) -> None:
    def hang_up(stream: Stream) -> None:
        stream.read_all()
        stream.connection.close()

    pods = [http2.scripted_pod(hang_up) for _ in range(2)]
    answer = http2.raw_client(http2.gateway(*pods)).call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "connection-lost")
    assert sum(len(pod.streams) for pod in pods) == 1


def test_a_connection_that_served_is_replaced_without_a_pause(http2: Lab) -> None:
    """As of servers that end a connection after so many requests."""

    def answer_and_leave(stream: Stream) -> None:
        answer(stream)
        stream.connection.begin_to_leave(last_stream=2**31 - 1)

    pod = http2.scripted_pod(answer_and_leave)
    client = http2.raw_client(http2.gateway(pod))
    assert [client.call("Unary").status for _ in range(20)] == [0] * 20
    assert pod.connects >= 2


def test_pings_of_pods_are_answered(http2: Lab) -> None:
    pod = http2.scripted_pod()
    http2.gateway(pod)
    eventually(lambda: pod.connects == 1)
    pod.connections[0].ping()
    assert pod.connections[0].ping_answered.wait(PATIENCE_S)


# Pods that cannot be connected to


class HastyPod:
    """Ends each connection itself, after `greeting`."""

    def __init__(self, greeting: bytes) -> None:
        self._greeting = greeting
        self.connected_at_s: list[float] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="hasty pod")
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                taken, _ = self._listener.accept()
            except OSError:
                return
            self.connected_at_s.append(time.monotonic())
            taken.sendall(self._greeting)
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", not self._greeting, 0))
            taken.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()


SETTINGS = hyperframe.frame.SettingsFrame(0).serialize()
GOAWAY = hyperframe.frame.GoAwayFrame(0).serialize()
GREETINGS = {"a reset": b"", "settings and the end": SETTINGS, "settings and GOAWAY": SETTINGS + GOAWAY}


@pytest.fixture
def hasty(http2: Lab) -> Iterator[Callable[[bytes], HastyPod]]:
    made = []

    def make(greeting: bytes) -> HastyPod:
        made.append(HastyPod(greeting))
        return made[-1]

    yield make
    for pod in made:
        pod.stop()


@pytest.mark.parametrize("greeting", GREETINGS)
def test_a_pod_that_ends_each_connection_at_once_is_tried_with_pauses(
    http2: Lab, hasty: Callable[[bytes], HastyPod], greeting: str
) -> None:
    pod = hasty(GREETINGS[greeting])
    http2.gateway(pod)  # type: ignore[arg-type]  # of a pod it uses the endpoint
    eventually(lambda: len(pod.connected_at_s) >= 4)
    least_s = (1 - BACKOFF_JITTER) * FIRST_BACKOFF_S * (1 + BACKOFF_FACTOR + BACKOFF_FACTOR**2)
    assert pod.connected_at_s[3] - pod.connected_at_s[0] >= 0.9 * least_s


@pytest.mark.parametrize("greeting", GREETINGS)
def test_rpcs_go_past_a_pod_that_ends_each_connection_at_once(
    http2: Lab, hasty: Callable[[bytes], HastyPod], greeting: str
) -> None:
    pod, good = hasty(GREETINGS[greeting]), http2.scripted_pod(answer)
    client = http2.raw_client(http2.gateway(pod, good))  # type: ignore[arg-type]
    assert [client.call("Unary").status for _ in range(20)] == [0] * 20
    assert len(good.streams) == 20


def test_why_a_pod_cannot_be_connected_to_is_said(http2: Lab) -> None:
    deaf, gone = http2.scripted_pod(deaf=True), http2.scripted_pod()
    gone.stop()
    for pod, why in ((deaf, "no connection within 100 ms"), (gone, "onnect")):
        text = "metadata: {name: test}\nspec: {service: pods, connect_timeout_ms: 100, prefix: /test.Pod/}"
        gateway = configured_without_waiting(http2, text, pod)
        eventually(lambda gateway=gateway: states(gateway) == ["failing"])  # type: ignore[misc]
        answer = http2.raw_client(gateway).call("Unary")
        assert (answer.status, answer.header("x-grpcgw-reason")) == (UNAVAILABLE, "connect-failed")
        assert why in answer.message


def test_a_pod_that_sends_goaway_at_once_is_said_to(http2: Lab, hasty: Callable[[bytes], HastyPod]) -> None:
    gateway = http2.gateway(hasty(GREETINGS["settings and GOAWAY"]))  # type: ignore[arg-type]
    eventually(lambda: states(gateway) == ["failing"])
    assert "the pod sent GOAWAY" in http2.raw_client(gateway).call("Unary").message


def configured_without_waiting(http2: Lab, text: str, *pods: ScriptedPod) -> Gateway:
    snapshot = compile_yaml(text, http2.engine).snapshot
    return http2.gateway(configuration=snapshot, clusters=dict.fromkeys(snapshot.clusters, pods))


# One pod, several Mappings


def test_mappings_with_the_same_settings_share_a_connection(http2: Lab) -> None:
    one = "metadata: {name: one}\nspec: {prefix: /one.Pod/, service: pods, timeout_ms: 5000}"
    two = "metadata: {name: two}\nspec: {prefix: /two.Pod/, service: pods, load_balancer: {policy: least_request}}"
    pod = http2.scripted_pod(answer)
    client = http2.raw_client(configured(http2, f"{one}\n---\n{two}", pods=pod))
    assert [client.call(f"/{name}.Pod/Unary").status for name in ("one", "two")] == [0, 0]
    assert pod.connects == 1


# Large clusters

LARGE = MOST_KEPT_CONNECTED + 20


def large(http2: Lab, pod: ScriptedPod, settings: str = "") -> Gateway:
    """A gateway whose only cluster has LARGE pods, all of them `pod` at another address."""
    text = f"metadata: {{name: test}}\nspec: {{service: pods, {settings or 'load_balancer: {policy: round_robin}'}}}"
    gateway = configured_without_waiting(http2, text)
    addresses = tuple(Endpoint(f"127.0.1.{number}", pod.port) for number in range(1, LARGE + 1))
    (name,) = gateway.serving.snapshot.clusters
    gateway.serving.set_endpoints(name, EndpointSet(addresses), time.monotonic())
    return gateway


def test_a_pod_of_a_large_cluster_is_connected_to_when_its_turn_comes(http2: Lab) -> None:
    pod = http2.scripted_pod(answer, host="0.0.0.0")
    client = http2.raw_client(large(http2, pod))
    assert pod.connects == 0
    for turn in range(1, LARGE + 1):
        assert client.call("Unary").status == 0
        assert pod.connects == turn
    assert [client.call("Unary").status for _ in range(LARGE)] == [0] * LARGE
    assert pod.connects == LARGE


def test_least_connections_of_a_large_cluster_connects_where_it_calls(http2: Lab) -> None:
    pod = http2.scripted_pod(answer, host="0.0.0.0")
    gateway = large(http2, pod, "load_balancer: {policy: least_request}")
    client = http2.raw_client(gateway)
    assert [client.call("Unary").status for _ in range(20)] == [0] * 20
    assert 1 < pod.connects <= 20
    eventually(lambda: states(gateway).count("ready") == pod.connects)


def test_connections_of_a_large_cluster_close_when_they_are_unused_and_their_pods_keep_their_turns(http2: Lab) -> None:
    pod = http2.scripted_pod(answer, host="0.0.0.0")
    gateway = large(http2, pod, "cluster_idle_timeout_ms: 200")
    client = http2.raw_client(gateway)
    assert [client.call("Unary").status for _ in range(LARGE)] == [0] * LARGE
    eventually(lambda: set(states(gateway)) == {"idle"})
    eventually(lambda: all(connection.ended.is_set() for connection in pod.connections))
    assert [client.call("Unary").status for _ in range(LARGE)] == [0] * LARGE
    assert pod.connects == 2 * LARGE


def test_pods_of_a_large_cluster_that_are_gone_fail_no_rpc(http2: Lab) -> None:
    pod, gone = http2.scripted_pod(answer, host="0.0.0.0"), http2.scripted_pod()
    gone.stop()
    gateway = large(http2, pod)
    (name,) = gateway.serving.snapshot.clusters
    ports = [gone.port if number % 4 == 0 else pod.port for number in range(1, LARGE + 1)]
    addresses = tuple(Endpoint(f"127.0.1.{number}", port) for number, port in enumerate(ports, 1))
    gateway.serving.set_endpoints(name, EndpointSet(addresses), time.monotonic())
    client = http2.raw_client(gateway)
    assert [client.call("Unary").status for _ in range(LARGE)] == [0] * LARGE
    assert states(gateway).count("failing") > 0
