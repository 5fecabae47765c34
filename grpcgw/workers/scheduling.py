"""How the system runs a worker's threads: on which core, and whether one that wakes interrupts another.

Linux alone has both; elsewhere, and where a sandbox forbids it, the threads run as any other's. No part of an RPC.
"""

from __future__ import annotations

import logging
import os

from grpcgw.settings import Scheduling

log = logging.getLogger(__name__)


def arrange_threads(scheduling: Scheduling, core: int | None) -> None:
    """For the calling thread and all it starts from now on. `core`: None leaves the choice to the system.

    With `batch` (Linux's SCHED_BATCH) a thread that wakes waits until the one that runs rests. Otherwise it interrupts
    that one, which mostly holds the interpreter's lock, waits for the lock, and both go to and fro for every event:
    five context switches per RPC and up to twice the processor time (docs/performance.md).
    """
    try:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
        if scheduling is Scheduling.BATCH and hasattr(os, "SCHED_BATCH"):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.warning("the system does not let the worker arrange its threads, RPCs will cost more: %s", error)
