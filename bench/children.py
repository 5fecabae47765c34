"""Child processes of the benchmark: pinned to a core, always ended, with their CPU time and memory.

The proxy under test has the first core for itself; pods and load share the others, so that they never slow it.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from grpcgw.cli.demo_processes import HOST, ROOT, STOP_DEADLINE_S, accepts, clean_environment, wait_until
from grpcgw.settings import cores

PROXY_CORES = frozenset(cores()[:1])
OTHER_CORES = frozenset(cores()[1:]) or PROXY_CORES
SCHEDULER_CLOCK = 2
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

Process = subprocess.Popen[bytes]


@contextmanager
def on_cores(chosen: Iterable[int]) -> Iterator[None]:
    """Run the block's thread, and what it starts, on these cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, chosen)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def running(
    command: Sequence[str],
    on: Iterable[int] = OTHER_CORES,
    environment: Mapping[str, str] | None = None,
    says: bool = False,
) -> Iterator[Process]:
    """A child process; its stdout is discarded unless it `says` something to be read here. stderr is passed on."""
    with on_cores(on):
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**clean_environment(), **(environment or {})},
            stdout=subprocess.PIPE if says else subprocess.DEVNULL,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: Process) -> None:
    process.terminate()
    try:
        process.wait(STOP_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_port(port: int, process: Process, what: str) -> None:
    """Raises UserError if the child ends, or is not ready in time."""
    wait_until(lambda: accepts(port), process, f"{what} on {HOST}:{port}")


# ---- resource usage of a process, from the kernel


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of these processes so far, user and system."""
    return sum(time.clock_gettime(_clock_of(pid)) for pid in pids)


def _clock_of(pid: int) -> int:
    """As clock_getcpuclockid(3) makes it on Linux: /proc/PID/stat would count in steps of 10 ms."""
    return ~pid << 3 | SCHEDULER_CLOCK


def children_of(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(child) for child in children.read().split()]


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as memory:
        return int(memory.read().split()[1]) * PAGE_BYTES


def thread_count(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
