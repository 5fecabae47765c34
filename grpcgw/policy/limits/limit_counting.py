"""Counts for others: answers the requests of Envoy's rate limit protocol from the gateway's own limits. Pure.

Each descriptor counts for itself, as in Envoy's ratelimit: what one limit refuses, the others still count. A domain or
a descriptor without a limit is allowed.
"""

from __future__ import annotations

import math

from google.protobuf.message import DecodeError

from grpcgw.errors import GrpcgwError
from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.labels import Descriptor
from grpcgw.model.rate_limits import DomainLimits, LabelLimit, Unit
from grpcgw.policy.limits import rate_limit_service_pb2 as pb
from grpcgw.policy.limits.limit_headers import Data, make_data, of_refusal, render, render_body
from grpcgw.policy.limits.limiter import UNLIMITED, LimitCounter, LimitDecision, Limiter, LimitLevel, LimitRules
from grpcgw.policy.limits.rpc_labels import shorten

MAX_REQUEST_BYTES = 262_144
MOST_DESCRIPTORS = 64
MAX_DESCRIPTOR_BYTES = 4096
"""Descriptors are kept as keys of counters, so this bounds their memory: 64 MiB in a worker, with the limiter's
MOST_COUNTERS."""
MOST_HITS = 2**31 - 1
MOST_LEASES = 20
"""A request waits for the remote buckets so often: others may take the tokens of a lease first. What is not counted
then is allowed, as where the buckets are away."""
_UNITS = {Unit.SECOND: pb.SECOND, Unit.MINUTE: pb.MINUTE, Unit.HOUR: pb.HOUR, Unit.DAY: pb.DAY}
_MOST_NUMBER = 2**32 - 1
_MAX_NAME_CHARACTERS = 256


class LimitDomains:
    """The rules of each domain. Domains that stay as they are keep their rules, and so their leases."""

    def __init__(self, given: tuple[DomainLimits, ...] = ()) -> None:
        self._given = given
        self.rules = {one.domain: LimitRules(one.domain, one.limits) for one in given}

    def replace(self, given: tuple[DomainLimits, ...]) -> LimitDomains:
        if given == self._given:
            return self
        made = LimitDomains(given)
        for one in self._given:
            if one in given:
                made.rules[one.domain] = self.rules[one.domain]
        return made


class BadRequest(GrpcgwError):
    """A request that cannot be counted; the text says why."""


class CountedRequest:
    """A RateLimitRequest while it is counted."""

    def __init__(self, message: bytes, domains: LimitDomains) -> None:
        """Raises BadRequest."""
        request = _parse(message)
        self._rules = domains.rules.get(request.domain)
        self._descriptors = [_read(one) for one in request.descriptors]
        every = request.hits_addend or 1
        self._hits = [
            min(one.hits_addend.value if one.HasField("hits_addend") else every, MOST_HITS)
            for one in request.descriptors
        ]
        self._decisions: list[LimitDecision | None] = [None] * len(self._descriptors)
        self._leases = 0

    @property
    def most_hits(self) -> int:
        return max(self._hits)

    def count(self, limiter: Limiter, now_s: float) -> tuple[LimitCounter, ...]:
        """Count the descriptors that are not counted yet. Returns the counters that need a lease before the others can
        be; then call again with it."""
        if self._rules is None:
            return ()
        pending: list[LimitCounter] = []
        for index, known in enumerate(self._decisions):
            if known is None:
                decision = limiter.decide(self._rules, (self._descriptors[index],), self._hits[index], now_s)
                pending += decision.pending
                self._decisions[index] = None if decision.pending else decision
        self._leases += 1
        return tuple(pending) if self._leases <= MOST_LEASES else ()

    def answer(self, limiter: Limiter, now_s: float) -> bytes:
        """The serialized RateLimitResponse."""
        decisions = [one or UNLIMITED for one in self._decisions]
        levels = [None if self._rules is None else limiter.look(self._rules, one, now_s) for one in self._descriptors]
        response = pb.RateLimitResponse(
            overall_code=pb.OVER_LIMIT if any(one.refused for one in decisions) else pb.OK,
            statuses=[_describe(level, decision) for level, decision in zip(levels, decisions, strict=True)],
        )
        data = make_data(decisions, levels)
        for one in decisions:
            for limit in one.applied:
                response.response_headers_to_add.extend(_write_headers(limit.response_headers, data))
                response.request_headers_to_add.extend(_write_headers(limit.request_headers, data))
            if one.refused is not None:
                _write_refusal(response, one.refused.limit, data)
        return response.SerializeToString()


def _parse(message: bytes) -> pb.RateLimitRequest:
    if len(message) > MAX_REQUEST_BYTES:
        raise BadRequest(f"the request is larger than {MAX_REQUEST_BYTES} bytes")
    try:
        request = pb.RateLimitRequest.FromString(message)
    except DecodeError as error:
        raise BadRequest("the request is no RateLimitRequest") from error
    if not request.domain:
        raise BadRequest("the request has no domain")
    if not 0 < len(request.descriptors) <= MOST_DESCRIPTORS:
        raise BadRequest(f"the request should have 1 to {MOST_DESCRIPTORS} descriptors")
    return request


def _read(descriptor: pb.Descriptor) -> Descriptor:
    if descriptor.ByteSize() > MAX_DESCRIPTOR_BYTES:
        raise BadRequest(f"a descriptor is larger than {MAX_DESCRIPTOR_BYTES} bytes")
    return tuple([(entry.key, shorten(entry.value)) for entry in descriptor.entries])


def _describe(level: LimitLevel | None, decision: LimitDecision) -> pb.DescriptorStatus:
    if level is None:
        return pb.DescriptorStatus(code=pb.OK)
    rate = level.limit.rate
    refused = decision.refused
    reset_s = level.full_in_s if refused is None else refused.wait_s
    status = pb.DescriptorStatus(
        code=pb.OK if refused is None else pb.OVER_LIMIT,
        current_limit=pb.Limit(
            requests_per_unit=min(rate.amount, _MOST_NUMBER),
            unit=_UNITS[rate.unit],
            name=level.limit.name[:_MAX_NAME_CHARACTERS],
        ),
        limit_remaining=0 if refused is not None else min(max(0, level.left), _MOST_NUMBER),
    )
    if reset_s is not None:
        status.duration_until_reset.FromMilliseconds(math.ceil(reset_s * 1000))
    return status


def _write_headers(headers: tuple[HeaderTemplate, ...], data: Data) -> list[pb.HeaderValue]:
    return [pb.HeaderValue(key=key, value=value) for key, value in render(headers, data) if isinstance(value, str)]


def _write_refusal(response: pb.RateLimitResponse, limit: LabelLimit, data: Data) -> None:
    """The limit's headers, and its message as the body, which Envoy sends to gRPC clients as `grpc-message`. The
    service that answers for it does not know the request's ID."""
    data = of_refusal(data, f"rate limit {limit.name} ({limit.rate}) reached", None)
    response.response_headers_to_add.extend(_write_headers(limit.refusal_headers, data))
    if limit.refusal_body and not response.raw_body:
        response.raw_body = render_body(limit, data, "").encode(errors="replace")
