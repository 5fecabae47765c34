"""One RPC through the gateway: a state machine without I/O. The rules of how RPCs are forwarded are in this package.

An engine reports events (`on_…`), one at a time and never from inside a port call. The session answers through two
ports: `Call`, the client's side, and `Attempt`, one try on one pod. The time is an argument.

The parts of a session, each of which can be read alone:

* `relay`: the flow of messages both ways, and the rules that hold for it. `Session` builds on it.
* `request_side`: from the client to the current try. `response_side`: headers, replies and the status to the client.
* `policy_stage`, `policy_rpc`: the policy chain with its I/O.
* `pod_try`: one try on one pod, dropped whole when another follows. `further_tries`: whether another follows.
* `ending`: the statuses of RPCs that their pod did not end. `record`: the access log's record of an RPC.

The session joins them, and reads in the order in which an RPC lives:

1. `start` routes the RPC: to a Mapping's target, or to a refusal, which ends it.
2. Policies (`run_chain`, `_run_policies`) allow the RPC, now or later, or deny it. `_on_hold`: one waits.
3. `_proceed` continues with an RPC that is admitted: breaker, copy, and reading the request.
4. `_open` picks a pod and opens a try with what was read of the request so far; `relay` passes messages on.
5. `_settle` decides what the end of a try means: the end of the RPC, or another try.
6. `_finish` sends the status, and `_record` counts and logs the RPC, exactly once.
"""

from __future__ import annotations

from grpcgw.balancer.hashing import MakeKey
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status, make_status, reason_of
from grpcgw.policy.breakers import Breaker, Overflow
from grpcgw.policy.chain import LOGGED, Chain
from grpcgw.policy.contract import Wait
from grpcgw.policy.request import Request
from grpcgw.policy.retry import add_previous_attempts
from grpcgw.policy.timeouts import bound_deadline
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.targets import Target
from grpcgw.session import ending
from grpcgw.session.admission import limit_metadata
from grpcgw.session.call import NO_CALL, Call, Timer
from grpcgw.session.forwarding import forward_request, forward_status, size_of
from grpcgw.session.further_tries import Again, FurtherTries
from grpcgw.session.pod_try import Try, end_on_pod
from grpcgw.session.policy_stage import Outcome, PolicyStage, run_chain
from grpcgw.session.record import make_record
from grpcgw.session.relay import POLICY, Relay
from grpcgw.session.serving import Serving
from grpcgw.telemetry.access_log import RpcRecord, StatusFrom, is_logged
from grpcgw.telemetry.counters import CLIENT_CANCELLED
from grpcgw.upstream.pod import Pod

_NOBODY, _GATEWAY, _TRAILERS, _HEADERS = StatusFrom.NOBODY, StatusFrom.GATEWAY, StatusFrom.TRAILERS, StatusFrom.HEADERS

TIMER_SLACK_S = 0.005
"""An engine's timer may expire so much before its time."""
OVERDUE_S = 1.0
"""An engine that watches the deadline has reported it by then."""


class Session(Relay):
    __slots__ = ("_deadline_s", "_further", "_logged", "_metadata", "_pod", "_since_s")

    def __init__(self, serving: Serving, call: Call, request: Request, now_s: float) -> None:
        super().__init__(serving, call, request, now_s)
        self._since_s, self._deadline_s = now_s, request.deadline_s
        self._metadata: Metadata = ()
        """The request's as pods get it; empty before the first try."""
        self._pod: Pod | None = None  # the last one tried
        self._further: FurtherTries | None = None
        self._logged = False

    # --- the RPC begins

    def start(self, now_s: float, client_left: bool = False) -> None:
        """Route the RPC and begin to read it. Called once, first. `client_left`: it is only counted and logged."""
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
        if client_left:
            self.on_client_closed(now_s, by_client=True)
        elif routed.policies is None or (begun := run_chain(routed, self._request, now_s)) is None:
            self._proceed(routed, now_s)
        else:
            self._run_policies(*begun, routed, now_s)

    def _route(self) -> Target | Deny:
        serving, request = self._serving, self._request
        refusal = request.refusal or limit_metadata(request, serving.max_metadata_bytes)
        return refusal or serving.route(request.path, request.authority, request.metadata, request.port)

    def _turn_away(self, refusal: Deny, now_s: float) -> None:
        """End an RPC that has no target."""
        self._counters.begin()
        if self._serving.rpc_log is not None:
            self._logged = is_logged(self._serving.rpc_log.share_percent)
        self._finish_own(refusal.status(), now_s)

    def _run_policies(self, chain: Chain, outcome: Outcome, target: Target, now_s: float) -> None:
        """Go on with what the policies of the Mapping made of the RPC."""
        self._policies = chain
        if isinstance(outcome, Wait):
            self._begin_wait(chain, outcome, target, now_s)
        else:
            self._decide(outcome, now_s)

    def _begin_wait(self, chain: Chain, outcome: Outcome, target: Target, now_s: float) -> None:
        """While a policy waits, the first message is read and held, and no more."""
        http, note_failure = self._serving.http, self._serving.clusters.note_failure
        self._stage = PolicyStage(
            chain, target, self._call, self._requests, self._deadline_s, http, note_failure, self._decide
        )
        self._on_hold = POLICY
        outcome = self._stage.start(outcome, now_s)
        self._decide(outcome, now_s)
        if isinstance(outcome, Wait):
            self._requests.read(self._call)

    def _decide(self, outcome: Outcome, now_s: float) -> None:
        """The policies allow the RPC, deny it, or one of them waits."""
        target = self._target
        if self.finished or target is None or isinstance(outcome, Wait):
            return
        self._on_hold, self._last_active_s = None, now_s
        self._call.cancel_timer()
        self._replies.added = () if self._policies is None else self._policies.add_response
        if outcome is None:
            self._proceed(target, now_s)
        else:
            self._end_early(outcome.status(), now_s)

    def _policy_timed_out(self, stage: PolicyStage, now_s: float) -> None:
        target, deadline_s = self._target, self._deadline_s
        if target is not None and deadline_s is not None and now_s >= deadline_s - TIMER_SLACK_S:
            self._end_early(ending.deadline_passed(target, deadline_s, self._request.deadline_s, None), now_s)
        else:
            self._decide(stage.on_timer(now_s), now_s)

    def _proceed(self, target: Target, now_s: float) -> None:
        """The RPC is admitted: pass the breaker, begin the copy, read the request. Called once."""
        if target.breaker is not None and not self._pass_breaker(target.breaker, target, now_s):
            return
        if target.shadow is not None:
            self._copy = self._serving.copies.begin(target.shadow, self._call, self._request)
            self._copy_held(now_s)
        requests = self._requests
        if not requests.beyond:  # else what is pending goes to the pod first
            requests.read(self._call)
        if self._counters.one_request and not (requests.half_closed or requests.beyond):
            self._call.coalesce()
        else:
            self._open(now_s)

    def _pass_breaker(self, breaker: Breaker, target: Target, now_s: float) -> bool:
        """Whether the breaker has room; where it has none, the RPC has ended."""
        admitted = breaker.admit(waits=not target.is_connected())
        if isinstance(admitted, Overflow):
            self._serving.counters.count_breaker(target.label, admitted.limit)
            self._finish_own(make_status(Reason.CIRCUIT_BREAKER, f"{target.key}: {admitted}"), now_s)
            return False
        self._permit = admitted
        return True

    # --- a try begins

    def _open(self, now_s: float, avoid: Pod | None = None) -> None:
        """Send the RPC, as far as it was read, to the next pod."""
        target, request = self._target, self._request
        assert target is not None
        pod = target.pick(avoid, None if target.make_key is None else self._hash_key(target.make_key))
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
        metadata = self._request.metadata if self._policies is None else self._policies.request.metadata
        return make_key(metadata, self._request.peer.address)

    def _make_metadata(self, target: Target) -> Metadata:
        request = self._request
        metadata = forward_request(request.metadata, request.peer, request.port.tls, request.own_id)
        if self._policies is not None:
            metadata = self._policies.edit(metadata)
            request.metadata_bytes = max(request.metadata_bytes, size_of(metadata))
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
            self._finish_own(ending.try_failed(Reason.CONNECT_FAILED, target.key, pod, cause), now_s)

    def _further_tries(self, target: Target) -> FurtherTries:
        if self._further is None:
            self._further = FurtherTries(target, self._serving.counters, self._deadline_s, self._request.deadline_s)
        return self._further

    # --- time

    def on_timer(self, timer: Timer, now_s: float) -> None:
        """The timer that was set last has expired."""
        if self.finished:
            return
        if timer is Timer.RETRY:
            self._on_hold = None
            self._open(now_s, avoid=self._pod)
        elif timer is Timer.POLICY and self._stage is not None:
            self._policy_timed_out(self._stage, now_s)
        elif timer is Timer.COALESCE and self._on_hold is None:
            self._coalescing_ended(now_s)

    def on_sweep(self, now_s: float) -> None:
        """Called from time to time: ends an RPC that was idle for too long or is past its deadline."""
        target, attempt, client_s = self._target, self._try, self._request.deadline_s
        if self.finished or target is None:
            return
        self._counters.add_bytes(self._requests.uncounted_bytes(), self._replies.uncounted_bytes())
        # On a pod the engine watches the deadline, unless it has a status that waits for messages that nobody takes.
        on_pod = attempt is not None and attempt.status is None
        if self._deadline_s is not None and now_s >= self._deadline_s + (OVERDUE_S if on_pod else 0.0):
            self._end_early(ending.deadline_passed(target, self._deadline_s, client_s, self._pod), now_s)
        elif self._on_hold is POLICY:
            pass  # a policy has a time-out of its own
        elif target.idle_timeout_s is not None and now_s - self._last_active_s >= target.idle_timeout_s:
            self._end_early(ending.too_quiet(target.key, target.idle_timeout_s), now_s)

    # --- a try ends

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
        """Drop the failed try; no part of it reaches the client."""
        self._try = None
        if again.delay_s is None:
            self._open(now_s, avoid=last)
            return
        self._metadata = add_previous_attempts(self._metadata, 1)
        self._on_hold = Timer.RETRY
        self._call.set_timer(Timer.RETRY, again.delay_s)

    # --- the RPC ends

    def on_client_closed(self, now_s: float, by_client: bool = False) -> None:
        """The client cancelled, its deadline passed, or its connection is gone: nothing more can be sent to it.
        `by_client`: the engine knows that; otherwise grpc core may have refused a header of the request."""
        if self.finished:
            return
        requests, deadline_s = self._requests, self._request.deadline_s
        if deadline_s is not None and now_s >= deadline_s:
            status = ending.client_deadline_passed(self._pod)
        else:
            status = ending.client_left(now_s - self._since_s, by_client or requests.began)
        self._record(status, _NOBODY, now_s)
        self._abandon_try()

    def on_drained(self, now_s: float) -> None:
        """The drain time is over: the RPC ends now."""
        self._end_early(make_status(Reason.DRAINING, "the gateway's drain time is over"), now_s)

    def on_too_much_held(self, now_s: float) -> None:
        """The worker holds too much for slow readers, and this RPC has waited for its own for long."""
        self._end_early(ending.too_much_held(), now_s)

    def on_defect(self, now_s: float) -> None:
        """The engine caught an exception in one of the calls above. What it raises again ends the RPC all the same."""
        status = make_status(Reason.DEFECT, "a defect in the gateway, see its log")
        try:
            self._end_early(status, now_s)
        finally:
            if not self.finished:  # not even this status can be sent: the engine resets the stream
                self._record(status, _GATEWAY, now_s)

    def _end_early(self, status: Status, now_s: float) -> None:
        """End the RPC with a status of the gateway's own, whatever is under way."""
        if self.finished:
            return
        if self._replies.sending:
            call = self._call  # which the record forgets
            self._record(status, _GATEWAY, now_s)
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
            status = forward_status(status)
            if self._counters.unnamed and status.code != Code.UNIMPLEMENTED:
                self._name_method()
        self._learn()
        # First of all, because what it raises is a defect, which the client gets.
        trailers_only = self._replies.finish(self._call, headers, status)
        self._record(status, (_HEADERS if trailers_only else _TRAILERS) if by_pod else _GATEWAY, now_s)

    # --- the record

    def _record(self, status: Status, status_from: StatusFrom, now_s: float) -> None:
        """The RPC is over: release what it holds, count and log it."""
        self.finished = True
        self._call.cancel_timer()
        self._call = NO_CALL
        self._release()
        own = status_from is _GATEWAY or status_from is _NOBODY
        reason = reason_of(status) if own else ""
        sizes = self._requests.uncounted_bytes(), self._replies.uncounted_bytes()
        self._counters.end(status.code, now_s - self._since_s, reason or (CLIENT_CANCELLED if own else ""), *sizes)
        if self._stage is not None:  # after the RPC is counted, which a defect in these must not prevent
            self._stage.end()
        if self._policies is not None:
            self._policies.end(status)
        if self._copy is not None:
            self._copy.leave(status_from is _NOBODY, now_s)
        rpc_log = self._serving.rpc_log
        if rpc_log is not None and (self._logged or self._is_marked()):
            rpc_log.put(self._sum_up(status, status_from, reason, now_s))
        if self._try is not None and self._try.status is not None:
            self._try = None

    def _is_marked(self) -> bool:
        """Whether a policy has it logged, whatever share of RPCs is."""
        return self._policies is not None and LOGGED in self._policies.request.facts

    def _release(self) -> None:
        self._requests.release(self._request, self._serving.held)
        self._replies.held = None
        if self._permit is not None:
            self._permit.release()
        if self._further is not None:
            self._further.close()

    def _sum_up(self, status: Status, status_from: StatusFrom, reason: str, now_s: float) -> RpcRecord:
        return make_record(
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
            facts=None if self._policies is None else self._policies.request.facts,
        )
