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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import psutil
from prometheus_client.parser import text_string_to_metric_families

from abuse.wire import HOST, LIMIT_S
from grpcgw.cli.demo_processes import ROOT, clean_environment

START_LIMIT_S = 60.0
POLL_S = 0.02
QUICK_IDLE_MS = 300
ANY_LENGTH = "-1"
"""The pod takes messages of any length."""
ORDINARY = "ordinary.default"
"""The ordinary client's Mapping in the metrics."""

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


def resources(ordinary_port: int, abused_port: int, large_port: int) -> str:
    mappings = (
        ("ordinary", "/ordinary.Pod/", "ordinary", 300_000),
        ("abused", "/abuse.Pod/", "abused", 300_000),
        ("quick", "/abuse.Quick/", "abused", QUICK_IDLE_MS),
        ("large", "/abuse.Large/", "large", 300_000),
    )
    services = (("ordinary", ordinary_port), ("abused", abused_port), ("large", large_port))
    parts = [
        MAPPING.format(name=name, prefix=prefix, rewrite="/abuse.Pod/", service=service, idle_ms=idle_ms)
        for name, prefix, service, idle_ms in mappings
    ]
    parts += [SERVICE.format(name=name, host=HOST, port=port) for name, port in services]
    return "".join(parts) + RESOLVER


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
        """Resident memory of the worker, in MiB."""
        return float(self.worker.memory_info().rss) / (1 << 20)

    def rpcs_in_flight(self) -> float:
        """Other than the ordinary client's."""
        url = f"http://{HOST}:{self.admin_port}/metrics"
        with urllib.request.urlopen(url, timeout=LIMIT_S) as answer:
            families = text_string_to_metric_families(answer.read().decode())
        samples = [s for family in families for s in family.samples if s.name == "grpcgw_rpcs_in_flight"]
        assert any(s.labels["mapping"] == ORDINARY for s in samples)
        return sum(s.value for s in samples if s.labels["mapping"] != ORDINARY)

    def complaints(self) -> list[str]:
        """Lines of the log that are not the gateway's ordinary news, nor of handshakes: one per cause and minute."""
        lines = self.log_file.read_text().splitlines()
        return [line for line in lines if not re.match(r"\S+ \S+ (INFO |.*: TLS handshakes failed: )", line)]


@contextmanager
def running_gateway(folder: Path, *flags: str) -> Iterator[Gateway]:
    """The gateway with one worker, and three pods."""
    config, log_file = folder / "config", folder / "log"
    with ExitStack() as stack, log_file.open("wb") as log:
        _, ordinary_port = stack.enter_context(running_pod())
        pod, abused_port = stack.enter_context(running_pod())
        _, large_port = stack.enter_context(running_pod(ANY_LENGTH))
        config.mkdir()
        (config / "resources.yaml").write_text(resources(ordinary_port, abused_port, large_port))
        command = ["grpcgw", "run", "--config", str(config), "--workers", "1", "--address", HOST, "--drain-time", "1"]
        command += ["--port", "0", "--tls-port", "0", "--admin-port", "0", *flags]
        process = stack.enter_context(running(*command, stdout=log, stderr=log))
        admin_port, port, tls_port = read_ports(log_file, process)
        (worker,) = psutil.Process(process.pid).children()
        yield Gateway(port, tls_port, admin_port, worker, psutil.Process(pod.pid), log_file)


@contextmanager
def running_pod(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with running("tests.abuse.pod", *arguments, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        with process.stdout:
            yield process, int(process.stdout.readline())


@contextmanager
def running(module: str, *arguments: str, **streams: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, env=clean_environment(), **streams)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def read_ports(log_file: Path, process: subprocess.Popen[bytes]) -> tuple[int, int, int]:
    """Those of the diagnostics page, of clear text and of TLS, as the log names them in any order once all are open."""
    found: dict[str, int] = {}

    def all_open() -> bool:
        said = re.findall(rf"{HOST}:(\d+)(/ambassador/v0/diag/| \(h2c\)| \(tls\))", log_file.read_text())
        found.update({what.strip(): int(port) for port, what in said})
        return len(found) == 3 or process.poll() is not None

    eventually(all_open, START_LIMIT_S)
    assert len(found) == 3, log_file.read_text()
    return found["/ambassador/v0/diag/"], found["(h2c)"], found["(tls)"]


def eventually(holds: Callable[[], bool], limit_s: float = LIMIT_S) -> bool:
    until_s = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > until_s:
            return False
        time.sleep(POLL_S)
    return True
