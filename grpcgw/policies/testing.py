"""Tests an own policy without a gateway: `check_call` decides on one call as the gateway would.

    checked = check_call(NoDeletes(), FakeCall("/greet.Greeter/DeleteAll"))
    assert checked.code is Code.PERMISSION_DENIED

What a policy raises is logged and denies with INTERNAL, as in the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.status import Status, reason_of
from grpcgw.policies import OwnPolicy, Pairs
from grpcgw.policy.call_view import CallView
from grpcgw.policy.chain import BuiltPolicy, Chain
from grpcgw.policy.client_certificates import ClientCertificate
from grpcgw.policy.contract import CoroutineWork, PolicyRequest, Wait
from grpcgw.policy.plugin import wrap
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.verdicts import Deny

_MAPPING = ObjectKey("Mapping", "default", "test")


@dataclass(frozen=True, slots=True)
class FakeCall:
    """A call for a policy to decide on. `deadline_s`: seconds that the client waits; None: for ever."""

    path: str = "/test.Service/Method"
    metadata: Pairs = ()
    authority: str = "test"
    peer: str = "192.0.2.1"
    certificate: ClientCertificate | None = None
    claims: Mapping[str, object] | None = None
    facts: Mapping[str, str] | None = None
    received_at_s: float = 0.0
    deadline_s: float | None = None

    def request(self) -> PolicyRequest:
        given = self.metadata.items() if isinstance(self.metadata, Mapping) else self.metadata
        metadata = tuple(given)
        request = Request(self.path, self.authority, metadata, self.deadline_s, Peer(self.peer), self.received_at_s)
        request.certificate = self.certificate
        return PolicyRequest(request, _MAPPING, metadata, dict(self.facts or {}), self.claims)

    def view(self) -> CallView:
        """What `check` of a policy is given."""
        return CallView(self.request())


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """What a policy made of a call."""

    status: Status | None
    """That refuses it; None: it is allowed."""
    metadata: Metadata
    """That the pod would get."""
    response_metadata: Metadata
    """That the client would get beside the pod's."""
    facts: Mapping[str, str]

    @property
    def code(self) -> Code:
        """OK: it is allowed."""
        return Code.OK if self.status is None else Code(self.status.code)

    @property
    def message(self) -> str:
        return "" if self.status is None else self.status.details

    @property
    def reason(self) -> str:
        return "" if self.status is None else reason_of(self.status)


ANY_CALL = FakeCall()


def check_call(policy: OwnPolicy[Any], call: FakeCall = ANY_CALL) -> CheckedCall:
    """Decide on one call. Runs an asynchronous check in an event loop of its own."""
    chain = _make_chain(policy, call)
    outcome = chain.run()
    return _finish(chain, asyncio.run(_wait(chain, outcome)) if isinstance(outcome, Wait) else outcome)


async def check_call_async(policy: OwnPolicy[Any], call: FakeCall = ANY_CALL) -> CheckedCall:
    """As `check_call`, in the running event loop."""
    chain = _make_chain(policy, call)
    outcome = chain.run()
    return _finish(chain, await _wait(chain, outcome) if isinstance(outcome, Wait) else outcome)


def _make_chain(policy: OwnPolicy[Any], call: FakeCall) -> Chain:
    wrapped = wrap(policy)
    name = type(policy).__qualname__
    return Chain((BuiltPolicy(name, 0, wrapped, getattr(wrapped, "on_end", None)),), call.request())


async def _wait(chain: Chain, outcome: Wait) -> Deny | None:
    """What comes of the verdict that is waited for, within its time."""
    left: Deny | Wait | None = outcome
    while isinstance(left, Wait):
        assert isinstance(left.work, CoroutineWork), "an own policy waits for a coroutine only"
        verdict: object
        try:
            async with asyncio.timeout(left.timeout_s) as limit:
                verdict = await left.work.start()
        except BaseException as error:
            if isinstance(error, TimeoutError) and limit.expired():
                left = chain.fail(f"no answer within {round(left.timeout_s * 1000)} ms")
                continue
            verdict = error
        left = chain.resume(verdict)
    return left


def _finish(chain: Chain, outcome: Deny | Wait | None) -> CheckedCall:
    assert not isinstance(outcome, Wait)
    status = None if outcome is None else outcome.status()
    return CheckedCall(status, chain.request.metadata, chain.add_response, chain.request.facts)
