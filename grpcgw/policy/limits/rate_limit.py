"""The policy of rate limits: an RPC whose descriptors exceed a limit is refused with RESOURCE_EXHAUSTED. Pure."""

from __future__ import annotations

import math

from grpcgw.model.codes import Code
from grpcgw.model.labels import Descriptor
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import RateLimitSettings
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.contract import CoroutineWork, FailMode, PolicyRequest, Verdict, Wait
from grpcgw.policy.limits.limit_headers import Data, make_data, of_refusal, reads_limits, render, render_body
from grpcgw.policy.limits.limiter import Exceeded, LimitDecision, Limiter, LimitRules
from grpcgw.policy.limits.retry_info import make_retry_details
from grpcgw.policy.limits.rpc_labels import compile_group, describe_all
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

LIMIT_FACT = "rate-limit"
"""The fact that names the limit which refused an RPC, or those which it exceeds and which only log it."""
LEASES = 3
"""One is enough unless other RPCs use it up first."""
LEASE_TIMEOUT_S = 1.0
"""Bounds a defect: the remote buckets have a time-out of their own, of milliseconds."""


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> RateLimitPolicy:
    assert isinstance(settings, RateLimitSettings)
    return RateLimitPolicy(settings, services.limiter)


class RateLimitPolicy:
    def __init__(self, settings: RateLimitSettings, limiter: Limiter) -> None:
        self._describe = tuple(compile_group(group) for group in settings.groups)
        self._rules = LimitRules(settings.domain, settings.limits)
        self._limiter = limiter
        self._plain = not any(one.has_headers for one in settings.limits)
        self._reads_limits = any(reads_limits(one) for one in settings.limits)
        self._only = self._describe[0] if len(self._describe) == 1 and self._plain else None
        """The one group of labels, where limits that allow an RPC do nothing else."""

    def check(self, request: PolicyRequest) -> Verdict:
        if self._only is not None:  # the way that costs the least, by a lease
            descriptor = self._only(request)
            counter = None if descriptor is None else self._rules.known.get(descriptor)
            if counter is not None and counter.left and request.now_s < counter.ends_s:
                counter.left -= 1
                return ALLOW
        return self._decide(request, LEASES)

    def _decide(self, request: PolicyRequest, leases: int) -> Verdict:
        """`leases`: for how many the RPC may wait yet; then the buckets of this machine count."""
        descriptors = describe_all(self._describe, request)
        decision = self._limiter.decide(self._rules, descriptors, 1, request.now_s, remote=leases > 0)
        if self._plain and decision.is_plain:  # as most
            return ALLOW
        return self._judge(request, descriptors, decision, leases)

    def _judge(
        self, request: PolicyRequest, descriptors: list[Descriptor], decision: LimitDecision, leases: int
    ) -> Verdict:
        if decision.refused is not None:
            return refuse(request, decision.refused, decision, self._describe_limits(request, descriptors, decision))
        if decision.pending:
            remote = self._limiter.remote
            assert remote is not None, "a counter is only ever pending for the remote buckets"
            work = CoroutineWork(remote.lease(decision.pending, 1))
            # ALLOW: the lease came, or Redis is away. Another verdict: the coroutine did not run in time.
            return Wait(
                *(work, LEASE_TIMEOUT_S, FailMode.OPEN),
                then=lambda verdict: self._decide(request, leases - 1 if verdict is ALLOW else 0),
            )
        names = ",".join([one.limit.name for one in decision.exceeded])
        data = self._describe_limits(request, descriptors, decision)
        return Allow(
            add=_join([render(one.request_headers, data) for one in decision.applied]),
            facts=((LIMIT_FACT, names),) if names else (),
            add_response=_join([render(one.response_headers, data) for one in decision.applied]),
        )

    def _describe_limits(self, request: PolicyRequest, descriptors: list[Descriptor], decision: LimitDecision) -> Data:
        """For templates of headers. What each limit has left is only looked up where one asks for it."""
        looked_at = descriptors if self._reads_limits else ()
        levels = [self._limiter.look(self._rules, one, request.now_s) for one in looked_at]
        return make_data((decision,), levels)


def refuse(request: PolicyRequest, exceeded: Exceeded, decision: LimitDecision, data: Data) -> Deny:
    limit = exceeded.limit
    message = f"{request.key}: rate limit {limit.name} ({limit.rate}) reached"
    data = of_refusal(data, message, request.get("x-request-id"))
    message = render_body(limit, data, message)
    retry_after_ms = math.ceil(exceeded.wait_s * 1000)
    return Deny(
        Reason.RATE_LIMITED,
        message,
        details=make_retry_details(Code.RESOURCE_EXHAUSTED, message, retry_after_ms),
        metadata=(
            *render(limit.refusal_headers, data),
            *_join([render(one.response_headers, data) for one in decision.applied]),
        ),
        retry_after_ms=retry_after_ms,
        facts=((LIMIT_FACT, limit.name),),
    )


def _join(headers: list[Metadata]) -> Metadata:
    return tuple([one for each in headers for one in each])
