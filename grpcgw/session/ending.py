"""Statuses of RPCs that their pod did not end, and who ended them, as the access log names it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from grpcgw.model.codes import Code
from grpcgw.model.objects import ObjectKey
from grpcgw.model.status import Reason, Status, make_status
from grpcgw.routing.targets import Target
from grpcgw.telemetry.access_log import CancelledBy, StatusFrom
from grpcgw.upstream.pod import Pod

_ENDED_BY: Mapping[str, CancelledBy] = {
    Reason.TIMEOUT: CancelledBy.DEADLINE,
    Reason.CLIENT_DEADLINE: CancelledBy.DEADLINE,
    Reason.IDLE_TIMEOUT: CancelledBy.GATEWAY,
    Reason.DRAINING: CancelledBy.GATEWAY,
    Reason.TOO_MUCH_HELD: CancelledBy.GATEWAY,
    Reason.DEFECT: CancelledBy.GATEWAY,
    Reason.CUT_AT_ONCE: CancelledBy.UNKNOWN,
}


CUT_AT_ONCE_S = 1.0
"""grpc core never takes longer to refuse an RPC for its headers, however busy the worker is."""


def client_left(age_s: float, certain: bool) -> Status:
    """Status of an RPC to which nothing can be sent any more: the client left, or grpc core ended it.

    `certain`: core refused no header, because the engine knows that the client left, or a part of the request was read.
    If core cannot read a header, it ends the RPC before that as if the client had cancelled it, without a cause.
    """
    if not certain and age_s < CUT_AT_ONCE_S:
        return make_status(Reason.CUT_AT_ONCE, "the client left at once, or grpc core refused a header of the request")
    return Status(Code.CANCELLED, "")


def ended_by(status_from: StatusFrom, reason: str) -> CancelledBy:
    """Who ended an RPC before its pod did. `reason`: as `reason_of` its status."""
    if not reason:
        return CancelledBy.CLIENT if status_from is StatusFrom.NOBODY else CancelledBy.NOBODY
    return _ENDED_BY.get(reason, CancelledBy.NOBODY)


def message_too_large(key: ObjectKey, size_bytes: int, limit_bytes: int) -> Status:
    what = f"a message of {size_bytes} bytes is larger than max_message_bytes {limit_bytes}"
    return make_status(Reason.MESSAGE_TOO_LARGE, f"{key}: {what}")


def request_cut_off() -> Status:
    """Status of a half-close in the middle of a message: INTERNAL, as grpc-go and grpc-java answer it."""
    return make_status(Reason.MESSAGE_CUT_OFF, "the request ends in the middle of a message")


def too_much_held() -> Status:
    return make_status(Reason.TOO_MUCH_HELD, "the gateway holds too much data that nobody takes")


def too_quiet(key: ObjectKey, idle_timeout_s: float) -> Status:
    quiet_ms = round(idle_timeout_s * 1000)
    return make_status(Reason.IDLE_TIMEOUT, f"{key}: no message for idle_timeout_ms {quiet_ms}")


def try_timed_out(key: ObjectKey, per_try_timeout_ms: int | None, pod: Pod | None) -> Status:
    what = f"per_try_timeout {per_try_timeout_ms} ms passed{_waiting(pod)}"
    return make_status(Reason.TIMEOUT, f"{key}: {what}")


def deadline_passed(
    target: Target, deadline_s: float | None, client_deadline_s: float | None, pod: Pod | None
) -> Status:
    """The deadline of a whole RPC, the earlier of the client's and that of the Mapping's `timeout_ms`."""
    if target.timeout_ms is None or deadline_s == client_deadline_s:
        return client_deadline_passed(pod, f"{target.key}: ")
    what = f"{target.key}: timeout_ms {target.timeout_ms} passed{_waiting(pod)}"
    return make_status(Reason.TIMEOUT, what)


def client_deadline_passed(pod: Pod | None, prefix: str = "") -> Status:
    return make_status(Reason.CLIENT_DEADLINE, f"{prefix}the client's deadline passed{_waiting(pod)}")


def _waiting(pod: Pod | None) -> str:
    return "" if pod is None else f" while waiting for pod {pod.endpoint}"


def try_failed(reason: Reason, key: ObjectKey, pod: Pod, cause: str, code: int | None = None) -> Status:
    """`code`: None: that of the reason."""
    status = make_status(reason, f"{key}: pod {pod.endpoint}: {cause}")
    return status if code is None else replace(status, code=code)
