"""Whether grpc core ended an attempt by its deadline, which the public API does not say. Pure.

Tests check the texts against the real core.
"""

from __future__ import annotations

from grpcgw.model.codes import Code
from grpcgw.model.status import Status
from grpcgw.policy.timeouts import may_have_passed

_PASSED = ("Deadline Exceeded", "Stream removed (Deadline Exceeded)", "")
"""grpc core's text for a deadline that passed. A pod may send the same text, to the same effect."""


def deadline_passed(status: Status, deadline_s: float | None, since_s: float, now_s: float) -> bool:
    """Whether an attempt that began at `since_s` ended by its deadline, not by a DEADLINE_EXCEEDED of the pod's own.

    A pod that notices first cancels the RPC, which amounts to the same end. All times are on one clock.
    """
    return (
        (status.code == Code.CANCELLED or (status.code == Code.DEADLINE_EXCEEDED and status.details in _PASSED))
        and deadline_s is not None
        and not status.trailers
        and may_have_passed(deadline_s, since_s, now_s)
    )
