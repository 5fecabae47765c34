"""Measures an ordinary client beside each attack of `tests/abuse/attacks.py`, and alone just before and after it.

The worker has a core for itself. Attacker and attacked pod share the other one with the ordinary client and its pod,
and run when these do not (SCHED_IDLE): the attack is as fast as it can be, and what the ordinary client notices is the
gateway. How far that is true is measured as well: calls straight to the pod, past the gateway, during the attack.

`python -m bench.abuse PORT TLS_PORT ATTACK` is the attacker. It prints a line when it begins; when its standard input
ends, it prints the connections it opened and the bytes it sent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

import grpc

from bench.backend import METHOD, make_reply, make_request
from bench.children import resident_bytes, running
from bench.pods import (
    Body,
    Pod,
    describe_endpoints,
    describe_mapping,
    describe_resolver,
    describe_service,
    running_pods,
    wait_for_answers,
    write_objects,
)
from bench.progress import say
from bench.proxies import Gateway, running_gateway
from bench.report import percentile
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError
from grpcgw.settings import EngineName
from tests.abuse.attacks import ATTACKS, attacking

MEASURE_S = 1.0
"""For each p99: some 500 calls, one after the other."""
PAUSE_S = 0.001
"""Between calls of the ordinary client, so that the attacker gets most of their core."""
SETTLE_S = 0.3
"""After an attack has begun or ended, before calls count."""
CALL_LIMIT_S = 20
ANY_MESSAGE = ("--max-message-bytes", str(1 << 30))
"""The message of 1 GiB is to pass, not to be refused at its first byte."""
ATTACKED = {"abused": ("/abuse.Pod/", ()), "large": ("/abuse.Large/", ("-1",))}
"""Service → prefix, arguments of its pod."""


@dataclass(frozen=True, slots=True)
class Round:
    """One attack, once."""

    alone_ms: float
    """p99 of the ordinary client, mean of before and after."""
    beside_ms: float
    """Its p99 during the attack."""
    direct_ms: float
    """The same straight to the pod, past the gateway: what the attack costs by its place on the machine."""
    connections: int
    sent_bytes: int
    worker_bytes: int
    """Memory of the worker when the attack ended."""


@dataclass(frozen=True, slots=True)
class Outcome:
    attack: str
    rounds: tuple[Round, ...]

    @property
    def ratio(self) -> float:
        return median(one.beside_ms / one.alone_ms for one in self.rounds)


def measure_attacks(rounds: int, engine: EngineName, attacks: Sequence[str] = tuple(ATTACKS)) -> list[Outcome]:
    """Raises UserError where a call of the ordinary client fails, or an attacker ends early."""
    seen: dict[str, list[Round]] = {attack: [] for attack in attacks}
    with (
        running_pods(1) as pods,
        tempfile.TemporaryDirectory(prefix="grpcgw-bench-") as folder,
        running_attacked_pods() as attacked,
    ):
        write_objects(Path(folder) / "bench.yaml", describe(pods[0], attacked))
        with running_gateway(("--config", folder, *ANY_MESSAGE), engine) as gateway:
            wait_for_answers(gateway.name, gateway.port, pods)
            with (
                grpc.insecure_channel(f"{HOST}:{gateway.port}") as channel,
                grpc.insecure_channel(pods[0].address) as straight,
            ):
                client, direct = OrdinaryClient(channel, pods[0]), OrdinaryClient(straight, pods[0])
                for number in range(rounds):
                    say(f"round {number + 1} of {rounds}")
                    before_ms = client.p99_ms()
                    for attack, found in seen.items():
                        one = attack_once(gateway, client, direct, attack, before_ms)
                        found.append(one)
                        before_ms = 2 * one.alone_ms - before_ms
            wait_for_answers(gateway.name, gateway.port, pods)
    return [Outcome(attack, tuple(found)) for attack, found in seen.items()]


def attack_once(
    gateway: Gateway, client: OrdinaryClient, direct: OrdinaryClient, attack: str, before_ms: float
) -> Round:
    with running_attacker(gateway, attack) as attacker:
        client.call_for(SETTLE_S)
        beside_ms, direct_ms = client.p99_ms(), direct.p99_ms()
        worker_bytes = resident_bytes(gateway.worker_pid)
        connections, sent_bytes = finish(attacker, attack)
    client.call_for(SETTLE_S)
    return Round(mean((before_ms, client.p99_ms())), beside_ms, direct_ms, connections, sent_bytes, worker_bytes)


class OrdinaryClient:
    """Makes one call after the other and checks each answer."""

    def __init__(self, channel: grpc.Channel, pod: Pod) -> None:
        self._call, self._reply = channel.unary_unary(METHOD), make_reply(pod.name)

    def p99_ms(self) -> float:
        return percentile(self.call_for(MEASURE_S), 99)

    def call_for(self, duration_s: float) -> list[float]:
        """Milliseconds of each call. Raises UserError."""
        took_ms, request, began_s = list[float](), make_request(), time.monotonic()
        while time.monotonic() - began_s < duration_s or not took_ms:
            start_s = time.perf_counter()
            try:
                reply = self._call(request, timeout=CALL_LIMIT_S)
            except grpc.RpcError as error:
                raise UserError(f"the ordinary client: {error.code().name}: {error.details()}") from error
            took_ms.append(1000 * (time.perf_counter() - start_s))
            if reply != self._reply:
                raise UserError(f"the ordinary client got {reply!r}")
            time.sleep(PAUSE_S)
        return took_ms


# ---- what is attacked


@contextmanager
def running_attacked_pods() -> Iterator[dict[str, Pod]]:
    """By service."""
    command = ["chrt", "-i", "0", sys.executable, "-m", "tests.abuse.pod"]
    (abused, of_abused), (large, of_large) = ((name, arguments) for name, (_, arguments) in ATTACKED.items())
    with running([*command, *of_abused], says=True) as first, running([*command, *of_large], says=True) as second:
        assert first.stdout is not None
        assert second.stdout is not None
        yield {abused: Pod(abused, int(first.stdout.readline())), large: Pod(large, int(second.stdout.readline()))}


def describe(ordinary: Pod, attacked: dict[str, Pod]) -> list[Body]:
    objects = [describe_resolver(), describe_mapping("greet", "greet")]
    for name, (prefix, _) in ATTACKED.items():
        mapping = describe_mapping(name, name, prefix)
        mapping["spec"]["rewrite"] = "/abuse.Pod/"
        objects.append(mapping)
    for service, pod in {"greet": ordinary, **attacked}.items():
        objects += [describe_service(service), describe_endpoints(service, [pod])]
    return objects


# ---- the attacker


@contextmanager
def running_attacker(gateway: Gateway, attack: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.abuse", str(gateway.port), str(gateway.tls_port), attack]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as attacker:
        assert attacker.stdout is not None
        try:
            attacker.stdout.readline()
            yield attacker
        finally:
            attacker.kill()


def finish(attacker: subprocess.Popen[str], attack: str) -> tuple[int, int]:
    """Connections opened, bytes sent."""
    said = attacker.communicate()[0].split()
    if len(said) != 2:
        raise UserError(f"the attacker ({attack}) ended early")
    return int(said[0]), int(said[1])


def main(port: int, tls_port: int, attack: str) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    with attacking(ATTACKS[attack], port, tls_port) as attacker:
        print("begun", flush=True)
        sys.stdin.read()
    print(attacker.opened, attacker.sent_bytes, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
