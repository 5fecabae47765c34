"""How a proxy is started for a comparison: on the proxy's core, before the same pods, on a free port.

Here are grpcgw and bare grpc.aio; the others are in `bench.envoy` and `bench.nginx_haproxy`. None is tuned beyond what
makes it a gRPC proxy with one thread.
"""

from __future__ import annotations

import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.certificate import make_certificate, write_certificate
from bench.children import PROXY_CORES, Process, children_of, running, wait_for_port
from bench.h2load import GREET, Rpc
from bench.pods import Body, Pod, describe_mapping, describe_tls_context, write_configuration
from grpcgw.cli.demo_processes import HOST, free_port, is_ready, wait_until
from grpcgw.settings import EngineName


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy. `pids`: the processes whose processor time counts."""

    name: str
    port: int
    pids: tuple[int, ...]
    authority: bytes = b""
    """What clients verify its certificate with, as PEM; empty: they call in clear text."""
    rpc: Rpc = GREET
    """What it is called with."""


@dataclass(frozen=True, slots=True)
class Gateway(Proxy):
    """grpcgw: its worker serves RPCs, its control process does everything else."""

    control_pid: int = 0
    admin_port: int = 0
    tls_port: int = 0

    @property
    def worker_pid(self) -> int:
        return self.pids[0]

    def ended_rpcs(self) -> dict[str, int]:
        """RPCs by the status they ended with, as the gateway's own metrics count them."""
        with urllib.request.urlopen(f"http://{HOST}:{self.admin_port}/metrics", timeout=5) as answer:
            return parse_ended_rpcs(answer.read().decode())


def parse_ended_rpcs(metrics: str) -> dict[str, int]:
    """Sum of `grpcgw_rpcs_total` by `grpc_status`."""
    ended: dict[str, int] = {}
    for line in metrics.splitlines():
        if line.startswith("grpcgw_rpcs_total{"):
            labels, _, value = line.rpartition(" ")
            status = labels.partition('grpc_status="')[2].partition('"')[0]
            ended[status] = ended.get(status, 0) + int(float(value))
    return ended


Start = Callable[[Sequence[Pod], Path], AbstractContextManager[Proxy]]
"""Starts a proxy before the pods; the folder is its own."""


# ---- grpcgw


@contextmanager
def running_gateway(
    source: Sequence[str],
    engine: EngineName,
    name: str = "grpcgw",
    environment: Mapping[str, str] | None = None,
    workers: int = 1,
) -> Iterator[Gateway]:
    """`grpcgw run` with everything on: both data ports, the admin port. `source`: where its configuration is, and
    further options."""
    port, tls_port, admin_port = free_port(0), free_port(0), free_port(0)
    command = [sys.executable, "-m", "grpcgw", "run", *source, "--workers", str(workers), "--address", HOST]
    command += ["--port", str(port), "--tls-port", str(tls_port), "--admin-port", str(admin_port)]
    command += ["--log-level", "warning", "--drain-time", "1", "--engine", engine]
    with running(command, PROXY_CORES, environment) as control:
        wait_until(lambda: is_ready(admin_port), control, name)
        pids = tuple(children_of(control.pid))
        yield Gateway(name, port, pids, control_pid=control.pid, admin_port=admin_port, tls_port=tls_port)


def grpcgw(
    engine: EngineName,
    name: str = "",
    environment: Mapping[str, str] | None = None,
    mapping: Body | None = None,
    tls: bool = False,
    others: Sequence[Body] = (),
    rpc: Rpc = GREET,
    options: Sequence[str] = (),
) -> Start:
    """`name`: that of its row; empty: with the engine's. `mapping`: the only one, of service `greet`; None: the plain
    one. `tls`: clients call its port for TLS. `others`: further objects. `options`: of its command line."""
    name = name or f"grpcgw, {engine}"

    @contextmanager
    def start(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
        context = (describe_tls_context(write_certificate(folder)),) if tls else ()
        write_configuration(folder, pods, mapping or describe_mapping("greet", "greet"), (*others, *context))
        with running_gateway(("--config", str(folder), *options), engine, name, environment) as gateway:
            called = replace(gateway, rpc=rpc)
            yield replace(called, port=gateway.tls_port, authority=make_certificate()[0]) if tls else called

    return start


# ---- the others


@contextmanager
def bare_aio(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
    port = free_port(0)
    targets = ",".join(pod.address for pod in pods)
    with serving([sys.executable, "-m", "bench.bare_aio", str(port), targets], port, "bare grpc.aio") as process:
        yield Proxy("bare grpc.aio", port, (process.pid,))


@contextmanager
def serving(command: Sequence[str], port: int, what: str) -> Iterator[Process]:
    with running(command, PROXY_CORES) as process:
        wait_for_port(port, process, what)
        yield process
