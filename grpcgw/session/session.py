"""One RPC through the gateway: a state machine without I/O. Every rule of how RPCs are forwarded is here and only here.

An engine tells a session what happened (`on_…`), the session answers through two small ports: `Call`, the client's
side, and `Attempt`, one try on one pod. It knows no sockets, threads, clocks or grpc: the time is an argument.
The engine calls one method at a time and never from inside a port call.

How a session reads:

* One message is in flight per direction: the next is read only when the one before was written on. A slow reader so
  slows the writer, and memory stays flat.
* What arrives together goes out together. A unary request comes as message and half-close, a unary reply as headers,
  message and status, within microseconds; sent on in one batch each, they cost half as much. So for a method whose
  RPCs look unary a session waits one short moment (`Call.join`, some milliseconds, then `on_join_expired`) for what
  usually follows, and learns from each RPC whether the method still looks so. A stream waits at most once.
* The status goes out last. grpc core reports a pod's status only when every message before it was read or is being
  read (chttp2 holds trailing metadata back), so with no read under way there is none left.
* Until a pod has answered, the opening (metadata, first message, half-close) is kept, so that a try that provably
  never reached its pod can be repeated once on another. The proof is the engine's (`Status.cause`): a status by itself
  proves nothing, since a pod can write any code and any words.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from grpcgw.balancer.base import Outcome
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import (
    Reason,
    Refusal,
    Status,
    counts_against_pod,
    make_status,
    reason_of,
    safe_to_retry,
    status_of_one_who_left,
)
from grpcgw.policy.breakers import Breaker, Overflow, Permit
from grpcgw.policy.held_messages import UNCOUNTED_BYTES
from grpcgw.policy.request import Request
from grpcgw.policy.retry import Failure, GiveUp, Retries, add_previous_attempts
from grpcgw.policy.timeouts import bound_deadline, may_have_passed
from grpcgw.routing.targets import Target
from grpcgw.session.call import Attempt, Call, Opening
from grpcgw.session.ending import ended_by
from grpcgw.session.forwarding import forward_request, forward_response, is_too_large
from grpcgw.session.serving import Serving
from grpcgw.session.shadow_copy import Copy
from grpcgw.telemetry.access_log import RpcRecord, StatusFrom, is_logged
from grpcgw.telemetry.counters import CLIENT_CANCELLED, MethodCounters
from grpcgw.upstream.pod import Pod


class Session:
    __slots__ = (
        "_attempt",
        "_call",
        "_copy",
        "_counted_bytes",
        "_counters",
        "_deadline_s",
        "_first",
        "_half_close_sent",
        "_half_closed",
        "_headers",
        "_headers_sent",
        "_held",
        "_last_active_s",
        "_lent_bytes",
        "_logged",
        "_looked_unary",
        "_message_refused",
        "_metadata",
        "_pending",
        "_permit",
        "_pod",
        "_pod_headers_seen",
        "_pod_since_s",
        "_reached",
        "_reading_client",
        "_reading_pod",
        "_repeated",
        "_replayable",
        "_replies",
        "_request",
        "_request_bytes",
        "_requests",
        "_response_bytes",
        "_retries",
        "_retry_at_s",
        "_sending_client",
        "_sending_pod",
        "_serving",
        "_since_s",
        "_status",
        "_target",
        "_try_deadline_s",
        "_unchecked_bytes",
        "finished",
    )

    def __init__(self, serving: Serving, call: Call, request: Request, now_s: float) -> None:
        self._serving, self._call, self._request = serving, call, request
        self._since_s = self._last_active_s = now_s
        self.finished = False
        """The client has its status, or is gone."""
        self._counters: MethodCounters = serving.counters.unmatched
        self._target: Target | None = None
        self._metadata: Metadata = ()
        self._deadline_s = request.deadline_s
        self._logged = False
        self._request_bytes = self._response_bytes = 0
        self._counted_bytes = (0, 0)
        """Of the two what the counters know already."""
        self._copy: Copy | None = None
        """For the Mapping's shadow; None: the RPC is not copied."""
        # towards the pod
        self._pod: Pod | None = None
        self._attempt: Attempt | None = None
        self._pod_since_s = now_s
        self._try_deadline_s: float | None = None
        self._repeated = False
        self._retry_at_s: float | None = None
        """When the try that is waited for is due; None: none is."""
        self._retries: Retries | None = None
        self._permit: Permit | None = None
        self._requests = 0
        self._first: bytes | None = None
        self._replayable = True
        self._pending: bytes | None = None
        self._half_closed = self._half_close_sent = self._looked_unary = False
        self._reading_client = self._sending_pod = self._message_refused = False
        # towards the client
        self._headers: Metadata = ()
        self._pod_headers_seen = self._headers_sent = False
        self._replies = self._lent_bytes = 0
        self._held: bytes | None = None
        self._reading_pod = self._sending_client = False
        self._status: Status | None = None
        self._reached = True

    # --- the RPC begins

    def start(self, now_s: float) -> None:
        """Route the RPC and begin to read it. Called once, first."""
        serving, request = self._serving, self._request
        try:
            target = (
                request.refusal
                or self._refuse_too_large()
                or serving.route(request.path, request.authority, request.metadata, request.port)
            )
        except Exception:  # a defect, which the engine contains: what is counted as ended must have begun
            self._counters.begin()
            raise
        if isinstance(target, Refusal):
            self._counters.begin()
            if serving.rpc_log is not None:
                self._logged = is_logged(serving.rpc_log.share_percent)
            self._finish_with(target.reason, target.message, now_s)
            return
        self._target, self._unchecked_bytes = target, min(target.unchecked_bytes, request.port.max_message_bytes)
        self._counters = counters = serving.counters.of(target.label, request.path)
        counters.begin()
        if target.log_percent:
            self._logged = is_logged(target.log_percent)
        self._deadline_s = bound_deadline(request.deadline_s, target.timeout_ms, now_s)
        if target.breaker is not None and not self._admit(target.breaker, target, now_s):
            return
        if target.shadow is not None:
            self._copy = serving.copies.begin(target.shadow, self._call, request)
        self._read_client()
        if counters.one_request:
            self._call.join()
        else:
            self._open(now_s)

    def _admit(self, breaker: Breaker, target: Target, now_s: float) -> bool:
        admitted = breaker.admit(waits=not target.is_connected())
        if isinstance(admitted, Overflow):
            self._serving.counters.count_breaker(target.label, admitted.limit)
            self._finish_with(Reason.CIRCUIT_BREAKER, f"Mapping {target.label}: {admitted}", now_s)
            return False
        self._permit = admitted
        return True

    def _refuse_too_large(self) -> Refusal | None:
        limit_bytes = self._serving.max_metadata_bytes
        if not is_too_large(self._request.metadata, limit_bytes):
            return None
        self._request.metadata = ()  # not held until the RPC is over: a few hundred of these would fill the memory
        return Refusal(Reason.METADATA_TOO_LARGE, f"the metadata is larger than {limit_bytes} bytes")

    def _open(self, now_s: float, avoid: Pod | None = None) -> None:
        """Send the RPC, as far as it has been read, to the next pod."""
        target = self._target
        assert target is not None
        request = self._request
        key = None if target.make_key is None else target.make_key(request.metadata, request.peer.address)
        pod = target.pick(avoid, key)
        if pod is None:
            self._finish_with(Reason.NO_ENDPOINTS, target.why_no_endpoint(), now_s)
            return
        if not self._metadata:
            metadata = forward_request(request.metadata, request.peer, request.port.tls)
            if self._copy is not None:
                self._copy.metadata = metadata
            edit = target.edit_request
            self._metadata = metadata if edit is None else edit(metadata, request)
        self._pod, self._pod_since_s = pod, now_s
        self._try_deadline_s = self._deadline_s
        if target.retry is not None:
            self._try_deadline_s = bound_deadline(self._deadline_s, target.retry.per_try_timeout_ms, now_s)
        pod.begin()
        self._half_close_sent = self._half_closed
        self._sending_pod = self._reading_pod = True
        opening = Opening(self._first, self._half_closed)
        authority = target.authority or request.authority
        try:
            self._attempt = self._call.open(
                pod, target.rewrite(request.path), authority, self._metadata, self._try_deadline_s, opening
            )
        except ConnectionError as error:
            self._open_failed(pod, str(error), now_s)
        except Exception:  # a defect, which the engine contains: the pod must not count the RPC as running for ever
            self._end_try(pod, Status(Code.CANCELLED, ""), now_s)
            raise
        if self._copy is not None:
            self._copy.open(now_s)

    def _open_failed(self, pod: Pod, cause: str, now_s: float) -> None:
        """The pod left, and its connection was closed, after it was picked."""
        self._end_try(pod, Status(Code.UNAVAILABLE, cause), now_s)
        if self._may_repeat(pod):
            self._repeat(pod, now_s)
        else:
            self._finish_with(Reason.CONNECT_FAILED, self._explain(cause), now_s)

    # --- client → pod

    def on_request_message(self, message: bytes | None, now_s: float) -> None:
        """The client sent a message, or None: it provably half-closed. One that is gone is `on_client_closed` alone."""
        self._reading_client = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is not None and len(message) > self._unchecked_bytes and not self._may_hold(message, now_s):
            return
        if self._copy is not None:
            self._copy.take(message, now_s)
        if message is None:
            self._half_closed = True
        else:
            self._requests += 1
            self._request_bytes += len(message)
            if self._requests == 1:
                self._take_first(message, now_s)
                return
            self._pending = message
            self._counters.one_request = False
        if self._attempt is not None:
            self._pump()
        elif self._retry_at_s is None:
            self._open(now_s)

    def _may_hold(self, message: bytes, now_s: float) -> bool:
        """Whether a message of the client's that is not small may be held; where it may not, the RPC has ended."""
        target, held, size_bytes = self._target, self._serving.held, len(message)
        assert target is not None
        if size_bytes > target.max_message_bytes:
            self._refuse_message(target, message, now_s)
            return False
        limit_bytes = self._request.port.max_message_bytes
        if size_bytes > limit_bytes:
            what = f"a message of {size_bytes} bytes is larger than the {limit_bytes} of the port"
            self._end_early(Reason.MESSAGE_TOO_LARGE, f"{what} (--max-message-bytes, maxMessageBytes)", now_s)
            return False
        if size_bytes <= UNCOUNTED_BYTES:
            return True
        if held.take(self._request.peer.key, size_bytes):
            self._lent_bytes += size_bytes
            return True
        what = f"more than {held.limit_bytes} bytes of the client's large messages wait for their readers"
        self._end_early(Reason.TOO_MUCH_HELD, f"Mapping {target.label}: {what}", now_s)
        return False

    def _refuse_message(self, target: Target, message: bytes, now_s: float) -> None:
        what = f"a message of {len(message)} bytes is larger than max_message_bytes {target.max_message_bytes}"
        self._end_early(Reason.MESSAGE_TOO_LARGE, f"Mapping {target.label}: {what}", now_s)

    def _give_back(self) -> None:
        """None of the client's messages is held any more."""
        self._serving.held.give(self._request.peer.key, self._lent_bytes)
        self._lent_bytes = 0

    def _take_first(self, message: bytes, now_s: float) -> None:
        self._first = message
        if self._attempt is not None:
            self._pending = message
            self._pump()
        else:
            self._read_client()  # the half-close usually came along

    def _pump(self) -> None:
        """Start what is next towards the pod: a message, the half-close, or reading on."""
        attempt = self._attempt
        if self._sending_pod or attempt is None or self._status is not None:
            return
        if self._pending is not None:
            message, self._pending = self._pending, None
            if self._requests > 1:
                self._forget_opening()
            self._sending_pod = True
            attempt.send(message, False)
        elif self._half_closed and not self._half_close_sent:
            self._half_close_sent = self._sending_pod = True
            attempt.send(None, True)
        elif not self._half_closed:
            self._read_client()

    def _read_client(self) -> None:
        if not self._reading_client and not self._half_closed:
            self._reading_client = True
            self._call.read()

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the pod is written. Not ok: nor will anything else be, the status follows."""
        if not ok:
            return
        self._sending_pod = False
        if self._permit is not None and self._permit.waits:
            self._permit.connected()
        if self._lent_bytes and self._first is None and self._pending is None:
            self._give_back()
        if not self.finished:
            self._last_active_s = now_s
            self._pump()

    def _forget_opening(self) -> None:
        self._first, self._replayable = None, False

    # --- pod → client

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        """The pod's initial metadata: empty also where it sent trailers only; None: provably nothing was sent to it."""
        if self.finished:
            return
        self._last_active_s = now_s
        self._pod_headers_seen, self._reached = True, headers is not None
        self._headers = forward_response(headers) if headers else ()
        self._looked_unary = self._half_closed and self._requests == 1
        if self._status is not None:
            self._settle(now_s)
        elif headers is None:
            pass  # the status follows, and may allow another try as long as no headers went out
        elif self._counters.one_reply or not headers:
            self._call.join()
        else:
            self._send_held(now_s)

    def _send_headers(self) -> None:
        self._forget_opening()
        held, self._held = self._held, None
        self._headers_sent = self._sending_client = True
        self._call.send(self._edited_headers(), held)

    def _edited_headers(self) -> Metadata:
        """The pod's initial metadata as the client gets it. A trailers-only answer has none, and gets none."""
        edit = self._target.edit_response if self._target is not None else None
        return self._headers if edit is None else edit(self._headers, self._request)

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        """A reply, or None: there are no more, the status follows or is here."""
        self._reading_pod = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is None:
            self._settle(now_s)
            return
        target = self._target
        if len(message) > self._unchecked_bytes and target is not None and len(message) > target.max_message_bytes:
            self._refuse_message(target, message, now_s)
            return
        self._replies += 1
        self._response_bytes += len(message)
        if self._counters.unnamed:
            self._name_method()
        self._held = message
        if self._replies > 1:
            self._counters.one_reply = False
        elif self._counters.one_reply and not self._headers_sent:
            self._settle(now_s)  # the status usually comes along; the join window is open since the headers
            return
        self._send_held(now_s)

    def on_no_more_replies(self) -> None:
        """Instead of `on_pod_message`, from inside `Attempt.read`: the try was over already."""
        self._reading_pod = False

    def _send_held(self, now_s: float) -> None:
        if self._sending_client or not self._pod_headers_seen:
            return
        if not self._headers_sent:
            self._send_headers()
        elif self._held is not None:
            held, self._held = self._held, None
            self._sending_client = True
            self._call.send(None, held)
        elif self._status is not None:
            self._settle(now_s)
        elif not self._reading_pod and self._attempt is not None:
            self._reading_pod = True
            self._attempt.read()

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the client is written (or, not ok, the client is gone: `on_client_closed` tells)."""
        self._sending_client = False
        if ok and not self.finished:
            self._last_active_s = now_s
            self._send_held(now_s)

    def on_pod_status(self, status: Status, now_s: float) -> None:
        """The try is over; what else is still to be reported of it (headers, a message) may come after."""
        pod = self._pod
        assert pod is not None
        self._end_try(pod, status, now_s)
        self._status = status
        if self.finished:
            self._attempt = None
        else:
            self._settle(now_s)

    def _end_try(self, pod: Pod, status: Status, now_s: float) -> None:
        target = self._target
        assert target is not None
        failed = counts_against_pod(status)
        duration_s = now_s - self._pod_since_s
        pod.end(duration_s, (status.details or Code(status.code).name) if failed else "")
        target.done(pod, Outcome(status.code, failed, duration_s, status.trailers), now_s)

    def on_join_expired(self, now_s: float) -> None:
        """What was waited for did not come along: this is a stream (or slow), go on with what is there."""
        if self.finished:
            return
        if self._retry_at_s is not None:
            self._open_retry(self._retry_at_s, now_s)
        elif self._attempt is None:
            self._counters.one_request = False
            self._open(now_s)
        elif self._pod_headers_seen and self._reached and not self._headers_sent and self._status is None:
            if self._held is not None:
                self._counters.one_reply = False
            self._send_headers()

    def _open_retry(self, due_s: float, now_s: float) -> None:
        if now_s < due_s:  # the timer was an earlier one's, which expired while the retry's was set
            self._call.join(due_s - now_s)
            return
        self._retry_at_s = None
        self._open(now_s, avoid=self._pod)

    # --- the end

    def _settle(self, now_s: float) -> None:
        """Finish if the pod's status is here and nothing comes before it."""
        status = self._status
        if status is None or self._reading_pod or self._sending_client or not self._pod_headers_seen:
            return
        reason = status.cause
        if reason is Reason.CONNECTION_LOST and not self._reached:
            reason = Reason.CONNECT_FAILED  # it was lost before anything was sent
        if reason is Reason.CONNECT_FAILED and self._pod is not None:
            self._serving.clusters.note_failure(self._pod)
        if status.code and self._retry(status, reason, now_s):
            return
        if self._expired(status, now_s):
            self._finish_with(*self._why_expired(), now_s)
        elif reason is None:
            self._finish(_forward_status(status), now_s, by_pod=True)
        elif self._replies:
            self._finish(make_status(reason, self._explain(status.details)), now_s)
        else:
            self._retry_or_finish(reason, status, now_s)

    def _retry_or_finish(self, reason: Reason, status: Status, now_s: float) -> None:
        pod = self._pod
        assert pod is not None
        if safe_to_retry(reason) and self._replayable and self._may_repeat(pod):
            self._forget_try()
            self._repeat(pod, now_s)
        else:
            self._finish_with(reason, self._explain(status.details), now_s)

    def _retry(self, status: Status, reason: Reason | None, now_s: float) -> bool:
        """Whether the Mapping's `retry_policy` gives the RPC another try; the client then hears nothing of this one."""
        target = self._target
        if target is None or target.retry is None:
            return False
        if self._retries is None:
            self._retries = Retries(target.retry, target.budget)
        timed_out = self._expired(status, now_s)
        if timed_out and self._try_deadline_s == self._deadline_s:
            return False  # not the try's time is over, the RPC's is
        decided = self._retries.decide(self._failure(status, reason, timed_out, now_s))
        if isinstance(decided, GiveUp):
            return False
        overflow = None if self._permit is None else self._permit.retry(waits=not target.is_connected())
        if overflow is not None:
            self._serving.counters.count_breaker(target.label, overflow.limit)
            return False
        self._serving.counters.count_retry(target.label)
        self._forget_try()
        self._metadata = add_previous_attempts(self._metadata, 1)
        self._retry_at_s = now_s + decided.delay_s
        self._call.join(decided.delay_s)
        return True

    def _failure(self, status: Status, reason: Reason | None, timed_out: bool, now_s: float) -> Failure:
        """How a try ended, with the code that the client would get."""
        return Failure(
            code=status.code if reason is None else make_status(reason, "").code,
            trailers=status.trailers,
            never_reached=reason is not None and safe_to_retry(reason),
            timed_out=timed_out,
            committed=self._headers_sent or bool(self._replies) or not self._replayable,
            left_s=None if self._deadline_s is None else self._deadline_s - now_s,
        )

    def _forget_try(self) -> None:
        """Be as before the try that failed: what was kept of the request goes out again with the next."""
        self._status, self._attempt, self._pod_headers_seen = None, None, False
        self._headers = ()
        self._try_deadline_s = self._deadline_s
        if self._requests == 1:
            self._pending = None  # it goes out with the opening

    def _may_repeat(self, pod: Pod) -> bool:
        return not self._repeated and self._target is not None and self._target.has_other(pod)

    def _repeat(self, pod: Pod, now_s: float) -> None:
        """Try once more, on another pod than the one that was not reached."""
        self._repeated = True
        self._serving.counters.count_retry(self._counters.mapping)
        self._open(now_s, avoid=pod)

    def _explain(self, cause: str) -> str:
        label = self._target.label if self._target else ""
        return f"Mapping {label}: pod {self._pod.endpoint if self._pod else '-'}: {cause}"

    def _expired(self, status: Status, now_s: float) -> bool:
        """Whether it was this side's deadline, not a DEADLINE_EXCEEDED of the pod's own.

        A pod that notices first cancels the RPC, which is no other end of it.
        """
        return (
            (status.code == Code.CANCELLED or (status.code == Code.DEADLINE_EXCEEDED and status.details in _PASSED))
            and self._try_deadline_s is not None
            and not status.trailers
            and may_have_passed(self._try_deadline_s, self._pod_since_s, now_s)
        )

    def _why_expired(self) -> tuple[Reason, str]:
        target, client_s = self._target, self._request.deadline_s
        label = target.label if target else ""
        if target is not None and target.retry is not None and self._try_deadline_s != self._deadline_s:
            limit_ms = target.retry.per_try_timeout_ms
            return Reason.TIMEOUT, f"Mapping {label}: per_try_timeout {limit_ms} ms passed{self._waited_for()}"
        if target is not None and target.timeout_ms is not None and self._deadline_s != client_s:
            return Reason.TIMEOUT, f"Mapping {label}: timeout_ms {target.timeout_ms} passed{self._waited_for()}"
        return Reason.CLIENT_DEADLINE, f"Mapping {label}: the client's deadline passed{self._waited_for()}"

    def _waited_for(self) -> str:
        return f" while waiting for pod {self._pod.endpoint}" if self._pod is not None else ""

    def on_message_refused(self) -> None:
        """grpc core does not take the message that the client sent; `on_client_closed` follows."""
        self._message_refused = True

    def on_client_closed(self, now_s: float) -> None:
        """The client cancelled, its deadline passed, or its connection is gone: nothing more can be sent to it."""
        if self.finished:
            return
        expired = self._request.deadline_s is not None and now_s >= self._request.deadline_s
        if expired:
            status = make_status(Reason.CLIENT_DEADLINE, f"the client's deadline passed{self._waited_for()}")
        else:
            began = self._half_closed or self._requests > 0
            status = status_of_one_who_left(now_s - self._since_s, began, self._message_refused)
        self._record(status, StatusFrom.NOBODY, now_s)
        self._abandon_attempt()

    def on_sweep(self, now_s: float) -> None:
        """Called from time to time: ends an RPC that was quiet for too long or is past its deadline."""
        target = self._target
        if self.finished or target is None:
            return
        self._count_bytes()
        on_pod = self._attempt is not None and self._status is None  # then grpc core watches the deadline
        if self._deadline_s is not None and now_s >= self._deadline_s and not on_pod:
            self._end_early(*self._why_expired(), now_s)
        elif target.idle_timeout_s is not None and now_s - self._last_active_s >= target.idle_timeout_s:
            quiet_ms = round(target.idle_timeout_s * 1000)
            self._end_early(
                Reason.IDLE_TIMEOUT, f"Mapping {target.label}: no message for idle_timeout_ms {quiet_ms}", now_s
            )

    def _count_bytes(self) -> None:
        """What a long RPC has moved is seen while it runs."""
        total, counted = (self._request_bytes, self._response_bytes), self._counted_bytes
        if total != counted:
            self._counters.add_bytes(total[0] - counted[0], total[1] - counted[1])
            self._counted_bytes = total

    def on_drained(self, now_s: float) -> None:
        """The drain time is over: the RPC ends now."""
        self._end_early(Reason.DRAINING, "the gateway's drain time is over", now_s)

    def on_defect(self, now_s: float) -> None:
        """The engine caught an exception in one of the calls above."""
        self._end_early(Reason.DEFECT, "a defect in the gateway, see its log", now_s)

    def _end_early(self, reason: Reason, message: str, now_s: float) -> None:
        if self.finished:
            return
        if self._sending_client:
            call, status = self._call, make_status(reason, message)
            self._record(status, StatusFrom.GATEWAY, now_s)
            call.abort(status)
        else:
            self._finish_with(reason, message, now_s)
        self._abandon_attempt()

    def _abandon_attempt(self) -> None:
        if self._attempt is not None:  # let go of once its status is here
            self._attempt.cancel()

    def _finish_with(self, reason: Reason, message: str, now_s: float) -> None:
        self._held = None
        if not self._headers_sent:
            self._headers = ()  # a status of the gateway's own is trailers-only where it still can be
        self._finish(make_status(reason, message), now_s)

    def _finish(self, status: Status, now_s: float, by_pod: bool = False) -> None:
        held, self._held = self._held, None
        headers = None if self._headers_sent else self._headers
        if headers or (held is not None and headers is not None):
            headers = self._edited_headers()
        call = self._call
        if by_pod and self._counters.unnamed and status.code != Code.UNIMPLEMENTED:
            self._name_method()
        self._learn()
        if not by_pod:
            status_from = StatusFrom.GATEWAY
        elif headers or held is not None or self._headers_sent:
            status_from = StatusFrom.TRAILERS
        else:
            status_from = StatusFrom.HEADERS
        call.finish(headers, held, status, self._headers_sent)  # first: what it refuses is a defect, told to the client
        self._record(status, status_from, now_s, headers)

    def _name_method(self) -> None:
        """A pod has answered the method: it exists, and may have a name in metrics."""
        unnamed = self._counters
        self._counters = found = self._serving.counters.name(unnamed, self._request.path)
        if found is not unnamed:
            unnamed.move(found)

    def _learn(self) -> None:
        """A method that looked unary in this RPC is taken for unary in the next."""
        if self._looked_unary:
            self._counters.one_request = True
        if self._replies == 1:
            self._counters.one_reply = True

    def _record(
        self, status: Status, status_from: StatusFrom, now_s: float, last_headers: Metadata | None = None
    ) -> None:
        """The RPC is over. `last_headers` go out with the status."""
        self.finished = True
        self._call.leave()
        self._call = _NO_CALL
        self._first = self._pending = self._held = None
        if self._status is not None:
            self._attempt = None
        if self._copy is not None:
            self._copy.leave(status_from is StatusFrom.NOBODY, now_s)
        self._release()
        own = status_from is StatusFrom.GATEWAY or status_from is StatusFrom.NOBODY
        reason = reason_of(status) if own else ""
        self._count_end(status.code, reason or (CLIENT_CANCELLED if own else ""), now_s)
        if self._logged and self._serving.rpc_log is not None:
            headers = self._edited_headers() if self._headers_sent else last_headers
            self._serving.rpc_log.put(self._sum_up(status, status_from, reason, headers or (), now_s))

    def _count_end(self, code: int, reason: str, now_s: float) -> None:
        requests, responses = self._counted_bytes
        self._counters.end(
            code, now_s - self._since_s, reason, self._request_bytes - requests, self._response_bytes - responses
        )

    def _sum_up(
        self, status: Status, status_from: StatusFrom, reason: str, headers: Metadata, now_s: float
    ) -> RpcRecord:
        request, target, pod = self._request, self._target, self._pod
        return RpcRecord(
            path=request.path,
            code=status.code,
            status_from=status_from,
            duration_s=now_s - self._since_s,
            authority=request.authority,
            peer=request.peer.address,
            peer_port=request.peer.port,
            metadata=request.metadata,
            mapping=target.label if target is not None else "",
            cluster=target.cluster if target is not None else "",
            pod=str(pod.endpoint) if pod is not None else "",
            message=status.details,
            reason=reason,
            request_messages=self._requests,
            request_bytes=self._request_bytes,
            response_messages=self._replies,
            response_bytes=self._response_bytes,
            timeout_s=None if request.deadline_s is None else request.deadline_s - self._since_s,
            deadline_left_s=None if self._deadline_s is None else self._deadline_s - now_s,
            cancelled_by=ended_by(status_from, reason),
            retries=self._repeated + (self._retries.count if self._retries is not None else 0),
            forwarded=self._metadata,
            headers=headers,
            trailers=status.trailers if status_from is not StatusFrom.NOBODY else (),
        )

    def _release(self) -> None:
        """Give back what was lent to the RPC."""
        if self._lent_bytes:
            self._give_back()
        if self._permit is not None:
            self._permit.release()
        if self._retries is not None:
            self._retries.close()


_PASSED = ("Deadline Exceeded", "Stream removed (Deadline Exceeded)", "")
"""What grpc core says of a deadline that passed. A pod may say the same, to the same effect."""


def _forward_status(status: Status) -> Status:
    trailers = forward_response(status.trailers)
    return status if trailers is status.trailers else replace(status, trailers=trailers)


class _NoCall:
    """The client's side of an RPC that is over: the session lets go of the real one, and nothing may follow."""

    def _over(self, *_: object) -> NoReturn:
        raise AssertionError("an RPC that is over was acted on")

    read = send = finish = abort = join = leave = open = _over


_NO_CALL: Call = _NoCall()
