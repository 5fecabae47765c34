"""Decides after a failed try: another try, or the status that the client gets.

Another try follows by the Mapping's `retry_policy`, and once, on another pod, where a try provably reached no pod (in
clusters that are connected to on demand up to MOST_ON_DEMAND times). Made when a try fails; an RPC whose first try
succeeds has none of this.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.model.status import Reason, Status, make_status, safe_to_retry
from grpcgw.policy.breakers import Permit
from grpcgw.policy.retry import Failure, GiveUp, Retries
from grpcgw.routing.targets import Target
from grpcgw.session import ending
from grpcgw.session.pod_try import Try
from grpcgw.session.request_side import RequestSide
from grpcgw.session.response_side import ResponseSide
from grpcgw.telemetry.counters import Counters
from grpcgw.upstream.pod import Pod

MOST_ON_DEMAND = 4
"""There an RPC may be the first to find that a pod is gone, several times over."""


@dataclass(frozen=True, slots=True)
class Again:
    """Another try. `delay_s`: the back-off of a retry; None: at once, because the last try reached no pod."""

    delay_s: float | None


class FurtherTries:
    __slots__ = ("_client_deadline_s", "_counters", "_deadline_s", "_repeats", "_retries", "_target")

    def __init__(
        self, target: Target, counters: Counters, deadline_s: float | None, client_deadline_s: float | None
    ) -> None:
        """`deadline_s`: the RPC's, the earlier of the client's and that of the Mapping's `timeout_ms`."""
        self._target, self._counters = target, counters
        self._deadline_s, self._client_deadline_s = deadline_s, client_deadline_s
        self._retries = None if target.retry is None else Retries(target.retry, target.budget)
        self._repeats = 0

    @property
    def count(self) -> int:
        """Tries after the first."""
        return self._repeats + (self._retries.count if self._retries is not None else 0)

    def decide(
        self,
        failed: Try,
        status: Status,
        requests: RequestSide,
        replies: ResponseSide,
        permit: Permit | None,
        now_s: float,
    ) -> Again | Status:
        """Another try, or the status the client gets: the very `status` where it may be the pod's own."""
        target, cause = self._target, failed.cause(status)
        expired = cause is Reason.TIMEOUT
        # Where the RPC's deadline has passed, not only the try's, no retry can help.
        if self._retries is not None and not (expired and failed.deadline_s == self._deadline_s):
            committed = replies.headers_sent or bool(replies.count) or not requests.replayable
            retry = self._retry(self._retries, self._describe(status, cause, expired, committed, now_s), permit)
            if retry is not None:
                return retry
        if expired:
            return self._why_expired(failed)
        if cause is None:
            return status
        if not replies.count and safe_to_retry(cause) and requests.replayable and self.repeat(failed.pod):
            return Again(None)
        return ending.try_failed(cause, target.key, failed.pod, status.details, _final_code(status, cause))

    def _describe(self, status: Status, cause: Reason | None, expired: bool, committed: bool, now_s: float) -> Failure:
        return Failure(
            code=status.code if cause is None or expired else _final_code(status, cause),
            trailers=status.trailers,
            never_reached=cause is not None and safe_to_retry(cause),
            timed_out=expired,
            committed=committed,
            left_s=None if self._deadline_s is None else self._deadline_s - now_s,
        )

    def _retry(self, retries: Retries, failure: Failure, permit: Permit | None) -> Again | None:
        """The retry that `retry_policy` and the circuit breaker allow."""
        target = self._target
        decided = retries.decide(failure)
        if isinstance(decided, GiveUp):
            return None
        overflow = None if permit is None else permit.retry(waits=not target.is_connected())
        if overflow is not None:
            self._counters.count_breaker(target.label, overflow.limit)
            return None
        self._counters.count_retry(target.label)
        return Again(decided.delay_s)

    def repeat(self, pod: Pod) -> bool:
        """Whether to try once more at once, on another pod than `pod`, which provably did not process the RPC."""
        most = MOST_ON_DEMAND if pod.on_demand else 1
        if self._repeats >= most or not self._target.has_other(pod):
            return False
        self._repeats += 1
        self._counters.count_retry(self._target.label)
        return True

    def _why_expired(self, failed: Try) -> Status:
        target = self._target
        if target.retry is not None and failed.deadline_s != self._deadline_s:
            return ending.try_timed_out(target.key, target.retry.per_try_timeout_ms, failed.pod)
        return ending.deadline_passed(target, self._deadline_s, self._client_deadline_s, failed.pod)

    def close(self) -> None:
        """The RPC is over: give the retry budget back."""
        if self._retries is not None:
            self._retries.close()


def _final_code(status: Status, cause: Reason) -> int:
    """The code that the client would get. Of a reset it depends on HTTP/2's error, which the engine has translated."""
    return status.code if cause is Reason.STREAM_RESET else make_status(cause, "").code
