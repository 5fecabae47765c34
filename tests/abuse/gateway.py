"""The gateway under abuse, seen from outside: its process, its metrics and its log.

Knows the gateway's command line, metrics and log, nothing of its inside. Bad clients have a Mapping and a pod of their
own: what the ordinary client notices is the gateway, not how busy somebody keeps its pod.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families

from abuse.wire import LIMIT_S
from grpcgw import demo
from grpcgw.demo import HOST, ROOT

POLL_S = 0.02
ORDINARY = "greet.default"
"""The ordinary client's Mapping in the metrics."""
QUICK_IDLE_MS = 300

MAPPING = """
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {{name: {name}}}
spec: {{prefix: {prefix}, rewrite: {rewrite}, service: "{service}:50051", resolver: pods, idle_timeout_ms: {idle_ms}}}
---"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec: {{ports: [{{port: 50051}}]}}
---
apiVersion: v1
kind: Endpoints
metadata: {{name: {name}, namespace: default}}
subsets: [{{addresses: [{{ip: {host}}}], ports: [{{port: {port}}}]}}]
---"""
RESOLVER = """
apiVersion: getambassador.io/v2
kind: KubernetesEndpointResolver
metadata: {name: pods}
"""


def resources(greet_port: int, abused_port: int) -> str:
    mappings = (
        ("greet", "/greet.GrpcService/", "/greet.GrpcService/", "greet", 300_000),
        ("abused", "/abuse.Pod/", "/abuse.Pod/", "abused", 300_000),
        ("quick", "/abuse.Quick/", "/abuse.Pod/", "abused", QUICK_IDLE_MS),
    )
    return (
        "".join(
            MAPPING.format(name=name, prefix=prefix, rewrite=rewrite, service=service, idle_ms=idle_ms)
            for name, prefix, rewrite, service, idle_ms in mappings
        )
        + "".join(
            SERVICE.format(name=name, host=HOST, port=port)
            for name, port in (("greet", greet_port), ("abused", abused_port))
        )
        + RESOLVER
    )


@dataclass(frozen=True, slots=True)
class Gateway:
    port: int
    tls_port: int
    admin_port: int
    worker: psutil.Process
    pod: psutil.Process
    """The bad clients' pod."""
    log_file: Path

    def memory_mb(self) -> float:
        return float(self.worker.memory_info().rss) / 1e6

    def rpcs_in_flight(self) -> float:
        """Other than the ordinary client's."""
        url = f"http://{HOST}:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [s for family in families for s in family.samples if s.name == "grpcgw_rpcs_in_flight"]
        assert any(s.labels["mapping"] == ORDINARY for s in samples)
        return sum(s.value for s in samples if s.labels["mapping"] != ORDINARY)

    def complaints(self) -> list[str]:
        """Lines of the log that are not the gateway's ordinary news."""
        return [line for line in self.log_file.read_text().splitlines() if not re.match(r"\S+ \S+ INFO ", line)]


@contextmanager
def running_gateway(folder: Path, *flags: str) -> Iterator[Gateway]:
    """The gateway with one worker, and two pods."""
    with ExitStack() as stack:
        greet, abused = demo.Pod("pod", demo.free_port(0)), demo.free_port(0)
        stack.enter_context(demo.running_pod(greet))
        pod = stack.enter_context(demo.running("tests.abuse.pod", "--port", str(abused)))
        demo.wait_until(lambda: demo.accepts(abused), pod, "the bad clients' pod")
        folder.joinpath("config").mkdir()
        folder.joinpath("config", "greet.yaml").write_text(resources(greet.port, abused))
        ports = demo.free_port(0), demo.free_port(0), demo.free_port(0)
        process = stack.enter_context(running_process(folder, ports, flags))
        demo.wait_until(lambda: demo.is_ready(ports[2]), process, "the gateway")
        (worker,) = psutil.Process(process.pid).children()
        yield Gateway(*ports, worker, psutil.Process(pod.pid), folder / "log")


@contextmanager
def running_process(folder: Path, ports: Sequence[int], flags: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    arguments = ["--config", str(folder / "config"), "--workers", "1", "--address", HOST, "--drain-time", "1", *flags]
    for flag, port in zip(("--port", "--tls-port", "--admin-port"), ports, strict=True):
        arguments += [flag, str(port)]
    command = [sys.executable, "-m", "grpcgw", "run", *arguments]
    with folder.joinpath("log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=demo.clean_environment(), stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def eventually(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    until_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)
    return True
