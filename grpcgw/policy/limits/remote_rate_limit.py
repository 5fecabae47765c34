"""The policy of a RateLimitService: a service counts each RPC that has descriptors, and says whether it is too many.

One RPC to the service at most. Where it is away, late or makes no sense, the RPC passes, as in Ambassador, or is
refused with UNAVAILABLE if `failure_mode_deny` says so.
"""

from __future__ import annotations

from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limit_service import RateLimitServiceSettings
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.chain import FAILED_OPEN
from grpcgw.policy.contract import Answer, FailMode, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.limits.rate_limit_request import RequestWriter
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny


def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> RateLimitServicePolicy:
    assert isinstance(settings, RateLimitServiceSettings)
    return RateLimitServicePolicy(key, settings)


class RateLimitServicePolicy:
    def __init__(self, key: ObjectKey, settings: RateLimitServiceSettings) -> None:
        # Imported here, as a gateway without such a policy saves the time to load the messages.
        from grpcgw.policy.limits import rate_limit_answer

        self._settings = settings
        self._who = f"{key}: {settings.name}"
        self._path = f"/envoy.service.ratelimit.{settings.api_version}.RateLimitService/ShouldRateLimit"
        self._timeout_s = settings.timeout_ms / 1000
        self._fail_mode = FailMode.CLOSED if settings.failure_mode_deny else FailMode.OPEN
        self._read, self._bad_answer = rate_limit_answer.read_answer, rate_limit_answer.BadAnswer
        self._request = RequestWriter(settings.domain, settings.groups)
        fixed = self._request.fixed
        self._same = self._ask(fixed) if fixed else None
        """The question of all RPCs; None: they differ, or there is none."""

    def check(self, request: PolicyRequest) -> Verdict:
        if self._same is not None:
            return self._same
        message = self._request.write(request)
        return self._ask(message) if message else ALLOW

    def _ask(self, message: bytes) -> Wait:
        return Wait(UnaryRpc(self._path, message, self._judge), self._timeout_s, self._fail_mode)

    def _judge(self, answer: Answer) -> Allow | Deny:
        try:
            return self._read(answer.message, self._who, self._settings.code)
        except self._bad_answer as error:
            if self._fail_mode is FailMode.OPEN:
                return Allow(facts=((FAILED_OPEN, self._settings.name),))
            return Deny(Reason.POLICY_UNAVAILABLE, f"{self._who} gave no verdict: {error}")
