"""Runs the policies of a route in order for one RPC: a state machine without I/O.

    chain = Chain(policies, request)
    verdict = chain.run()          # None: all allow. Deny: over. Wait: call `resume` or `fail` with what came of it

The session starts what a `Wait` waits for (`session.policy_stage`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from grpcgw.logs import DefectLog
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status
from grpcgw.policy.contract import FailMode, OnEnd, PartialAllow, Policy, PolicyRequest, Verdict, Wait
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from grpcgw.telemetry.policy_counters import PolicyCounters
from grpcgw.telemetry.report import PolicyError

log = logging.getLogger(__name__)
_defects = DefectLog(log)
T = TypeVar("T")

_VERDICTS = (Allow, Deny, Wait, PartialAllow)
"""A union would be made again for each RPC."""
FAILED_OPEN = "failed-open"
"""The fact that names the policy which allowed an RPC because its server gave no verdict."""
DENIED_BY = "policy"
"""The fact that names the policy which denied an RPC."""
LOGGED = "logged"
"""The fact of an RPC that is in the access log whatever share of RPCs is: the rule that says so."""
_ERRORS: dict[str, str] = {
    Reason.POLICY_DEFECT: PolicyError.DEFECT,
    Reason.POLICY_UNAVAILABLE: PolicyError.FAILED_CLOSED,
}
"""Reasons of a Deny that is no verdict of the policy."""


@dataclass(frozen=True, slots=True)
class BuiltPolicy:
    """A policy of a route, built."""

    name: str
    """As messages and logs name it: `AuthService auth.default`."""
    index: int
    """Among the settings of its Mapping."""
    policy: Policy
    on_end: OnEnd | None
    counters: PolicyCounters = field(default_factory=PolicyCounters)


class Chain:
    """The policies of one RPC. Called by one thread at a time."""

    __slots__ = ("_edits", "_ends", "_passed", "_policies", "_waiting", "add_response", "request")

    def __init__(self, policies: tuple[BuiltPolicy, ...], request: PolicyRequest) -> None:
        self._policies = policies
        self.request = request
        self._passed = 0
        """How many policies have allowed the RPC."""
        self._edits: list[Allow] = []
        self.add_response: Metadata = ()
        """What the policies add to the metadata that the client gets first."""
        self._ends: tuple[tuple[str, OnEnd], ...] = ()
        """`on_end` of what allowed the RPC, with the names."""
        self._waiting: Wait | None = None

    @property
    def current(self) -> BuiltPolicy:
        """The policy that denied, or that waits."""
        return self._policies[self._passed]

    def is_plain(self) -> bool:
        """Whether the policies so far have only allowed the RPC: no edits, no facts, and none has an `on_end`."""
        return not (self._edits or self.add_response or self._ends or self.request.facts)

    def run(self) -> Deny | Wait | None:
        """Check with the policies that are left, until one denies or waits. None: all allow."""
        policies, request = self._policies, self.request
        while self._passed < len(policies):
            built = policies[self._passed]
            verdict = self._call(built.policy.check, request)
            if verdict is ALLOW and built.on_end is None:  # as of most
                self._passed += 1
                built.counters.allowed += 1
                continue
            if not isinstance(verdict, Allow):
                verdict = self._finish_parts(verdict)
                if not isinstance(verdict, Allow):
                    return self._stop_at(verdict)
            self._accept(verdict)
        return None

    def resume(self, verdict: object) -> Deny | Wait | None:
        """The verdict that was waited for, or the exception that came instead of it; then as `run`."""
        waiting = self._waiting
        assert waiting is not None, "no policy waits"
        self._waiting = None
        if isinstance(verdict, BaseException):
            return self._stop_at(self._break_down("raised", verdict))
        if not isinstance(verdict, Allow | Deny):
            error = TypeError(f"not Allow or Deny: {type(verdict).__name__}")
            return self._stop_at(self._break_down("gave no verdict", error))
        return self._go_on(waiting, verdict)

    def fail(self, cause: str) -> Deny | Wait | None:
        """No verdict came because of `cause`: decide by the fail mode; then as `run`."""
        waiting, name = self._waiting, self.current.name
        assert waiting is not None, "no policy waits"
        self._waiting = None
        if waiting.fail_mode is FailMode.OPEN:
            return self._go_on(waiting, Allow(facts=((FAILED_OPEN, name),)))
        message = f"{self.request.key}: {name} gave no verdict: {cause}"
        return self._go_on(waiting, Deny(Reason.POLICY_UNAVAILABLE, message, waiting.closed_code))

    def edit(self, metadata: Metadata) -> Metadata:
        """`metadata` with what the policies remove and add, in their order."""
        for allowed in self._edits:
            metadata = _edit(metadata, allowed, (*allowed.remove, *allowed.withhold))
        return metadata

    def end(self, status: Status) -> None:
        """The RPC is over: tell the policies that allowed it, the last one first. Called once."""
        for name, on_end in reversed(self._ends):
            try:
                on_end(self.request, status)
            except BaseException:  # the RPC has its status, and the other policies still get the end
                _defects.note(f"{name} raised in on_end")

    def _go_on(self, waiting: Wait, came: Allow | Deny) -> Deny | Wait | None:
        """What follows the verdict that `waiting` was for."""
        verdict = self._finish_parts(came if waiting.then is None else self._call(waiting.then, came))
        if not isinstance(verdict, Allow):
            return self._stop_at(verdict)
        self._accept(verdict)
        return self.run()

    def _finish_parts(self, verdict: Verdict) -> Allow | Deny | Wait:
        """What the policy whose turn it is decides in the end."""
        while isinstance(verdict, PartialAllow):
            self._apply(verdict.allowed, self.current)
            if verdict.on_end is not None:
                self._ends += ((verdict.name, verdict.on_end),)
            verdict = self._call(verdict.then, self.request)
        return verdict

    def _stop_at(self, verdict: Deny | Wait) -> Deny | Wait:
        if isinstance(verdict, Wait):
            self._waiting = verdict
            return verdict
        denying = self.current
        self.request.facts.update(verdict.facts)
        self.request.facts[DENIED_BY] = denying.name
        denying.counters.deny(_ERRORS.get(verdict.reason, ""))
        return verdict

    def _call(self, decide: Callable[[T], Verdict], subject: T) -> Verdict:
        """The verdict of the policy whose turn it is."""
        try:
            verdict = decide(subject)
        except BaseException as error:  # also SystemExit: it would end the engine's thread, which serves every RPC
            return self._break_down("raised", error)
        if isinstance(verdict, _VERDICTS):
            return verdict
        return self._break_down("gave no verdict", TypeError(f"no verdict: {type(verdict).__name__}"))

    def _break_down(self, what: str, error: BaseException) -> Deny:
        """A defect in a policy ends the RPC, with INTERNAL."""
        name = self.current.name
        try:
            raise error
        except BaseException:  # also what is not being handled any more: a coroutine's
            _defects.note(f"{name} {what}")
        return Deny(Reason.POLICY_DEFECT, f"{self.request.key}: a defect in {name}, see the gateway's log")

    def _accept(self, allowed: Allow) -> None:
        built = self._policies[self._passed]
        self._passed += 1
        built.counters.allowed += 1
        if built.on_end is not None:
            self._ends += ((built.name, built.on_end),)
        self._apply(allowed, built)

    def _apply(self, allowed: Allow, by: BuiltPolicy) -> None:
        request = self.request
        if allowed.add or allowed.remove or allowed.withhold:
            self._edits.append(allowed)
            request.metadata = _edit(request.metadata, allowed, allowed.remove)
        if allowed.add_response:
            self.add_response += allowed.add_response
        if allowed.facts:
            request.facts.update(allowed.facts)
            for name, _ in allowed.facts:  # `any` of a generator takes four times as long
                if name == FAILED_OPEN:
                    by.counters.count_error(PolicyError.FAILED_OPEN)
        if allowed.claims is not None:
            request.claims = allowed.claims


def _edit(metadata: Metadata, allowed: Allow, removed: tuple[str, ...]) -> Metadata:
    kept = [item for item in metadata if item[0] not in removed] if removed else metadata
    return (*kept, *allowed.add)
