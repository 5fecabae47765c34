"""The gateway's own rate limit service (`--rate-limit-service`): Envoys count with the gateway's RateLimits.

It is on a port of its own, because whoever can call it can use up the limits.
"""

from __future__ import annotations

from grpcgw.model.codes import Code
from grpcgw.model.status import Status
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.limits.limit_counting import BadRequest, CountedRequest
from grpcgw.policy.request import Request
from grpcgw.services.local import LocalExchange, ServiceCall
from grpcgw.session.serving import Serving

COUNT_PATH = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"


class RateLimitExchange(LocalExchange):
    """One ShouldRateLimit."""

    def __init__(self, serving: Serving, call: ServiceCall, request: Request, now_s: float) -> None:
        super().__init__(serving, call, request, now_s, COUNT_PATH)
        self._limiter = serving.policy_services.limiter
        self._counted: CountedRequest | None = None
        self._lease: RunningWork | None = None

    def answer(self, message: bytes | None, now_s: float) -> None:
        if self._counted is not None:
            return  # the half-close, or more than a unary call has
        try:
            self._counted = CountedRequest(message or b"", self.serving.limit_domains)
        except BadRequest as error:
            self.finish(Status(Code.INVALID_ARGUMENT, str(error)), now_s)
            return
        self._count(self._counted, now_s)

    def _count(self, counted: CountedRequest, now_s: float) -> None:
        pending, remote = counted.count(self._limiter, now_s), self._limiter.remote
        if pending and remote is not None:
            work = CoroutineWork(remote.lease(pending, counted.most_hits))
            self._lease = self.call.run(work, lambda _, now_s: self._on_lease(counted, now_s))
        else:
            self.finish(Status(Code.OK, ""), now_s, counted.answer(self._limiter, now_s))

    def _on_lease(self, counted: CountedRequest, now_s: float) -> None:
        self._lease = None
        if not self.finished:
            self._count(counted, now_s)

    def waits_for_client(self) -> bool:
        return self._counted is None

    def finish(self, status: Status, now_s: float, message: bytes | None = None) -> None:
        self._stop_lease()
        super().finish(status, now_s, message)

    def on_client_closed(self, now_s: float, by_client: bool = False) -> None:
        self._stop_lease()
        super().on_client_closed(now_s, by_client)

    def _stop_lease(self) -> None:
        lease, self._lease = self._lease, None
        if lease is not None:
            lease.cancel()
