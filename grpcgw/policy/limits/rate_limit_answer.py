"""The verdict of a rate limit service: reads a `RateLimitResponse`. Pure.

Source: Envoy's rate limit filter. Differences from it (docs/rate-limits.md): RESOURCE_EXHAUSTED by default, when to
come again as `grpc-retry-pushback-ms` and RetryInfo, and `x-ratelimit-*` in every refusal without an option.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import DecodeError

from grpcgw.errors import GrpcgwError
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import MAX_MESSAGE_CHARACTERS, Reason
from grpcgw.policy.answer_headers import keep_sendable
from grpcgw.policy.dynamic_metadata import LIMIT_PREFIX, read_facts
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    DescriptorStatus,
    HeaderValue,
    Limit,
    RateLimitResponse,
    Unit,
)
from grpcgw.policy.limits.retry_info import make_retry_details
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

LIMITED_KEY = "x-envoy-ratelimited"
"""Trailer of a refusal, as Envoy sets it: the client's own proxy then knows that it is no failure of the pod."""
LIMIT_KEY, REMAINING_KEY, RESET_KEY = "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"
"""draft-polli-ratelimit-headers-03."""
MOST_SHOWN = 8
"""So many limits are listed in LIMIT_KEY."""
MAX_NAME_CHARACTERS = 64
_MOST_MS = 2**31 - 1
_DAY_S = 86_400
_SECONDS = {
    Unit.SECOND: 1,
    Unit.MINUTE: 60,
    Unit.HOUR: 3600,
    Unit.DAY: _DAY_S,
    Unit.WEEK: 7 * _DAY_S,
    Unit.MONTH: 30 * _DAY_S,
    Unit.YEAR: 365 * _DAY_S,
}
_PLAIN = RateLimitResponse(overall_code=OK).SerializeToString()


class BadAnswer(GrpcgwError):
    """An answer that neither allows nor refuses; the text says why."""


def read_answer(message: bytes, who: str, code: int) -> Allow | Deny:
    """The verdict of a serialized RateLimitResponse. `who` names Mapping and service to clients; `code`: of a refusal.
    Raises BadAnswer."""
    if message == _PLAIN:
        return ALLOW
    try:
        answer = RateLimitResponse.FromString(message)
    except DecodeError as error:
        raise BadAnswer("its answer is no RateLimitResponse") from error
    if answer.overall_code == OVER_LIMIT:
        return _refuse(answer, who, code)
    if answer.overall_code != OK:
        raise BadAnswer(f"its answer has the code {answer.overall_code}")
    if answer.request_headers_to_add or answer.response_headers_to_add or answer.HasField("dynamic_metadata"):
        return Allow(
            add=_read_headers(answer.request_headers_to_add),
            add_response=_read_headers(answer.response_headers_to_add),
            facts=read_facts(answer.dynamic_metadata, LIMIT_PREFIX),
        )
    return ALLOW


def _refuse(answer: RateLimitResponse, who: str, code: int) -> Deny:
    exceeded = [status for status in answer.statuses if status.code == OVER_LIMIT]
    message = answer.raw_body.decode(errors="replace") or _describe(exceeded, who)
    retry_after_ms = _find_wait_ms(exceeded)
    shown = message[:MAX_MESSAGE_CHARACTERS]
    details = b"" if retry_after_ms is None else make_retry_details(code, shown, retry_after_ms)
    own = _read_headers(answer.response_headers_to_add)
    metadata = ((LIMITED_KEY, "true"), *_describe_limits(answer.statuses, own), *own)
    return Deny(Reason.RATE_LIMITED, message, code, details, metadata, retry_after_ms)


def _describe(exceeded: Sequence[DescriptorStatus], who: str) -> str:
    named = next((one.current_limit.name for one in exceeded if one.current_limit.name), "")
    return f"{who}: rate limit {named[:MAX_NAME_CHARACTERS]} reached" if named else f"{who}: rate limit reached"


def _find_wait_ms(exceeded: Sequence[DescriptorStatus]) -> int | None:
    """Until all exceeded limits allow again; None: the service does not say it."""
    waits = [one.duration_until_reset for one in exceeded if one.HasField("duration_until_reset")]
    most_ms = max((one.seconds * 1000 - -one.nanos // 1_000_000 for one in waits), default=0)
    return min(most_ms, _MOST_MS) if most_ms > 0 else None


def _describe_limits(statuses: Iterable[DescriptorStatus], own: Metadata) -> Metadata:
    """`x-ratelimit-*` of the limit that has the least left, unless the service sent such headers itself."""
    known = [one for one in statuses if one.current_limit.unit in _SECONDS]
    if not known or any(key in (LIMIT_KEY, REMAINING_KEY, RESET_KEY) for key, _ in own):
        return ()
    least = min(known, key=lambda one: one.limit_remaining)
    policies = [_describe_limit(one.current_limit) for one in known[:MOST_SHOWN]]
    return (
        (LIMIT_KEY, ", ".join([str(least.current_limit.requests_per_unit), *policies])),
        (REMAINING_KEY, str(least.limit_remaining)),
        (RESET_KEY, str(max(0, least.duration_until_reset.seconds))),
    )


def _describe_limit(limit: Limit) -> str:
    shown = f"{limit.requests_per_unit};w={_SECONDS[limit.unit]}"
    name = limit.name
    is_shown = 0 < len(name) <= MAX_NAME_CHARACTERS and name.isascii() and name.isprintable()
    return f'{shown};name="{name}"' if is_shown and not {'"', "\\"} & set(name) else shown


def _read_headers(headers: Iterable[HeaderValue]) -> Metadata:
    """What cannot be sent is dropped: a limit is no condition on them."""
    return keep_sendable([(one.key, one.value or one.raw_value.decode("latin-1")) for one in headers])
