"""nginx (`grpc_pass`) and HAProxy beside grpcgw, each with one worker process or thread and without access log."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.children import children_of
from bench.pods import Pod
from bench.proxies import Proxy, serving
from grpcgw.cli.demo_processes import HOST, free_port

NGINX = """
daemon off; worker_processes 1; pid {folder}/pid; error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; scgi_temp_path {folder}/scgi; uwsgi_temp_path {folder}/uwsgi;
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
    command = [find_program("nginx") or "nginx", "-p", str(folder), "-c", str(config), "-e", "stderr"]
    with serving(command, port, "nginx") as process:
        yield Proxy("nginx", port, tuple(children_of(process.pid)))


@contextmanager
def haproxy(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
    port, config = free_port(0), folder / "haproxy.cfg"
    servers = "\n".join(f"  server {pod.name} {pod.address} proto h2" for pod in pods)
    config.write_text(HAPROXY.format(host=HOST, port=port, servers=servers))
    with serving([find_program("haproxy") or "haproxy", "-db", "-q", "-f", str(config)], port, "HAProxy") as process:
        yield Proxy("HAProxy", port, (process.pid,))


def find_program(name: str) -> str | None:
    """On the PATH, or where scripts/install-system-packages puts programs; None if it is not installed."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
