"""A deadline that passed is told from a pod's own DEADLINE_EXCEEDED where grpc core does not say."""

from __future__ import annotations

import pytest

from grpcgw.engines.generic_handler.core_deadlines import deadline_passed
from grpcgw.model.codes import Code
from grpcgw.model.status import Status

CORES_OWN = Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")


@pytest.mark.parametrize("now_s", [2.0, 1.97])
def test_core_may_call_a_deadline_passed_a_little_early(now_s: float) -> None:
    assert deadline_passed(CORES_OWN, 2.0, 0.0, now_s)


@pytest.mark.parametrize(
    ("status", "deadline_s"),
    [
        (Status(Code.DEADLINE_EXCEEDED, "my database was slow"), 2.0),
        (Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", (("k", "v"),)), 2.0),
        (CORES_OWN, None),
        (CORES_OWN, 1_000.0),
    ],
)
def test_a_deadline_exceeded_of_the_pods_own_is_none_that_passed_here(status: Status, deadline_s: float | None) -> None:
    assert not deadline_passed(status, deadline_s, 0.0, 2.0)


@pytest.mark.parametrize(("now_s", "passed"), [(1.0, False), (4.99, True), (5.01, True)])
def test_a_pod_that_cancels_at_the_deadline_is_the_deadline(now_s: float, passed: bool) -> None:
    reset = Status(Code.CANCELLED, "Stream removed (RST_STREAM (Received RST_STREAM with error code 8))")
    assert deadline_passed(reset, 5.0, 0.0, now_s) is passed
