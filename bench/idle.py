"""Measures a worker that has thousands of pods and no RPC: its processor time and threads."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench.children import cpu_s, resident_bytes, thread_count
from bench.pods import running_pods, wait_for_answers, write_configuration
from bench.progress import say
from bench.proxies import running_gateway
from grpcgw.settings import EngineName

SETTLE_S = 3.0
MEASURE_S = 20.0


@dataclass(frozen=True, slots=True)
class Idle:
    pods: int
    core_percent: float
    """Processor time of the worker, of one core."""
    control_percent: float
    """That of the control process."""
    threads: int
    resident_bytes: int


def measure_idle(count: int, engine: EngineName) -> Idle:
    """Every pod answers an RPC first, so that each has a connection if the engine keeps one."""
    with running_pods(count) as pods, tempfile.TemporaryDirectory(prefix="grpcgw-bench-") as folder:
        write_configuration(Path(folder), pods)
        with running_gateway(("--config", folder), engine) as gateway:
            wait_for_answers(gateway.name, gateway.port, pods)
            time.sleep(SETTLE_S)
            say(f"idle for {MEASURE_S:.0f} s")
            worker, control = (gateway.worker_pid,), (gateway.control_pid,)
            before_s, control_before_s = cpu_s(worker), cpu_s(control)
            time.sleep(MEASURE_S)
            return Idle(
                count,
                100 * (cpu_s(worker) - before_s) / MEASURE_S,
                100 * (cpu_s(control) - control_before_s) / MEASURE_S,
                thread_count(gateway.worker_pid),
                resident_bytes(gateway.worker_pid),
            )
