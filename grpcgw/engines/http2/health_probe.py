"""A health check's RPC on a pod's own connection: the events of its try, judged when it is over."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.engines.health_probe import encode_request, judge_answer
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.session.message_reader import frame

MAX_ANSWER_BYTES = 4096
PREFIX_BYTES = 5


class HealthProbe:
    def __init__(
        self,
        check: HealthCheck,
        report: Callable[[str], None],
        is_closed: Callable[[], bool],
        serves_others: Callable[[], bool],
    ) -> None:
        """`report` gets the verdict, unless `is_closed` by then, or the check had no stream in time while the pod
        `serves_others`: such a pod has much to do, and is not excluded for it."""
        self._check, self._report, self._is_closed = check, report, is_closed
        self._serves_others = serves_others
        self._answer = b""
        self._unsent = False
        self.attempt: PodAttempt | None = None

    def request(self) -> bytes:
        """The request as a gRPC frame."""
        return frame(encode_request(self._check))

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        pass

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        self._unsent = headers is None

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        if message is None or self.attempt is None:
            return
        self._answer += message
        if len(self._answer) > MAX_ANSWER_BYTES:
            self.attempt.cancel()
        else:
            self.attempt.read()

    def on_no_more_replies(self) -> None:
        pass

    def on_pod_status(self, status: Status, now_s: float) -> None:
        self.attempt = None  # it leads back here: both would wait for the garbage collector
        if self._is_closed():
            return
        if self._unsent and status.code == Code.DEADLINE_EXCEEDED and self._serves_others():
            return
        answer = self._answer
        reply = None
        if status.code == Code.OK and len(answer) >= PREFIX_BYTES and answer[0] == 0:
            reply = answer[PREFIX_BYTES:]
        self._report(judge_answer(self._check, status.code, status.details, reply))

    def on_defect(self, now_s: float) -> None:
        if self.attempt is not None:
            self.attempt.cancel()
