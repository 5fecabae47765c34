"""Translates the texts of grpc core's own statuses to the causes that engines report to sessions. Pure.

Tests check the texts against the real core. The engines prove that a status is core's own.
"""

from __future__ import annotations

import re

from grpcgw.model.codes import Code
from grpcgw.model.status import Reason, Status
from grpcgw.policy.timeouts import may_have_passed

# Texts of statuses with which grpc core ends a call itself. The order matters: the first match decides.
_CORE_TEXTS: tuple[tuple[re.Pattern[str], Reason], ...] = tuple(
    (re.compile(pattern), reason)
    for pattern, reason in (
        (r"failed to connect to all addresses|[Cc]onnections to all backends failing", Reason.CONNECT_FAILED),
        (r"Stream removed \(RST_STREAM \(Received RST_STREAM with error code 7\)\)", Reason.STREAM_REFUSED),
        (r"Stream removed \(GOAWAY received", Reason.STREAM_REFUSED),
        (r"Stream removed \(RST_STREAM ", Reason.STREAM_RESET),
        (
            r"Stream removed \((Socket closed|Transport closed|recvmsg|sendmsg|[Kk]eepalive|[Pp]ing timeout"
            r"|.*[Cc]onnection reset|.*[Bb]roken pipe)",
            Reason.CONNECTION_LOST,
        ),
        (r"Socket closed|recvmsg:|sendmsg:|[Kk]eepalive|[Pp]ing timeout|[Tt]ransport closed", Reason.CONNECTION_LOST),
        (r"Stream removed \(|[Ff]ailed parsing HTTP/2", Reason.BAD_RESPONSE),
        (r"Received message larger than max|[Uu]nexpected compress|[Ii]nvalid compression", Reason.BAD_RESPONSE),
        (r"Invalid metadata", Reason.BAD_METADATA),
    )
)
_TOO_LARGE = "Stream removed (received metadata size exceeds"
_CORE_CODES = frozenset({Code.UNAVAILABLE, Code.UNKNOWN, Code.INTERNAL})


def core_cause(code: int, details: str) -> Reason | None:
    """Why grpc core ended a call; None: for a reason that the gateway reports as core does.

    Only for a status that is provably core's own: a pod can write the same text.
    """
    if code == Code.RESOURCE_EXHAUSTED and details.startswith(_TOO_LARGE):
        return Reason.METADATA_TOO_LARGE
    if code not in _CORE_CODES:
        return None
    return next((reason for pattern, reason in _CORE_TEXTS if pattern.match(details)), None)


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
