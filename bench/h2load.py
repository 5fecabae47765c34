"""Runs h2load (Debian: nghttp2-client), parses its report, and checks that all requests were answered.

h2load counts every HTTP 200 as a success, and a gRPC error is a 200 without a body. So the body's bytes are counted.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

from bench.backend import METHOD, make_reply, make_request
from bench.children import OTHER_CORES, on_cores
from bench.report import percentile
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError

RUN_DEADLINE_S = 120
_UNIT_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


@dataclass(frozen=True, slots=True)
class Rpc:
    """The unary RPC that a load repeats, and its answer."""

    path: str = METHOD
    message: bytes = make_request()
    reply: bytes = make_reply("pod-000")
    """Of this size is every answer."""
    metadata: tuple[tuple[str, str], ...] = ()


GREET = Rpc()


@dataclass(frozen=True, slots=True)
class Load:
    """One report."""

    succeeded: int
    body_bytes: int
    rpcs_per_s: float
    mean_latency_us: float
    """Time from request to whole answer; with many concurrent calls mostly the time they wait for each other."""
    p99_latency_us: float


def parse_report(text: str, log: str) -> Load:
    """`log`: a line for each request, its last column the time in us. Raises UserError if these are not h2load's."""
    found = [
        re.search(pattern, text)
        for pattern in (
            r"(\d+) succeeded",
            r"\((\d+)\) data",
            r"([\d.]+) req/s",
            r"time for request:\s+\S+\s+\S+\s+([\d.]+)(us|ms|s)\s",
        )
    ]
    if not all(found):
        raise UserError(f"not a report of h2load: {text[:200]!r}")
    succeeded, body_bytes, rate, mean = (match.groups() for match in found if match)
    times_us = [int(line.rpartition("\t")[2]) for line in log.splitlines()]
    if not times_us:
        raise UserError("h2load logged no request")
    mean_us = float(mean[0]) * _UNIT_US[mean[1]]
    return Load(int(succeeded[0]), int(body_bytes[0]), float(rate[0]), mean_us, percentile(times_us, 99))


def make_frame(message: bytes) -> bytes:
    return b"\0" + len(message).to_bytes(4, "big") + message


def run_h2load(
    what: str, port: int, requests: int, clients: int, streams: int, tls: bool = False, rpc: Rpc = GREET
) -> Load:
    """`requests` times `rpc` on `clients` connections of `streams` at a time. Raises UserError unless all are answered.

    `what` names the proxy in the error. h2load does not verify certificates.
    """
    with tempfile.NamedTemporaryFile() as body, tempfile.NamedTemporaryFile("r") as log, on_cores(OTHER_CORES):
        body.write(make_frame(rpc.message))
        body.flush()
        command = ["h2load", "-n", str(requests), "-c", str(clients), "-m", str(streams), "-d", body.name]
        command += ["-H", "te: trailers", "-H", "content-type: application/grpc", "--log-file", log.name]
        for key, value in rpc.metadata:
            command += ["-H", f"{key}: {value}"]
        command.append(f"{'https' if tls else 'http'}://{HOST}:{port}{rpc.path}")
        done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_DEADLINE_S, check=False)
        load = parse_report(done.stdout, log.read())
    expected = requests * len(make_frame(rpc.reply))
    if load.succeeded != requests or load.body_bytes != expected:
        raise UserError(
            f"{what}: of {requests} RPCs {load.succeeded} succeeded,"
            f" with {load.body_bytes} bytes of replies where {expected} were due"
        )
    return load


def require_h2load() -> None:
    if shutil.which("h2load") is None:
        raise UserError("h2load is not installed: run scripts/install-system-packages, or install nghttp2-client")
