"""Thread scheduling of a worker: CPU affinity and SCHED_BATCH (decision 007).

Only Linux has both. Elsewhere, and where a sandbox forbids them, the threads keep the default scheduling.
"""

from __future__ import annotations

import logging
import os

from grpcgw.settings import Scheduling

log = logging.getLogger(__name__)


def arrange_threads(scheduling: Scheduling, core: int | None) -> None:
    """Set affinity and policy of the calling thread and of all threads it starts later. `core` None: any core.

    With `batch` (Linux's SCHED_BATCH) a thread that wakes waits until the running one rests. Otherwise it preempts
    that one, which mostly holds the interpreter lock; the new thread then waits for the lock, and both switch back and
    forth for every event: five context switches per RPC and up to twice the processor time (docs/performance.md).
    """
    try:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
        if scheduling is Scheduling.BATCH and hasattr(os, "SCHED_BATCH"):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.warning("cannot set the scheduling of worker threads, so RPCs cost more: %s", error)
