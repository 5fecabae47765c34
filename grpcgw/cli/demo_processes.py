"""Processes of the demo: free ports, a child process that always ends, and waiting until it serves.

Knows the gateway only from outside: its command line, its ports and its readiness.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from grpcgw.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
START_DEADLINE_S = 60.0
"""Two seconds are usual; a busy machine takes more than half a minute."""
STOP_DEADLINE_S = 10.0
POLL_S = 0.05


def free_port(wanted: int) -> int:
    """`wanted`, or another free port where `wanted` is taken. Raises UserError if there is none."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError(f"no free port on {HOST}")


@contextmanager
def running(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python child process in the checkout; it ends with the block, however that ends."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env=clean_environment())
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def clean_environment() -> dict[str, str]:
    """The environment without the variables that configure the gateway."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("GRPCGW_", "AMBASSADOR_"))}


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], what: str) -> None:
    """Raises UserError if `process` ends, or is not ready within START_DEADLINE_S."""
    deadline = time.monotonic() + START_DEADLINE_S
    while not ready():
        if process.poll() is not None:
            raise UserError(f"{what} ended with exit code {process.returncode} while starting: see its messages above")
        if time.monotonic() > deadline:
            raise UserError(f"{what} was not ready within {START_DEADLINE_S:.0f} s")
        time.sleep(POLL_S)


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def is_ready(admin_port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{HOST}:{admin_port}/ambassador/v0/check_ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
