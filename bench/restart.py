"""A rolling restart of all pods of a service under load, as a Deployment does it: no RPC may fail.

The pods are the example's own servers. A new pod is announced once it listens; then, as in Kubernetes, an old one is
removed from its service and gets SIGTERM, after the pause of a `preStop` hook as in deploy/examples. Without the pause
its server answers CANCELLED to RPCs on their way, which the gateway cannot distinguish from a handler's own.
"""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import grpc

import examples.greet  # noqa: F401  # puts the generated code on the import path
from bench.backend import METHOD, make_request
from bench.changes import cluster_gateway
from bench.children import running, wait_for_port
from bench.pods import NAMESPACE, Pod, describe_mapping, describe_resolver, describe_service, describe_slice
from bench.progress import say
from greet import greet_pb2
from grpcgw.cli.demo_processes import HOST, free_port
from grpcgw.settings import EngineName
from tests.kube_api import KubeApi

PODS = 3
PRE_STOP_S = 0.5
CALLERS = 8
CALL_DEADLINE_S = 10.0
LOAD_BALANCERS: tuple[Mapping[str, object], ...] = (
    {"policy": "round_robin"},
    {"policy": "least_request"},
    {"policy": "ring_hash", "header": "x-caller"},
    {"policy": "maglev", "header": "x-caller"},
)
_callers = itertools.count()
"""Each call has a different hash key, so that every pod gets calls under every policy."""


@dataclass(slots=True)
class Outcome:
    """Results of the callers. `failures`: by status and details."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def calls(self) -> int:
        return self.answers.total() + self.failures.total()


def measure_rolling_restart(restarts: int, engine: EngineName, load_balancer: Mapping[str, object]) -> Outcome:
    """Replace all pods `restarts` times while `CALLERS` call without a pause."""
    mapping = describe_mapping("greet", "greet")
    mapping["spec"]["load_balancer"] = dict(load_balancer)
    with ExitStack() as stack:
        api = stack.enter_context(KubeApi())
        for described in (describe_resolver(), mapping, describe_service("greet")):
            api.put(described)
        pods: list[ExitStack] = []
        stack.callback(close_all, pods)
        for number in range(PODS):
            pods.append(start_pod(api, f"first-{number}"))
        gateway = stack.enter_context(cluster_gateway(api, engine))
        outcome = Outcome()
        with calling(gateway.port, outcome):
            for number in range(restarts):
                say(f"{load_balancer['policy']}: rolling restart {number + 1} of {restarts}, {PODS} pods")
                for place in range(PODS):
                    new = start_pod(api, f"restart-{number}-{place}")
                    old, pods[place] = pods[place], new
                    old.close()
        return outcome


def close_all(pods: Iterable[ExitStack]) -> None:
    for pod in pods:
        pod.close()


def start_pod(api: KubeApi, name: str) -> ExitStack:
    """A pod that listens and is announced; `close` withdraws and ends it."""
    pod = Pod(name, free_port(0))
    arguments = ["--address", HOST, "--port", str(pod.port), "--host-name", name]
    with ExitStack() as stack:
        process = stack.enter_context(running([sys.executable, "-m", "examples.greet.server", *arguments]))
        wait_for_port(pod.port, process, name)
        api.put(describe_slice("greet", pod))
        stack.callback(time.sleep, PRE_STOP_S)
        stack.callback(api.delete, "EndpointSlice", NAMESPACE, f"greet-{name}")
        return stack.pop_all()


@contextmanager
def calling(port: int, outcome: Outcome) -> Iterator[None]:
    stopping = threading.Event()
    threads = [threading.Thread(target=call_on, args=(port, outcome, stopping)) for _ in range(CALLERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def call_on(port: int, outcome: Outcome, stopping: threading.Event) -> None:
    """One client with a connection of its own, without retries, which would hide failures."""
    options = [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"{HOST}:{port}", options=options) as channel:
        call = channel.unary_unary(METHOD, response_deserializer=greet_pb2.GreetReply.FromString)
        while not stopping.is_set():
            seen, what = ask(call)
            with outcome.lock:
                (outcome.answers if seen else outcome.failures)[what] += 1


def ask(call: grpc.UnaryUnaryMultiCallable) -> tuple[bool, str]:
    try:
        caller = (("x-caller", str(next(_callers))),)
        message = call(make_request(), timeout=CALL_DEADLINE_S, metadata=caller).message
    except grpc.RpcError as error:
        return False, f"{error.code().name}: {error.details()}"
    return message.startswith("Got input test server host: "), message
