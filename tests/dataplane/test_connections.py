"""Connections to pods as a Mapping asks for them: how long they may take, rest and live, and if they are probed."""

from __future__ import annotations

import threading
import time

import pytest

from dataplane.configured import compile_yaml, configured
from dataplane.lab import Gateway, Lab
from dataplane.scripted_pod import Stream
from dataplane.waiting import PATIENCE_S, eventually

UNAVAILABLE = 14


def connecting(settings: str, service: str = "pods") -> str:
    return f"metadata: {{name: {service}}}\nspec: {{prefix: /test.{service}/, service: {service}, {settings}}}"


def states(gateway: Gateway) -> dict[str, str]:
    return {report.address: report.state for report in gateway.serving.clusters.pod_reports()}


def answer(stream: Stream) -> None:
    """`Hold` gets headers, and its status once the client has half-closed; every other RPC is answered."""
    if stream.header(":path") == "/test.pods/Hold":
        stream.send_headers()
    stream.read_all()
    if stream.header(":path") == "/test.pods/Hold":
        stream.end()
    else:
        stream.end_at_once(0)


def test_connect_timeout_is_the_mappings(lab: Lab) -> None:
    """Two pods that take connections and never say a word: the one with the short limit is given up first."""
    text = "\n---\n".join(
        (connecting("connect_timeout_ms: 60000", "long"), connecting("connect_timeout_ms: 100", "short"))
    )
    snapshot = compile_yaml(text, lab.engine).snapshot
    pods = {"long": lab.scripted_pod(deaf=True), "short": lab.scripted_pod(deaf=True)}
    clusters = {name: [pods[cluster.service.name]] for name, cluster in snapshot.clusters.items()}
    gateway = lab.gateway(configuration=snapshot, clusters=clusters)
    eventually(lambda: pods["short"].connects >= 3)
    assert pods["long"].connects == 1
    assert states(gateway)[str(pods["long"].endpoint)] == "connecting"


def test_idle_connection_is_closed_and_wakes_with_the_next_rpc(lab: Lab) -> None:
    pod = lab.scripted_pod(answer)
    gateway = configured(lab, connecting("cluster_idle_timeout_ms: 1000"), pods=pod)
    client = lab.raw_client(gateway)
    assert client.call("/test.pods/Unary").status == 0
    eventually(lambda: states(gateway)[str(pod.endpoint)] == "idle")
    assert pod.connects == 1
    assert client.call("/test.pods/Unary").status == 0
    assert pod.connects == 2


def test_connection_of_full_age_is_replaced_and_ends_with_its_last_rpc(lab: Lab) -> None:
    pod = lab.scripted_pod(answer)
    gateway = configured(lab, connecting("cluster_max_connection_lifetime_ms: 300"), pods=pod)
    client = lab.raw_client(gateway)
    held = client.request("/test.pods/Hold", end=False)
    eventually(lambda: pod.streams)
    eventually(lambda: pod.connects >= 3)
    assert client.call("/test.pods/Unary").status == 0
    first, last = pod.streams[0], pod.streams[-1]
    assert last.connection is not first.connection
    assert not first.gone.is_set()
    client.h2.end_stream(held)
    client.flush()
    assert client.finish(held).status == 0


@pytest.mark.parametrize("spelling", ["time", "idle_time"])
def test_quiet_connection_is_probed(lab: Lab, spelling: str) -> None:
    probed, unprobed = lab.scripted_pod(answer), lab.scripted_pod(answer)
    configured(lab, connecting(f"keepalive: {{{spelling}: 1}}"), pods=probed)
    configured(lab, connecting("grpc: true"), pods=unprobed)
    assert probed.connections[0].pinged.wait(PATIENCE_S)
    assert not unprobed.connections[0].pinged.is_set()


def test_pod_that_does_not_answer_probes_is_given_up_in_their_time(lab: Lab) -> None:
    """grpc core would wait for a minute."""
    thawed = threading.Event()

    def freeze(stream: Stream) -> None:
        stream.send_headers()
        stream.connection.freeze(thawed)

    gateway = configured(lab, connecting("keepalive: {time: 1, interval: 1, probes: 1}"), pods=lab.scripted_pod(freeze))
    client = lab.raw_client(gateway)
    began_s = time.monotonic()
    answer = client.finish(client.request("/test.pods/Hold"))
    thawed.set()
    assert answer.status == UNAVAILABLE
    assert time.monotonic() - began_s < 40
