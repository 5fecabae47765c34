"""Who ended an RPC before its pod did, as the access log tells it. Pure."""

from __future__ import annotations

from grpcgw.model.status import Reason
from grpcgw.telemetry.access_log import CancelledBy, StatusFrom

_ENDED_BY = {
    Reason.TIMEOUT: CancelledBy.DEADLINE,
    Reason.CLIENT_DEADLINE: CancelledBy.DEADLINE,
    Reason.IDLE_TIMEOUT: CancelledBy.GATEWAY,
    Reason.DRAINING: CancelledBy.GATEWAY,
    Reason.DEFECT: CancelledBy.GATEWAY,
    Reason.MESSAGE_REFUSED: CancelledBy.GATEWAY,
    Reason.CUT_AT_ONCE: CancelledBy.UNKNOWN,
}


def ended_by(status_from: StatusFrom, reason: str) -> CancelledBy:
    if not reason:
        return CancelledBy.CLIENT if status_from is StatusFrom.NOBODY else CancelledBy.NOBODY
    return _ENDED_BY.get(Reason(reason), CancelledBy.NOBODY)
