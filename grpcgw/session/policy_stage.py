"""The policy chain of one RPC with its I/O: starts what a policy waits for, bounds it, and resumes with the verdict.

While a policy waits, the session holds one message of the request at most; with an engine that passes chunks of gRPC
frames it holds one chunk, which may be less or more than a message. A policy that needs the first message waits for it
(`FirstMessage`): then chunks are read until it is whole, or as long as the policy's limit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from grpcgw.policy.chain import Chain
from grpcgw.policy.contract import (
    Answer,
    CoroutineWork,
    FirstMessage,
    HttpAnswer,
    HttpCall,
    PolicyRequest,
    RunningWork,
    UnaryRpc,
    Wait,
)
from grpcgw.policy.request import Request
from grpcgw.policy.timeouts import may_have_passed
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from grpcgw.routing.targets import Target
from grpcgw.session.call import NO_CALL, Call, Timer
from grpcgw.session.policy_http import HttpTransport, PolicyHttp
from grpcgw.session.policy_rpc import PolicyRpc
from grpcgw.session.request_side import RequestSide
from grpcgw.upstream.pod import Pod

Outcome = Deny | Wait | None
"""None: all policies allow the RPC."""


def run_chain(target: Target, request: Request, now_s: float) -> tuple[Chain, Outcome] | None:
    """Check an RPC with the policies of its Mapping, which has some, until one denies or waits.

    None: all allow it, and nothing is left to do for them, so that it needs no PolicyStage.
    """
    policies = target.policies
    assert policies is not None, "the Mapping has no policies"
    chain = Chain(policies, PolicyRequest(request, target.key, request.metadata, now_s=now_s))
    outcome = chain.run()
    return None if outcome is None and chain.is_plain() else (chain, outcome)


def _ignore(outcome: Outcome, now_s: float) -> None:
    """Of an RPC that is over."""


class PolicyStage:
    __slots__ = (
        "_call",
        "_chain",
        "_deadline_s",
        "_http",
        "_limit_s",
        "_note_failure",
        "_on_outcome",
        "_requests",
        "_since_s",
        "_target",
        "_wait",
        "_work",
    )

    def __init__(
        self,
        chain: Chain,
        target: Target,
        call: Call,
        requests: RequestSide,
        deadline_s: float | None,
        http: HttpTransport,
        note_failure: Callable[[Pod], None],
        on_outcome: Callable[[Outcome, float], None],
    ) -> None:
        """`chain`: as `run_chain` left it. `deadline_s`: of the RPC. `note_failure`: a pod could not be connected to.
        `on_outcome` gets what follows a verdict that came later."""
        self._chain, self._target, self._call, self._deadline_s = chain, target, call, deadline_s
        self._requests, self._http = requests, http
        self._note_failure, self._on_outcome = note_failure, on_outcome
        self._wait: Wait | None = None
        """What is waited for now. What belongs to another is late, and dropped."""
        self._since_s = self._limit_s = 0.0
        """When that began, and when it has to be there."""
        self._work: RunningWork | PolicyRpc | PolicyHttp | None = None

    def start(self, outcome: Outcome, now_s: float) -> Outcome:
        """`outcome`: that of `run_chain`. After a Wait, `on_outcome` follows, or `on_timer`."""
        return self._advance(outcome, now_s)

    def on_timer(self, now_s: float) -> Outcome:
        """No verdict came in time."""
        wait = self._wait
        assert wait is not None, "no policy waits"
        self._stop_work()
        self._go_on(wait, now_s)
        what = "no message of the client" if isinstance(wait.work, FirstMessage) else "no answer"
        return self._advance(self._chain.fail(f"{what} within {round(wait.timeout_s * 1000)} ms"), now_s)

    def on_message(self, now_s: float) -> None:
        """A part of the request was read, or its end."""
        wait = self._wait
        if wait is not None and isinstance(wait.work, FirstMessage) and self._find_message(wait.work):
            self._resume(wait, ALLOW, now_s)

    def end(self) -> None:
        """The RPC is over: stop what is waited for. Called once."""
        self._stop_work()
        # Both lead back to this object: the RPC's objects would stay until the garbage collector runs.
        self._call, self._on_outcome = NO_CALL, _ignore

    def _advance(self, outcome: Outcome, now_s: float) -> Outcome:
        while isinstance(outcome, Wait):
            if isinstance(outcome.work, FirstMessage) and self._find_message(outcome.work):
                outcome = self._chain.resume(ALLOW)
                continue
            fault = self._start_work(outcome, now_s)
            if not fault:
                return outcome
            self._stop_work()
            outcome = self._chain.fail(fault)
        return outcome

    def _start_work(self, wait: Wait, now_s: float) -> str:
        """Returns why it cannot be started."""
        limit_s = now_s + wait.timeout_s
        if self._deadline_s is not None:
            limit_s = min(limit_s, self._deadline_s)
        self._wait, self._since_s, self._limit_s = wait, now_s, limit_s
        if isinstance(wait.work, FirstMessage):
            pass  # `on_message` comes
        elif isinstance(wait.work, CoroutineWork):
            self._work = self._call.run(wait.work, partial(self._resume, wait))
        else:
            fault = self._send(wait, wait.work, limit_s, now_s)
            if fault:
                return fault
        self._call.set_timer(Timer.POLICY, limit_s - now_s)
        return ""

    def _send(self, wait: Wait, work: UnaryRpc | HttpCall, limit_s: float, now_s: float) -> str:
        """Returns why it cannot be sent."""
        upstreams = self._target.policy_upstreams[self._chain.current.index]
        if work.upstream >= len(upstreams):
            return f"its settings have no upstream {work.upstream}"
        upstream = upstreams[work.upstream]
        if isinstance(work, HttpCall):
            on_end = partial(self._judge_http, wait, work)
            self._work = request = PolicyHttp(self._call, self._http, upstream, work, on_end)
            return request.start(now_s)
        judge = partial(self._judge, wait, work)
        self._work = rpc = PolicyRpc(self._call, upstream, work, limit_s, self._note_failure, judge)
        return rpc.start(now_s)

    def _find_message(self, work: FirstMessage) -> bool:
        """Whether the first message is here; else it is being read."""
        requests = self._requests
        requests.await_first(work.max_bytes)
        found = self._chain.request.first_message = requests.peek(work.max_bytes)
        if found is None:
            requests.read(self._call)
        return found is not None

    def _stop_work(self) -> None:
        work, self._work, self._wait = self._work, None, None
        if work is not None:
            work.cancel()

    def _judge(self, wait: Wait, rpc: UnaryRpc, answer: Answer | str, now_s: float) -> None:
        if isinstance(answer, str):
            if not may_have_passed(
                self._limit_s, self._since_s, now_s
            ):  # else the timer is about to expire, and decides
                self._fail(wait, answer, now_s)
            return
        self._take(wait, partial(rpc.judge, answer), now_s)

    def _judge_http(self, wait: Wait, call: HttpCall, answer: object, now_s: float) -> None:
        if isinstance(answer, str):
            self._fail(wait, answer, now_s)
        elif isinstance(answer, HttpAnswer):
            self._take(wait, partial(call.judge, answer), now_s)
        else:
            self._resume(wait, answer, now_s)  # a defect, which the chain logs

    def _take(self, wait: Wait, judge: Callable[[], Allow | Deny], now_s: float) -> None:
        verdict: object
        try:
            verdict = judge()
        except BaseException as error:  # a defect in the policy, which ends this RPC alone
            verdict = error
        self._resume(wait, verdict, now_s)

    def _fail(self, wait: Wait, why: str, now_s: float) -> None:
        if self._wait is wait:
            self._wait = self._work = None
            self._go_on(wait, now_s)
            self._on_outcome(self._advance(self._chain.fail(why), now_s), now_s)

    def _resume(self, wait: Wait, verdict: object, now_s: float) -> None:
        if self._wait is wait:
            self._wait = self._work = None
            self._go_on(wait, now_s)
            self._on_outcome(self._advance(self._chain.resume(verdict), now_s), now_s)

    def _go_on(self, wait: Wait, now_s: float) -> None:
        """The wait is over. Those for the client are not counted."""
        self._chain.request.now_s = now_s
        if not isinstance(wait.work, FirstMessage):
            self._chain.current.counters.wait(now_s - self._since_s)
