"""`circuit_breakers`: at a limit RPCs are answered at once, with a reason, and below it again they are served."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.configured import configured
from dataplane.lab import Lab
from dataplane.raw_client import RawClient
from dataplane.scripted_pod import Stream, refusing
from dataplane.waiting import PATIENCE_S, eventually

RESOURCE_EXHAUSTED, UNAVAILABLE = 8, 14


def limited(limits: str, more: str = "") -> str:
    return f"metadata: {{name: test}}\nspec: {{service: pods:50051, circuit_breakers: [{limits}]{more}}}"


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


def assert_turned_away(client: RawClient, limit: str) -> None:
    answer = client.call("Unary")
    assert (answer.status, answer.header("x-grpcgw-reason")) == (RESOURCE_EXHAUSTED, "circuit-breaker"), answer
    assert answer.header("grpc-message") == f"Mapping test.default: circuit breaker {limit} reached"


def test_more_rpcs_than_allowed_are_turned_away_at_once_and_served_again_later(lab: Lab) -> None:
    waiting = Waiting(lab)
    pod = lab.scripted_pod(waiting)
    gateway = configured(lab, limited("{max_requests: 2}"), pods=pod)
    client = lab.raw_client(gateway)
    running = [client.request("Unary") for _ in range(2)]
    eventually(lambda: len(pod.streams) == 2)
    assert_turned_away(client, "max_requests 2")
    waiting.open()
    assert [client.finish(stream).status for stream in running] == [0, 0]
    eventually(lambda: not gateway.in_flight())
    assert client.call("Unary").status == 0
    assert len(pod.streams) == 3, "what was turned away never came to the pod"


def test_a_limit_of_none_at_all_serves_nobody(lab: Lab) -> None:
    gateway = configured(lab, limited("{max_requests: 0}"), pods=lab.pod())
    assert_turned_away(lab.raw_client(gateway), "max_requests 0")


def test_each_priority_has_its_own_limits(lab: Lab) -> None:
    limits = "{max_requests: 0}, {priority: high, max_requests: 5}"
    client = lab.raw_client(configured(lab, limited(limits), pods=lab.pod()))
    assert_turned_away(client, "max_requests 0")
    client = lab.raw_client(configured(lab, limited(limits, ", priority: high"), pods=lab.pod()))
    assert client.call("Unary").status == 0


def test_only_so_many_rpcs_wait_for_a_connection(lab: Lab) -> None:
    deaf = lab.scripted_pod(deaf=True)
    gateway = lab.gateway(configuration=configured(lab, limited("{max_pending_requests: 1}"), pods=()).serving.snapshot)
    (cluster,) = gateway.serving.snapshot.clusters
    gateway.set_pods(deaf, cluster=cluster)
    client = lab.raw_client(gateway)
    client.request("Unary")
    eventually(lambda: gateway.pod_in_flight() == 1)
    assert_turned_away(client, "max_pending_requests 1")


def test_retries_are_limited_as_well(lab: Lab) -> None:
    pod = lab.scripted_pod(refusing(UNAVAILABLE, "not now"))
    retry = ", retry_policy: {retry_on: unavailable, num_retries: 3}"
    client = lab.raw_client(configured(lab, limited("{max_retries: 0}", retry), pods=pod))
    answer = client.call("Unary")
    assert (answer.status, answer.header("grpc-message")) == (UNAVAILABLE, "not now")
    assert len(pod.streams) == 1


@pytest.mark.parametrize("clients", [8])
def test_overload_is_answered_at_once_and_what_is_let_in_is_served(lab: Lab, clients: int) -> None:
    """A slow pod under more load than its limit: nobody waits for a place, and no place is lost."""

    def slow(stream: Stream) -> None:
        stream.read_all()
        time.sleep(0.005)  # the pod's work
        stream.end_at_once(0)

    pod = lab.scripted_pod(slow)
    gateway = configured(lab, limited("{max_requests: 2}"), pods=pod)

    def load() -> list[int | None]:
        with lab.raw_client(gateway) as client:
            return [client.call("Unary").status for _ in range(30)]

    with ThreadPoolExecutor(clients) as pool:
        statuses = [status for client in [pool.submit(load) for _ in range(clients)] for status in client.result()]
    assert set(statuses) == {0, RESOURCE_EXHAUSTED}
    assert statuses.count(0) == len(pod.streams)
    eventually(lambda: not gateway.in_flight())
    with lab.raw_client(gateway) as client:
        assert client.call("Unary").status == 0


def test_mapping_without_limits_has_none(lab: Lab) -> None:
    """Envoy's hidden default of 1024 does not hold."""
    waiting = Waiting(lab)
    pods = [lab.scripted_pod(waiting) for _ in range(2)]
    gateway = configured(lab, "metadata: {name: test}\nspec: {service: pods:50051}", pods=pods)
    clients = [lab.raw_client(gateway) for _ in range(2)]
    running = [(client, client.request("Unary")) for client in clients for _ in range(80)]
    eventually(lambda: sum(len(pod.streams) for pod in pods) == len(running))
    waiting.open()
    assert {client.finish(stream).status for client, stream in running} == {0}
