"""A worker's threads: a sandbox that forbids to set their scheduling is logged, and the worker serves."""

from __future__ import annotations

import os
import threading

import pytest

from grpcgw.workers.scheduling import arrange_threads

NO_SUCH_CORE = 100_000


def test_a_worker_that_cannot_set_its_core_logs_it_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    arrange_threads(True, NO_SUCH_CORE)
    assert "cannot set the scheduling of worker threads" in caplog.text


def test_threads_started_later_wait_for_their_turn_as_well() -> None:
    before = os.sched_getscheduler(0)
    policies: list[int] = []

    def start_another() -> None:
        arrange_threads(True, None)
        later = threading.Thread(target=lambda: policies.append(os.sched_getscheduler(0)))
        later.start()
        later.join(10)

    thread = threading.Thread(target=start_another)  # so that this one stays what it was
    thread.start()
    thread.join(10)
    assert policies == [os.SCHED_BATCH]
    assert os.sched_getscheduler(0) == before
