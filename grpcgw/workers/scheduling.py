"""Thread scheduling of a worker: CPU affinity and SCHED_BATCH (decision 007).

Only Linux has both. Elsewhere, and where a sandbox forbids them, the threads keep the default scheduling.
"""

from __future__ import annotations

import logging
import os

log = logging.getLogger(__name__)


def arrange_threads(batch: bool, core: int | None) -> None:
    """Set affinity and policy of the calling thread and of all threads it starts later. `core` None: any core.

    `batch` (Linux's SCHED_BATCH) is for an engine with several busy threads: a thread that wakes waits until the
    running one rests. Otherwise it preempts that one, which mostly holds the interpreter lock; the new thread then
    waits for the lock, and both switch back and forth for every event. An engine with one thread gains nothing by it,
    and would answer later where its core is busy with other programs.
    """
    try:
        if core is not None and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {core})
        if batch and hasattr(os, "SCHED_BATCH"):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    except OSError as error:
        log.warning("cannot set the scheduling of worker threads, so RPCs cost more: %s", error)
