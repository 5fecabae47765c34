"""Measures how long a change takes to reach the traffic: a pod that leaves or joins, a saved file.

Calls go through the gateway one after the other all the time; a change counts from before it is made to the end of the
first RPC whose answer shows it.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import grpc

from bench.backend import METHOD, make_reply, make_request
from bench.pods import (
    NAMESPACE,
    Pod,
    check_answers,
    describe_endpoints,
    describe_mapping,
    describe_resolver,
    describe_service,
    describe_slice,
    running_pods,
    write_objects,
)
from bench.proxies import Gateway, running_gateway
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError
from grpcgw.settings import EngineName
from tests.kube_api import KubeApi

SEEN_DEADLINE_S = 5.0
SETTLING_CALLS = 100
"""Upper bound of the random number of calls between two changes; random, so that changes meet every phase of timers."""

OTHERS_PER_FILE = 100

Ask = Callable[[], str]
"""Makes one call; returns the name of the pod that answered."""


@contextmanager
def asking(port: int, pods: tuple[Pod, ...]) -> Iterator[Ask]:
    names = {make_reply(pod.name): pod.name for pod in pods}
    with grpc.insecure_channel(f"{HOST}:{port}") as channel:
        call = channel.unary_unary(METHOD)
        yield lambda: names[call(make_request(), timeout=SEEN_DEADLINE_S)]


def wait_for_answers(ask: Ask, shows: Callable[[str, str], bool]) -> float:
    """Call until two answers in a row show the change; returns when (`time.monotonic`)."""
    limit_s = time.monotonic() + SEEN_DEADLINE_S
    before = ask()
    while time.monotonic() < limit_s:
        answer = ask()
        if shows(before, answer):
            return time.monotonic()
        before = answer
    raise UserError(f"a change was not live after {SEEN_DEADLINE_S:.0f} s")


def has_moved(name: str, before: str, answer: str) -> bool:
    return name in (before, answer)


def keep_asking(ask: Ask, allowed: set[str]) -> None:
    """Call for a random time; only the current pods may answer."""
    for _ in range(random.randint(1, SETTLING_CALLS)):
        if (answer := ask()) not in allowed:
            raise UserError(f"{answer} answered after it had left")


# ---- pods, announced by an API server


@contextmanager
def cluster_gateway(api: KubeApi, engine: EngineName) -> Iterator[Gateway]:
    with tempfile.TemporaryDirectory(prefix="grpcgw-bench-") as folder:
        kubeconfig = api.kubeconfig(Path(folder) / "kubeconfig")
        with running_gateway(("--kubernetes", "--kubeconfig", str(kubeconfig)), engine) as gateway:
            yield gateway


def measure_pod_changes(changes: int, engine: EngineName) -> list[float]:
    """Milliseconds from the API event to the first RPC that follows it, for pods that leave and join alternately."""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        api = stack.enter_context(KubeApi())
        for described in (describe_resolver(), describe_mapping("greet", "greet"), describe_service("greet")):
            api.put(described)
        for pod in pods:
            api.put(describe_slice("greet", pod))
        gateway = stack.enter_context(cluster_gateway(api, engine))
        check_answers("grpcgw", gateway.port, pods)
        ask = stack.enter_context(asking(gateway.port, pods))
        delays_ms: list[float] = []
        for _ in range(changes // 2):
            delays_ms += change_twice(api, ask, *pods)
        check_answers("grpcgw", gateway.port, pods)
        return delays_ms


def change_twice(api: KubeApi, ask: Ask, stays: Pod, moves: Pod) -> list[float]:
    """`moves` leaves and joins again."""
    keep_asking(ask, {stays.name, moves.name})
    began_s = time.monotonic()
    api.delete("EndpointSlice", NAMESPACE, f"greet-{moves.name}")
    left_s = wait_for_answers(ask, lambda before, answer: before == answer == stays.name) - began_s
    keep_asking(ask, {stays.name})
    began_s = time.monotonic()
    api.put(describe_slice("greet", moves))
    joined_s = wait_for_answers(ask, partial(has_moved, moves.name)) - began_s
    return [1000 * left_s, 1000 * joined_s]


# ---- files


@dataclass(slots=True)
class FileChanges:
    """Results for saved Mappings, in milliseconds: `delays` until live, and the duration of the slowest RPC."""

    delays_ms: list[float] = field(default_factory=list)
    slowest_rpc_ms: float = 0.0

    def timed(self, ask: Ask) -> Ask:
        def timed_ask() -> str:
            began_s = time.monotonic()
            answer = ask()
            self.slowest_rpc_ms = max(self.slowest_rpc_ms, 1000 * (time.monotonic() - began_s))
            return answer

        return timed_ask


def write_others(folder: Path, count: int) -> None:
    """Mappings without traffic, over a hundred services, a hundred in a file."""
    for first in range(0, count, OTHERS_PER_FILE):
        numbers = range(first, min(first + OTHERS_PER_FILE, count))
        mappings = [describe_mapping(f"other-{n}", f"other-{n % 100}", f"/other.Service{n}/") for n in numbers]
        write_objects(folder / f"others-{first}.yaml", mappings)


def measure_file_changes(changes: int, engine: EngineName, others: int = 0) -> FileChanges:
    """Time from saving a Mapping with another service to the first RPC that goes there, among `others`."""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="grpcgw-bench-")))
        for pod in pods:  # a Mapping of its own keeps each service in use, whichever service the changing one names
            known = [describe_service(pod.name), describe_endpoints(pod.name, (pod,))]
            write_objects(folder / f"{pod.name}.yaml", [*known, describe_mapping(pod.name, pod.name, f"/{pod.name}/")])
        write_others(folder, others)
        changing = folder / "changing.yaml"
        write_objects(changing, [describe_resolver(), describe_mapping("greet", pods[0].name)])
        gateway = stack.enter_context(running_gateway(("--config", str(folder)), engine))
        seen = FileChanges()
        ask = seen.timed(stack.enter_context(asking(gateway.port, pods)))
        for number in range(1, changes + 1):
            old, new = pods[(number - 1) % 2].name, pods[number % 2].name
            keep_asking(ask, {old})
            began_s = time.monotonic()
            write_objects(changing, [describe_resolver(), describe_mapping("greet", new)])
            live_s = wait_for_answers(ask, partial(has_moved, new))
            seen.delays_ms.append(1000 * (live_s - began_s))
        return seen
