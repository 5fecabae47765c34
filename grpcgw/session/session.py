"""One RPC through the gateway: a state machine without I/O. The rules of how RPCs are forwarded are in this package.

An engine reports events to a session (`on_…`). The session answers through two small ports: `Call`, the client's side,
and `Attempt`, one try on one pod. It knows no sockets, threads, clocks or grpc: the time is an argument. The engine
calls one method at a time and never from inside a port call.

The parts of a session, each of which can be read alone:

* `request_side`: reads the client and forwards its messages to the current try.
* `response_side`: sends headers, replies and the status to the client.
* `policy_stage`, `policy_rpc`: the policy chain with its I/O.
* `pod_try`: one try on one pod, dropped whole when another follows. `further_tries`: whether another follows.
* `ending`: the statuses of RPCs that their pod did not end. `record`: the access log's record of an RPC.

The session joins them, and reads in the order in which an RPC lives:

1. `start` routes the RPC: to a Mapping's target, or to a refusal, which ends it.
2. `_run_policies` asks the Mapping's policies (`policy_stage`), if it has any. They allow the RPC, now or later, or
   deny it with any status. While one waits, `_on_hold` keeps the request from being opened, and of the request at most
   the first message is read.
3. `_proceed` continues with an RPC that is admitted: breaker, copy, and reading the request.
4. `_open` picks a pod and opens a try with what was read of the request so far.
5. The events of the client and of the pod pass messages on, each way one at a time.
6. `_settle` decides what the end of a try means: the end of the RPC, or another try.
7. `_finish` sends the status, and `_record` counts and logs the RPC, exactly once.

Rules that hold throughout:

* One message is in flight per direction: the next is read only when the one before was written. A slow reader so
  slows the writer, and memory stays flat.
* What arrives together goes out together. A unary request comes as message and half-close, a unary reply as headers,
  message and status, within microseconds; sent on in one batch each, they cost half as much. So for a method whose
  RPCs look unary a session waits for a short window (`Timer.COALESCE`, some milliseconds) for what usually follows,
  and learns from each RPC whether the method still looks unary. A stream waits at most once.
* The status goes out last. grpc core reports a pod's status only when every message before it was read or is being
  read (chttp2 holds trailing metadata back), so with no read under way there is none left.
* Until a pod has answered, the opening (metadata, first message, half-close) is kept, so that a try that provably
  never reached its pod can be repeated once on another. The engine proves it (`Status.cause`): a status by itself
  proves nothing, since a pod can write any code and any text.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NoReturn

from grpcgw.balancer.hashing import MakeKey
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status, make_status, reason_of
from grpcgw.policy.breakers import Breaker, Overflow, Permit
from grpcgw.policy.contract import Wait
from grpcgw.policy.request import Request
from grpcgw.policy.retry import add_previous_attempts
from grpcgw.policy.timeouts import bound_deadline
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session import ending
from grpcgw.session.call import COALESCE_WINDOW_S, Call, Timer
from grpcgw.session.ending import client_left
from grpcgw.session.forwarding import forward_request, forward_response, is_too_large
from grpcgw.session.further_tries import Again, FurtherTries
from grpcgw.session.pod_try import Try, end_on_pod
from grpcgw.session.policy_stage import Outcome, PolicyStage
from grpcgw.session.record import make_record
from grpcgw.session.request_side import RequestSide
from grpcgw.session.response_side import ResponseSide
from grpcgw.session.serving import Serving
from grpcgw.session.shadow_copy import Copy
from grpcgw.telemetry.access_log import StatusFrom, is_logged
from grpcgw.telemetry.counters import CLIENT_CANCELLED, MethodCounters
from grpcgw.upstream.pod import Pod

# Access to a member of an enum costs 0.1 us, a global a tenth of that.
_COALESCE, _POLICY = Timer.COALESCE, Timer.POLICY
_NOBODY, _GATEWAY = StatusFrom.NOBODY, StatusFrom.GATEWAY
_TRAILERS, _HEADERS = StatusFrom.TRAILERS, StatusFrom.HEADERS

TIMER_SLACK_S = 0.005
"""An engine's timer may expire so much before its time."""


class Session:
    __slots__ = (
        "_call",
        "_copy",
        "_counters",
        "_deadline_s",
        "_further",
        "_last_active_s",
        "_logged",
        "_looked_unary",
        "_metadata",
        "_on_hold",
        "_permit",
        "_pod",
        "_policies",
        "_replies",
        "_request",
        "_requests",
        "_serving",
        "_since_s",
        "_target",
        "_try",
        "_unchecked_bytes",
        "finished",
    )

    def __init__(self, serving: Serving, call: Call, request: Request, now_s: float) -> None:
        self._serving, self._call, self._request = serving, call, request
        self._since_s = self._last_active_s = now_s
        self._deadline_s = request.deadline_s
        self.finished = False
        """The client has its status, or is gone."""
        self._requests, self._replies = RequestSide(), ResponseSide(request)
        self._target: Target | None = None
        self._metadata: Metadata = ()
        """The request's as pods get it; empty before the first try."""
        self._copy: Copy | None = None
        """For the Mapping's shadow; None: the RPC is not copied."""
        self._permit: Permit | None = None
        self._policies: PolicyStage | None = None
        """None: the Mapping has no policies."""
        self._on_hold: Timer | None = None
        """What must come before the next try is opened; None: nothing."""
        self._pod: Pod | None = None
        """The last one tried."""
        self._try: Try | None = None
        """The current try, or the last one if no other follows. Kept until its status is here, even after the RPC."""
        self._further: FurtherTries | None = None
        self._counters: MethodCounters = serving.counters.unmatched
        self._logged = self._looked_unary = False

    # --- the RPC begins

    def start(self, now_s: float) -> None:
        """Route the RPC and begin to read it. Called once, first."""
        try:
            routed = self._route()
        except Exception:  # a defect, which the engine contains: what is counted as ended must have begun
            self._counters.begin()
            raise
        if isinstance(routed, Deny):
            self._turn_away(routed, now_s)
            return
        self._target, self._replies.edit = routed, routed.edit_response
        self._unchecked_bytes = min(routed.unchecked_bytes, self._request.port.max_message_bytes)
        self._counters = self._serving.counters.of(routed.label, self._request.path)
        self._counters.begin()
        if routed.log_percent:
            self._logged = is_logged(routed.log_percent)
        self._deadline_s = bound_deadline(self._request.deadline_s, routed.timeout_ms, now_s)
        if routed.policies is None:
            self._proceed(routed, now_s)
        else:
            self._run_policies(routed, now_s)

    def _route(self) -> Target | Deny:
        serving, request = self._serving, self._request
        if request.refusal is not None:
            return request.refusal
        limit_bytes = serving.max_metadata_bytes
        if is_too_large(request.metadata, limit_bytes):
            request.metadata = ()  # not held until the RPC is over: a few hundred of these would fill the memory
            return Deny(Reason.METADATA_TOO_LARGE, f"the metadata is larger than {limit_bytes} bytes")
        return serving.route(request.path, request.authority, request.metadata, request.port)

    def _turn_away(self, refusal: Deny, now_s: float) -> None:
        """End an RPC that has no target."""
        self._counters.begin()
        if self._serving.rpc_log is not None:
            self._logged = is_logged(self._serving.rpc_log.share_percent)
        self._finish_own(refusal.status(), now_s)

    def _run_policies(self, target: Target, now_s: float) -> None:
        """Ask the policies of the Mapping. While one waits, the first message is read and held, and no more."""
        self._policies = PolicyStage(
            target, self._call, self._request, self._deadline_s, self._serving.clusters.note_failure, self._decide
        )
        self._on_hold = _POLICY
        outcome = self._policies.start(now_s)
        self._decide(outcome, now_s)
        if isinstance(outcome, Wait):
            self._requests.read(self._call)

    def _decide(self, outcome: Outcome, now_s: float) -> None:
        """The policies allow the RPC, deny it, or one of them waits."""
        target = self._target
        if self.finished or target is None or isinstance(outcome, Wait):
            return
        self._on_hold = None
        self._last_active_s = now_s
        self._call.cancel_timer()
        if outcome is None:
            self._proceed(target, now_s)
        else:
            self._end_early(outcome.status(), now_s)

    def _policy_timed_out(self, stage: PolicyStage, now_s: float) -> None:
        target, deadline_s = self._target, self._deadline_s
        if target is not None and deadline_s is not None and now_s >= deadline_s - TIMER_SLACK_S:
            client_s = self._request.deadline_s
            self._end_early(ending.deadline_passed(target, deadline_s, client_s, None), now_s)
        else:
            self._decide(stage.on_timer(now_s), now_s)

    def _proceed(self, target: Target, now_s: float) -> None:
        """The RPC is admitted: pass the breaker, begin the copy, read the request. Called once."""
        if target.breaker is not None and not self._pass_breaker(target.breaker, target, now_s):
            return
        if target.shadow is not None:
            self._copy = self._serving.copies.begin(target.shadow, self._call, self._request)
            self._copy_held(now_s)
        self._requests.read(self._call)
        if self._counters.one_request and not self._requests.half_closed:
            self._call.set_timer(_COALESCE, COALESCE_WINDOW_S)
        else:
            self._open(now_s)

    def _copy_held(self, now_s: float) -> None:
        """Give the copy what was read while a policy waited."""
        if self._copy is not None and self._requests.first is not None:
            self._copy.take(self._requests.first, now_s)
        if self._copy is not None and self._requests.half_closed:
            self._copy.take(None, now_s)

    def _pass_breaker(self, breaker: Breaker, target: Target, now_s: float) -> bool:
        """Whether the breaker has room; where it has none, the RPC has ended."""
        admitted = breaker.admit(waits=not target.is_connected())
        if isinstance(admitted, Overflow):
            self._serving.counters.count_breaker(target.label, admitted.limit)
            self._finish_own(make_status(Reason.CIRCUIT_BREAKER, f"Mapping {target.label}: {admitted}"), now_s)
            return False
        self._permit = admitted
        return True

    # --- a try begins

    def _open(self, now_s: float, avoid: Pod | None = None) -> None:
        """Send the RPC, as far as it was read, to the next pod."""
        target, request = self._target, self._request
        assert target is not None
        key = None if target.make_key is None else self._hash_key(target.make_key)
        pod = target.pick(avoid, key)
        if pod is None:
            self._finish_own(make_status(Reason.NO_ENDPOINTS, target.why_no_endpoint()), now_s)
            return
        metadata = self._metadata or self._make_metadata(target)
        deadline_s = self._deadline_s
        if target.retry is not None:
            deadline_s = bound_deadline(deadline_s, target.retry.per_try_timeout_ms, now_s)
        self._pod = pod
        pod.begin()
        opening = self._requests.opening()
        authority = target.authority or request.authority
        try:
            port = self._call.open(pod, target.rewrite(request.path), authority, metadata, deadline_s, opening)
        except ConnectionError as error:
            self._open_failed(target, pod, str(error), now_s)
            return
        except Exception:  # a defect, which the engine contains: the pod must not count the RPC as running for ever
            end_on_pod(target, pod, 0.0, Status(Code.CANCELLED, ""), now_s)
            raise
        self._try = Try(pod, port, deadline_s, opening.half_close, now_s)
        if self._copy is not None:
            self._copy.open(now_s)

    def _hash_key(self, make_key: MakeKey) -> int | None:
        metadata = self._request.metadata if self._policies is None else self._policies.metadata
        return make_key(metadata, self._request.peer.address)

    def _make_metadata(self, target: Target) -> Metadata:
        request = self._request
        metadata = forward_request(request.metadata, request.peer, request.port.tls)
        if self._policies is not None:
            metadata = self._policies.edit(metadata)
        if self._copy is not None:
            self._copy.metadata = metadata
        edit = target.edit_request
        self._metadata = metadata = metadata if edit is None else edit(metadata, request)
        return metadata

    def _open_failed(self, target: Target, pod: Pod, cause: str, now_s: float) -> None:
        """The pod left, and its connection was closed, after it was picked."""
        end_on_pod(target, pod, 0.0, Status(Code.UNAVAILABLE, cause), now_s)
        if self._further_tries(target).repeat(pod):
            self._open(now_s, avoid=pod)
        else:
            self._finish_own(ending.try_failed(Reason.CONNECT_FAILED, target.label, pod, cause), now_s)

    def _further_tries(self, target: Target) -> FurtherTries:
        if self._further is None:
            client_s = self._request.deadline_s
            self._further = FurtherTries(target, self._serving.counters, self._deadline_s, client_s)
        return self._further

    # --- client → pod

    def on_request_message(self, message: bytes | None, now_s: float) -> None:
        """The client sent a message, or None: it provably half-closed. One that is gone is `on_client_closed` alone."""
        requests = self._requests
        requests.reading = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is not None and len(message) > self._unchecked_bytes and not self._may_hold(message, now_s):
            return
        if self._copy is not None:
            self._copy.take(message, now_s)
        requests.take(message)
        if requests.count > 1:
            self._counters.one_request = False
        if self._try is not None:
            requests.forward(self._call, self._try)
        elif self._on_hold is _POLICY:
            pass  # it is held until the policies allow the RPC
        elif message is not None and requests.count == 1:
            requests.read(self._call)  # the half-close usually came along
        elif self._on_hold is None:
            self._open(now_s)

    def _may_hold(self, message: bytes, now_s: float) -> bool:
        """Whether a message that is not small may be held; where it may not, the RPC has ended."""
        assert self._target is not None
        refused = self._requests.refuse(message, self._target, self._request, self._serving.held)
        if refused is None:
            return True
        self._end_early(refused, now_s)
        return False

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the pod is written. Not ok: nor will anything else be, the status follows."""
        attempt, requests = self._try, self._requests
        if not ok or attempt is None:
            return
        attempt.sending = False
        if self._permit is not None and self._permit.waits:
            self._permit.connected()
        if requests.lent_bytes:
            requests.give_back(self._request, self._serving.held)
        if not self.finished:
            self._last_active_s = now_s
            requests.forward(self._call, attempt)

    # --- pod → client

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        """The pod's initial metadata: empty also where it sent trailers only; None: provably nothing was sent to it."""
        attempt = self._try
        if self.finished or attempt is None:
            return
        self._last_active_s = now_s
        attempt.headers_seen, attempt.reached = True, headers is not None
        if headers:
            attempt.headers = forward_response(headers)
        self._looked_unary = self._requests.half_closed and self._requests.count == 1
        if attempt.status is not None:
            self._settle(now_s)
        elif headers is None:
            pass  # the status follows, and may allow another try as long as no headers went out
        elif self._counters.one_reply or not headers:
            self._call.set_timer(_COALESCE, COALESCE_WINDOW_S)
        else:
            self._pass_back(attempt, now_s)

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        """A reply, or None: there are no more, the status follows or is here."""
        attempt, target, replies = self._try, self._target, self._replies
        if attempt is None or target is None:
            return
        attempt.reading = False
        if self.finished:
            return
        self._last_active_s = now_s
        if message is None:
            self._settle(now_s)
            return
        if len(message) > self._unchecked_bytes and len(message) > target.max_message_bytes:
            self._end_early(ending.message_too_large(target.label, len(message), target.max_message_bytes), now_s)
            return
        replies.take(message)
        if self._counters.unnamed:
            self._name_method()
        if replies.count > 1:
            self._counters.one_reply = False
        elif self._counters.one_reply and not replies.headers_sent:
            self._settle(now_s)  # the status usually comes along; the window is open since the headers
            return
        self._pass_back(attempt, now_s)

    def on_no_more_replies(self) -> None:
        """Instead of `on_pod_message`, from inside `Attempt.read`: the try was over already."""
        if self._try is not None:
            self._try.reading = False

    def _pass_back(self, attempt: Try, now_s: float) -> None:
        """Start what is next towards the client: headers, a reply, the status, or reading on."""
        replies = self._replies
        if replies.sending or not attempt.headers_seen:
            return
        if not replies.headers_sent:
            self._send_headers(attempt)
        elif replies.held is not None:
            replies.send_held(self._call)
        elif attempt.status is not None:
            self._settle(now_s)
        else:
            attempt.read()

    def _send_headers(self, attempt: Try) -> None:
        self._requests.commit()
        self._replies.send_headers(self._call, attempt.headers)

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        """What was sent to the client is written (or, not ok, the client is gone: `on_client_closed` follows)."""
        self._replies.sending = False
        if ok and not self.finished and self._try is not None:
            self._last_active_s = now_s
            self._pass_back(self._try, now_s)

    # --- time

    def on_timer(self, timer: Timer, now_s: float) -> None:
        """The timer that was set last has expired."""
        if self.finished:
            return
        if timer is Timer.RETRY:
            self._on_hold = None
            self._open(now_s, avoid=self._pod)
        elif timer is Timer.POLICY and self._policies is not None:
            self._policy_timed_out(self._policies, now_s)
        elif timer is Timer.COALESCE and self._on_hold is None:
            self._coalescing_ended(now_s)

    def _coalescing_ended(self, now_s: float) -> None:
        """Coalescing window expired: this is a stream (or slow), flush what arrived."""
        attempt, replies = self._try, self._replies
        if attempt is None:
            self._counters.one_request = False
            self._open(now_s)
        elif attempt.headers_seen and attempt.reached and not replies.headers_sent and attempt.status is None:
            if replies.held is not None:
                self._counters.one_reply = False
            self._send_headers(attempt)

    def on_sweep(self, now_s: float) -> None:
        """Called from time to time: ends an RPC that was quiet for too long or is past its deadline."""
        target, attempt = self._target, self._try
        if self.finished or target is None:
            return
        self._counters.add_bytes(self._requests.uncounted_bytes(), self._replies.uncounted_bytes())
        on_pod = attempt is not None and attempt.status is None  # then the engine watches the deadline
        if self._deadline_s is not None and now_s >= self._deadline_s and not on_pod:
            client_s = self._request.deadline_s
            self._end_early(ending.deadline_passed(target, self._deadline_s, client_s, self._pod), now_s)
        elif self._on_hold is _POLICY:
            pass  # a policy has a time-out of its own
        elif target.idle_timeout_s is not None and now_s - self._last_active_s >= target.idle_timeout_s:
            self._end_early(ending.too_quiet(target.label, target.idle_timeout_s), now_s)

    # --- a try ends

    def on_pod_status(self, status: Status, now_s: float) -> None:
        """The try is over; what else is still to be reported of it (headers, a message) may come after."""
        attempt, target = self._try, self._target
        assert attempt is not None
        assert target is not None
        end_on_pod(target, attempt.pod, now_s - attempt.since_s, status, now_s)
        attempt.status = status
        if self.finished:
            self._try = None
        else:
            self._settle(now_s)

    def _settle(self, now_s: float) -> None:
        """Go on if the try's status is here and nothing comes before it."""
        attempt, target = self._try, self._target
        if attempt is None or attempt.reading or self._replies.sending or not attempt.headers_seen:
            return
        status = attempt.status
        if status is None or target is None:
            return
        if not status.code:
            self._finish(status, now_s, by_pod=True)
            return
        if attempt.cause(status) is Reason.CONNECT_FAILED:
            self._serving.clusters.note_failure(attempt.pod)
        further = self._further_tries(target)
        follows = further.decide(attempt, status, self._requests, self._replies, self._permit, now_s)
        if isinstance(follows, Again):
            self._try_again(attempt.pod, follows, now_s)
        elif follows is status:
            self._finish(status, now_s, by_pod=True)
        elif self._replies.count and attempt.cause(status) is not Reason.TIMEOUT:
            self._finish(follows, now_s)  # the reply that is held goes out before it
        else:
            self._finish_own(follows, now_s)

    def _try_again(self, last: Pod, again: Again, now_s: float) -> None:
        """Drop the try that failed; the client gets nothing of it."""
        self._try = None
        if again.delay_s is None:
            self._open(now_s, avoid=last)
            return
        self._metadata = add_previous_attempts(self._metadata, 1)
        self._on_hold = Timer.RETRY
        self._call.set_timer(Timer.RETRY, again.delay_s)

    # --- the RPC ends

    def on_message_refused(self) -> None:
        """grpc core does not take the message that the client sent; `on_client_closed` follows."""
        self._requests.message_refused = True

    def on_client_closed(self, now_s: float) -> None:
        """The client cancelled, its deadline passed, or its connection is gone: nothing more can be sent to it."""
        if self.finished:
            return
        requests, deadline_s = self._requests, self._request.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            status = ending.client_deadline_passed(self._pod)
        else:
            began = requests.half_closed or requests.count > 0
            status = client_left(now_s - self._since_s, began, requests.message_refused)
        self._record(status, StatusFrom.NOBODY, now_s)
        self._abandon_try()

    def on_drained(self, now_s: float) -> None:
        """The drain time is over: the RPC ends now."""
        self._end_early(make_status(Reason.DRAINING, "the gateway's drain time is over"), now_s)

    def on_defect(self, now_s: float) -> None:
        """The engine caught an exception in one of the calls above."""
        self._end_early(make_status(Reason.DEFECT, "a defect in the gateway, see its log"), now_s)

    def _end_early(self, status: Status, now_s: float) -> None:
        """End the RPC with a status of the gateway's own, whatever is under way."""
        if self.finished:
            return
        if self._replies.sending:
            call = self._call
            self._record(status, StatusFrom.GATEWAY, now_s)
            call.abort(status)
        else:
            self._finish_own(status, now_s)
        self._abandon_try()

    def _abandon_try(self) -> None:
        if self._try is not None:  # dropped once its status is here
            self._try.port.cancel()

    def _finish_own(self, status: Status, now_s: float) -> None:
        """End with a status of the gateway's own: trailers-only where it still can be."""
        self._replies.held = None
        if self._try is not None and not self._replies.headers_sent:
            self._try.headers = ()
        self._finish(status, now_s)

    def _finish(self, status: Status, now_s: float, by_pod: bool = False) -> None:
        """Send the status, with what was not sent yet before it."""
        headers = () if self._try is None else self._try.headers
        if by_pod:
            status = _forward_status(status)
            if self._counters.unnamed and status.code != Code.UNIMPLEMENTED:
                self._name_method()
        self._learn()
        # First of all, because what it raises is a defect, which the client gets.
        trailers_only = self._replies.finish(self._call, headers, status)
        by = _HEADERS if trailers_only else _TRAILERS
        self._record(status, by if by_pod else _GATEWAY, now_s)

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
        if self._replies.count == 1:
            self._counters.one_reply = True

    # --- the record

    def _record(self, status: Status, status_from: StatusFrom, now_s: float) -> None:
        """The RPC is over: release what it holds, count and log it."""
        self.finished = True
        self._call.cancel_timer()
        self._call = _NO_CALL
        self._release()
        if self._policies is not None:
            self._policies.end(status)
        if self._copy is not None:
            self._copy.leave(status_from is _NOBODY, now_s)
        own = status_from is _GATEWAY or status_from is _NOBODY
        reason = reason_of(status) if own else ""
        counted_reason = reason or (CLIENT_CANCELLED if own else "")
        requests_bytes = self._requests.size_bytes - self._requests.counted_bytes
        replies_bytes = self._replies.size_bytes - self._replies.counted_bytes
        self._counters.end(status.code, now_s - self._since_s, counted_reason, requests_bytes, replies_bytes)
        if self._logged:
            self._log(status, status_from, reason, now_s)
        if self._try is not None and self._try.status is not None:
            self._try = None

    def _release(self) -> None:
        """Give back what the RPC holds."""
        self._requests.close()
        if self._requests.lent_bytes:
            self._requests.give_back(self._request, self._serving.held)
        self._replies.held = None
        if self._permit is not None:
            self._permit.release()
        if self._further is not None:
            self._further.close()

    def _log(self, status: Status, status_from: StatusFrom, reason: str, now_s: float) -> None:
        rpc_log = self._serving.rpc_log
        if rpc_log is None:
            return
        record = make_record(
            self._request,
            self._target,
            self._pod,
            self._requests,
            self._replies,
            status=status,
            status_from=status_from,
            reason=reason,
            since_s=self._since_s,
            now_s=now_s,
            deadline_s=self._deadline_s,
            further_tries=self._further.count if self._further is not None else 0,
            forwarded=self._metadata,
            facts=None if self._policies is None else self._policies.facts,
        )
        rpc_log.put(record)


def _forward_status(status: Status) -> Status:
    trailers = forward_response(status.trailers)
    return status if trailers is status.trailers else replace(status, trailers=trailers)


class _NoCall:
    """The client's side of an RPC that is over: the session drops the real one, and nothing may follow."""

    def _over(self, *_: object) -> NoReturn:
        raise AssertionError("an RPC that is over was acted on")

    read = send = finish = abort = ask = run = set_timer = cancel_timer = open = _over


_NO_CALL: Call = _NoCall()
