"""Pods that come and go all the time, and rolling restarts, under load, with every balancing policy: no RPC fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from dataplane.configured import configured
from dataplane.lab import Gateway, Lab
from dataplane.waiting import eventually

POLICIES = [
    "policy: round_robin",
    "policy: least_request",
    "policy: ring_hash, header: x-user",
    "policy: maglev, header: x-user",
    "policy: weighted_round_robin",
]
ON_ENGINES = pytest.mark.parametrize(
    ("lab", "policy"),
    [*(("http2", policy) for policy in POLICIES), ("generic-handler", POLICIES[0])],
    indirect=["lab"],
)
"""The policies know no engine: the other shows with one of them that its connections come and go as well."""
CLIENTS = 3


def balanced(policy: str) -> str:
    return f"metadata: {{name: test}}\nspec: {{service: pods:50051, load_balancer: {{{policy}}}}}"


@contextmanager
def load(lab: Lab, gateway: Gateway) -> Iterator[Callable[[], int]]:
    """RPCs all the time, each of which must succeed; gives the count of those that did. At the end all are counted."""
    stop, done = threading.Event(), [0] * CLIENTS
    lab.defer(stop.set)

    def run(client: int) -> None:
        call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
        while not stop.is_set():
            assert call(b"x", metadata=[("x-user", str(done[client]))]).endswith(b":x")
            done[client] += 1

    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(run, client) for client in range(CLIENTS)]
        try:
            yield lambda: sum(done)
        finally:
            stop.set()
        for client in running:
            client.result()
    eventually(lambda: gateway.codes("Unary") == {0: sum(done)})


def wait_for_more(count: Callable[[], int]) -> None:
    before = count()
    eventually(lambda: count() >= before + CLIENTS)


@ON_ENGINES
def test_pods_that_flap_fail_no_rpc(lab: Lab, policy: str) -> None:
    """One pod after the other leaves and comes back, as fast as a few RPCs are done in between."""
    pods = [lab.pod(name) for name in "abc"]
    gateway = configured(lab, balanced(policy), pods=pods)
    (cluster,) = gateway.serving.snapshot.clusters
    with load(lab, gateway) as count:
        for turn in range(12):
            gateway.set_pods(*(pod for pod in pods if pod is not pods[turn % 3]), cluster=cluster)
            wait_for_more(count)
            gateway.set_pods(*pods, cluster=cluster)
            wait_for_more(count)


@ON_ENGINES
def test_rolling_restart_fails_no_rpc(lab: Lab, policy: str) -> None:
    """As Kubernetes does it: a new pod joins, then an old one leaves, finishes its RPCs and ends."""
    old = [lab.pod("old"), lab.pod("old")]
    members = list(old)
    gateway = configured(lab, balanced(policy), pods=members)
    (cluster,) = gateway.serving.snapshot.clusters
    with load(lab, gateway) as count:
        for leaving in old:
            members.append(lab.pod("new"))
            gateway.set_pods(*members, cluster=cluster)
            members.remove(leaving)
            gateway.set_pods(*members, cluster=cluster)
            eventually(
                lambda: len(gateway.serving.clusters.pods()) == 2, "what is left of the old pod is a preStop hook"
            )
            leaving.stop()
            eventually(lambda: members[-1].calls, "the new pod gets its share")
            wait_for_more(count)
