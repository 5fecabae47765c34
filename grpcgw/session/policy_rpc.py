"""A unary RPC of a policy's own: one pod of its upstream, picked, counted and judged like any RPC to that cluster."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status, safe_to_retry
from grpcgw.policy.breakers import Overflow, Permit
from grpcgw.policy.contract import Answer, UnaryRpc
from grpcgw.routing.targets import Target
from grpcgw.session.call import Attempt, Call
from grpcgw.session.ending import message_too_large
from grpcgw.session.pod_try import end_on_pod
from grpcgw.upstream.pod import Pod

_POD_WENT_AWAY = frozenset({Reason.CONNECTION_LOST, Reason.STREAM_RESET})


class PolicyRpc:
    """Called in the thread of the RPC that the policy decides on.

    It repeats once, on another pod, where the first provably did not process it; one that is `repeatable` also where
    the first went away with it.
    """

    __slots__ = (
        "_attempt",
        "_call",
        "_cancelled",
        "_deadline_s",
        "_headers",
        "_message",
        "_note_failure",
        "_on_end",
        "_permit",
        "_pod",
        "_reading",
        "_repeated",
        "_rpc",
        "_since_s",
        "_status",
        "_target",
    )

    def __init__(
        self,
        call: Call,
        target: Target,
        rpc: UnaryRpc,
        deadline_s: float,
        note_failure: Callable[[Pod], None],
        on_end: Callable[[Answer | str, float], None],
    ) -> None:
        """`on_end` gets the answer, or why there is none; never from inside `start`, nor after `cancel`."""
        self._call: Call | None = call
        self._target, self._rpc, self._deadline_s = target, rpc, deadline_s
        self._note_failure, self._on_end = note_failure, on_end
        self._permit: Permit | None = None
        self._pod: Pod | None = None
        self._attempt: Attempt | None = None
        self._since_s = 0.0
        self._headers: Metadata = ()
        self._message: bytes | None = None
        self._status: Status | None = None
        self._reading = self._repeated = self._cancelled = False

    def start(self, now_s: float) -> str:
        """Send it. Returns why it cannot be sent; empty: it is sent, and `on_end` or `cancel` follows."""
        target = self._target
        if target.breaker is not None:
            admitted = target.breaker.admit(waits=not target.is_connected())
            if isinstance(admitted, Overflow):
                return str(admitted)
            self._permit = admitted
        fault = self._open(None, now_s)
        if fault:
            self._release()
        return fault

    @property
    def is_over(self) -> bool:
        return self._call is None

    def cancel(self) -> None:
        """Cancel: the answer is no longer needed. Its status still arrives, and is counted."""
        self._cancelled = True
        if self._attempt is not None and self._status is None:
            self._attempt.cancel()

    def _open(self, avoid: Pod | None, now_s: float) -> str:
        target, rpc, call = self._target, self._rpc, self._call
        pod = target.pick(avoid)
        if pod is None or call is None:
            return target.why_no_endpoint()
        self._pod, self._since_s = pod, now_s
        self._reading, self._headers, self._message, self._status = True, (), None, None
        pod.begin()
        try:
            self._attempt = call.ask(
                pod, rpc.path, target.own_authority, rpc.metadata, self._deadline_s, rpc.message, self
            )
        except ConnectionError as error:  # the pod left after it was picked
            end_on_pod(target, pod, 0.0, Status(Code.UNAVAILABLE, str(error)), now_s)
            return str(error)
        except Exception:  # a defect, which the engine contains: the pod must not count the RPC as running for ever
            end_on_pod(target, pod, 0.0, Status(Code.CANCELLED, ""), now_s)
            self._release()
            raise
        return ""

    # --- events of the try, as those of `Session`

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        if ok and self._permit is not None:
            self._permit.connected()

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        self._headers = headers or ()

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        self._reading, self._message = False, message
        limit_bytes = self._target.max_message_bytes
        if message is not None and len(message) > limit_bytes:
            self._refuse(message_too_large(self._target.key, len(message), limit_bytes).details, now_s)
        else:
            self._settle(now_s)

    def on_no_more_replies(self) -> None:
        self._reading = False

    def on_pod_status(self, status: Status, now_s: float) -> None:
        if self._pod is not None:
            end_on_pod(self._target, self._pod, now_s - self._since_s, status, now_s)
        self._status = status
        self._settle(now_s)

    def on_defect(self, now_s: float) -> None:
        """The engine caught an exception in one of the calls above."""
        self._end("a defect in the gateway, see its log", now_s)

    def _settle(self, now_s: float) -> None:
        status = self._status
        if status is None or self._reading:
            return
        if status.cause is Reason.CONNECT_FAILED and self._pod is not None:
            self._note_failure(self._pod)
        if status.code == Code.OK and self._message is not None:
            self._end(Answer(self._message, self._headers, status.trailers), now_s)
        elif not self._repeat(status, now_s):
            self._end(self._explain(status), now_s)

    def _refuse(self, fault: str, now_s: float) -> None:
        """The answer is not taken. The status still arrives, and is counted."""
        if self._attempt is not None and self._status is None:
            self._attempt.cancel()
        self._end(fault, now_s)

    def _repeat(self, status: Status, now_s: float) -> bool:
        pod = self._pod
        if self._repeated or self._cancelled or pod is None or not self._may_repeat(status):
            return False
        self._repeated = True
        return self._target.has_other(pod) and not self._open(pod, now_s)

    def _may_repeat(self, status: Status) -> bool:
        if status.cause is not None and safe_to_retry(status.cause):
            return True
        return self._rpc.repeatable and (status.cause in _POD_WENT_AWAY or status.code == Code.CANCELLED)

    def _explain(self, status: Status) -> str:
        pod = self._pod.endpoint if self._pod is not None else "-"
        if status.code == Code.OK:
            return f"pod {pod} answered without a message"
        name = Code(status.code).name if status.code <= Code.UNAUTHENTICATED else str(status.code)
        return f"pod {pod}: {name}: {status.details}"

    def _end(self, answer: Answer | str, now_s: float) -> None:
        if self._call is None:
            return
        self._release()
        if not self._cancelled:
            self._on_end(answer, now_s)

    def _release(self) -> None:
        self._call = self._attempt = None
        if self._permit is not None:
            self._permit.release()
