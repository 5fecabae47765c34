"""The headers and messages of RateLimits: Go templates, filled with what the limits of an RPC decided. Pure.

Source of the names: Edge Stack's reference of RateLimit (`injectRequestHeaders`, `errorResponse`). A template that does
not fit leaves out its own header: a refusal, or an RPC that is allowed, is not lost over it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

from grpcgw.model.go_template import TemplateError, parse_template
from grpcgw.model.go_values import Duration, Integer
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.metadata import Metadata
from grpcgw.model.rate_limits import LabelLimit
from grpcgw.policy.header_templates import render_header
from grpcgw.policy.limits.limiter import LimitDecision, LimitLevel

OK, OVER_LIMIT = Integer(1), Integer(2)
"""Codes of `envoy.service.ratelimit.v3.RateLimitResponse`."""
REFUSAL_STATUS = Integer(429)
"""What Edge Stack answers over HTTP, for templates that ask for it."""
Data = Mapping[str, object]


def reads_limits(limit: LabelLimit) -> bool:
    """Whether a template asks what limits have left."""
    headers = (*limit.request_headers, *limit.response_headers, *limit.refusal_headers)
    texts = (*[one.value for one in headers], limit.refusal_body)
    return any(parse_template(text).fields() & {"RateLimitResponse", ""} for text in texts)


def make_data(decisions: Iterable[LimitDecision], levels: Sequence[LimitLevel | None]) -> Data:
    """`levels`: of the limits that count the RPC; None: no limit counts that descriptor."""
    decided = tuple(decisions)
    exceeded = {one.limit.name: one.wait_s for each in decided for one in each.exceeded}
    refused = any(each.refused for each in decided)
    statuses = [_describe(one, one.limit.name in exceeded) for one in levels if one is not None]
    return {
        "RateLimitResponse": {"OverallCode": OVER_LIMIT if refused else OK, "Statuses": statuses},
        "RetryAfter": Duration.of_seconds(max(exceeded.values(), default=0.0)),
    }


def of_refusal(data: Data, message: str, request_id: str | bytes | None) -> Data:
    """`message`: what the gateway would say; `request_id`: of the header, None where there is none."""
    return {**data, "status_code": REFUSAL_STATUS, "message": message, "request_id": request_id or ""}


def render(headers: Iterable[HeaderTemplate], data: Data) -> Metadata:
    made: list[tuple[str, str | bytes]] = []
    for one in headers:
        with suppress(TemplateError):
            made += render_header(one, data)
    return tuple(made)


def render_body(limit: LabelLimit, data: Data, otherwise: str) -> str:
    """The message of a refusal."""
    try:
        return parse_template(limit.refusal_body).render(data) or otherwise
    except TemplateError:
        return otherwise


def _describe(level: LimitLevel, exceeded: bool) -> Data:
    rate = level.limit.rate
    current = {"RequestsPerUnit": Integer(rate.amount), "Unit": rate.unit.upper(), "Name": level.limit.name}
    remaining = Integer(0 if exceeded else max(0, level.left))
    return {"Code": OVER_LIMIT if exceeded else OK, "CurrentLimit": current, "LimitRemaining": remaining}
