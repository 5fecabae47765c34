"""The access log's record of an RPC that ended, gathered from the parts of its session."""

from __future__ import annotations

from collections.abc import Mapping

from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.request import Request
from grpcgw.routing.targets import Target
from grpcgw.session.ending import ended_by
from grpcgw.session.request_side import RequestSide
from grpcgw.session.response_side import ResponseSide
from grpcgw.telemetry.access_log import RpcRecord, StatusFrom
from grpcgw.upstream.pod import Pod


def make_record(
    request: Request,
    target: Target | None,
    pod: Pod | None,
    requests: RequestSide,
    replies: ResponseSide,
    *,
    status: Status,
    status_from: StatusFrom,
    reason: str,
    since_s: float,
    now_s: float,
    deadline_s: float | None,
    further_tries: int,
    forwarded: Metadata,
    facts: Mapping[str, str] | None,
) -> RpcRecord:
    """`pod`: the last one tried. `since_s`: when the RPC began. `forwarded`: the request's metadata as pods got it."""
    return RpcRecord(
        path=request.path,
        code=status.code,
        status_from=status_from,
        duration_s=now_s - since_s,
        authority=request.authority,
        peer=request.peer.address,
        peer_port=request.peer.port,
        metadata=request.metadata,
        mapping=target.label if target is not None else "",
        cluster=target.cluster if target is not None else "",
        pod=str(pod.endpoint) if pod is not None else "",
        message=status.details,
        reason=reason,
        request_messages=requests.count,
        request_bytes=requests.size_bytes,
        response_messages=replies.count,
        response_bytes=replies.size_bytes,
        timeout_s=None if request.deadline_s is None else request.deadline_s - since_s,
        deadline_left_s=None if deadline_s is None else deadline_s - now_s,
        cancelled_by=ended_by(status_from, reason),
        retries=further_tries,
        forwarded=forwarded,
        facts=facts,
        headers=replies.headers,
        trailers=status.trailers if status_from is not StatusFrom.NOBODY else (),
    )
