"""Explains what would happen to an RPC, without sending anything: its Mappings, and what each policy would decide.

Policies are built and run as a worker does it, but those that count or run the user's code: they say what they would
look at, and of rate limits those that would count the RPC. What a server would decide is not known here; the policies
after it are shown as if it allowed the RPC. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from grpcgw.model.codes import Code
from grpcgw.model.filters import FilterPolicySettings
from grpcgw.model.host_policy import Selectors
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.objects import ObjectKey
from grpcgw.model.rate_limits import RateLimitSettings
from grpcgw.model.reach import Reach
from grpcgw.model.route import Destination, PolicySettings, Route
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason, Status
from grpcgw.policy.api_key import IDENTITY
from grpcgw.policy.catalogue import CATALOGUE, Catalogue, PolicyKind
from grpcgw.policy.chain import BuiltPolicy, Chain
from grpcgw.policy.client_rules import make_reception
from grpcgw.policy.contract import (
    CoroutineWork,
    FailMode,
    FirstMessage,
    MessageStart,
    Policy,
    PolicyRequest,
    UnaryRpc,
    Verdict,
    Wait,
)
from grpcgw.policy.describe_policy import describe_limit, describe_policies, describe_policy, name_services
from grpcgw.policy.limits.limiter import LimitRules
from grpcgw.policy.limits.rpc_labels import compile_group, describe_all
from grpcgw.policy.request import Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny
from grpcgw.routing.binding import MatchTables
from grpcgw.routing.host_rules import Entry, compile_rules
from grpcgw.session.admission import admit, limit_metadata
from grpcgw.settings import DEFAULT_MAX_METADATA_BYTES

ALLOWS, REFUSES, DEPENDS, NOT_REACHED = "allows", "refuses", "depends", "not reached"
MOST_WAITS = 100
"""Of one policy."""
NOT_RUN = {
    "rate-limit": "what other calls have taken of the limit is not known here",
    "concurrency-limit": "how many calls run is not known here",
    "plugin": "the class's own code decides, which does not run here",
}


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    name: str
    kind: str
    what: str
    """Its settings, in short."""
    fail_mode: str
    verdict: str
    """`allows`, `refuses`, `depends`, `not reached`."""
    why: str


@dataclass(frozen=True, slots=True)
class MappingOutcome:
    mapping: str
    where: str
    percent: float
    """Share of such RPCs that it gets."""
    clusters: tuple[str, ...]
    refused: str
    """Why it refuses all RPCs; empty: it does not."""
    policies: tuple[PolicyOutcome, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    refused: str
    """Why no Mapping gets the RPC; empty: one does."""
    mappings: tuple[MappingOutcome, ...] = ()
    unmatched: bool = False
    """No Mapping matches; the RPC is not refused for anything else."""
    own: str = ""
    """What the gateway itself answers to such an RPC; empty: nothing."""


def explain_rpc(snapshot: Snapshot, request: Request, now_s: float) -> Explanation:
    """`request`: as an engine would make it. `now_s`: any clock's."""
    admit(request, make_reception(snapshot.clients, snapshot.listeners or ()))
    limit_bytes = min(DEFAULT_MAX_METADATA_BYTES, snapshot.clients.max_metadata_bytes or DEFAULT_MAX_METADATA_BYTES)
    refusal = request.refusal or limit_metadata(request, limit_bytes)
    if refusal is not None:
        return Explanation(_tell(refusal))
    found = _find_route(snapshot, request)
    if isinstance(found, Deny):
        return Explanation(_tell(found), unmatched=found.reason == Reason.NO_MAPPING)
    if found.redirect or found.left_out:
        return Explanation(found.left_out or f"Mapping {found.redirect} is an HTTP redirect")
    return Explanation("", tuple(_explain_mappings(snapshot, found, request, now_s)))


def _find_route(snapshot: Snapshot, request: Request) -> Route | Deny:
    rules = compile_rules(snapshot)
    selectors: Selectors = ()
    if rules is not None:
        port = request.port
        admitted = rules.judge(Entry(port.listener, port.tls, request.authority, request.metadata))
        if isinstance(admitted, Deny):
            return admitted
        selectors = admitted
    table = MatchTables(snapshot).by_selection[selectors]
    found = table.match(request.path, request.authority, request.metadata)
    return found or Deny(Reason.NO_MAPPING, f"no Mapping matches {request.path}")


def _explain_mappings(snapshot: Snapshot, route: Route, request: Request, now_s: float) -> Iterator[MappingOutcome]:
    reach = Reach(snapshot)
    for destination in route.destinations:
        yield MappingOutcome(
            destination.label,
            destination.where,
            sum(route.percent_of(destination, one) for one in destination.clusters),
            tuple(one.cluster for one in destination.clusters),
            reach.find_refusal(route, destination),
            tuple(_explain_policies(destination, snapshot.policies, request, now_s)),
        )


def _explain_policies(
    destination: Destination, shared: tuple[PolicySettings, ...], request: Request, now_s: float
) -> Iterator[PolicyOutcome]:
    views = describe_policies(destination, shared)
    built = _DRY.build(destination, PolicyServices(), shared)
    if isinstance(built, Deny):
        yield from (PolicyOutcome(v.name, v.kind, v.what, v.fail_mode, REFUSES, built.message) for v in views)
        return
    asked = PolicyRequest(request, destination.key, request.metadata, now_s=now_s)
    refused = False
    for policy, settings, view in zip(built, CATALOGUE.order(destination, shared), views, strict=True):
        verdict, why = (NOT_REACHED, "") if refused else _run(policy, settings, asked)
        refused = refused or verdict == REFUSES
        yield PolicyOutcome(view.name, view.kind, view.what, view.fail_mode, verdict, why)


def _run(policy: BuiltPolicy, settings: PolicySettings, asked: PolicyRequest) -> tuple[str, str]:
    """The verdict, and why. What is waited for is taken for an Allow."""
    chain = Chain((policy,), asked)
    known_before = asked.facts.get(IDENTITY)
    outcome, waited = chain.run(), list[str]()
    while isinstance(outcome, Wait) and len(waited) < MOST_WAITS:
        waited.append(_describe_wait(outcome, settings))
        if isinstance(outcome.work, FirstMessage):
            asked.first_message = MessageStart(b"", True)
        outcome = chain.resume(ALLOW)
    chain.end(Status(Code.OK, ""))
    if isinstance(outcome, Deny):
        return REFUSES, "; ".join([*waited, _tell(outcome)])
    if waited:
        return DEPENDS, "; ".join(dict.fromkeys(waited))
    identity = asked.facts.get(IDENTITY)
    return ALLOWS, "" if identity is None or identity == known_before else f"the caller is {identity}"


def _describe_wait(wait: Wait, settings: PolicySettings) -> str:
    work = wait.work
    if isinstance(work, _NotRun):
        return work.why
    if isinstance(work, FirstMessage):
        return f"it waits for {work.max_bytes} bytes of the first message"
    fails = "fails open" if wait.fail_mode is FailMode.OPEN else "fails closed"
    if isinstance(work, CoroutineWork):
        return f"a coroutine decides within {wait.timeout_s:g} s; {fails}"
    what = "over gRPC" if isinstance(work, UnaryRpc) else "over HTTP"
    services = name_services(_find_asking(settings, work.upstream))
    return f"{services} decides, asked {what} at {work.path}, within {wait.timeout_s:g} s; {fails}"


def _find_asking(settings: PolicySettings, upstream: int) -> PolicySettings:
    """What asks the upstream with this index: of FilterPolicies, one of their Filters."""
    for one in settings.filters if isinstance(settings, FilterPolicySettings) else ():
        if upstream < len(one.upstreams):
            return one
        upstream -= len(one.upstreams)
    return settings


def _tell(denied: Deny) -> str:
    status = denied.status()
    return f"{Code(status.code).name} ({denied.reason}): {status.details}"


# --- policies that are not run


@dataclass(frozen=True, slots=True)
class _NotRun(CoroutineWork):
    why: str = ""


class _Described:
    """Stands for a policy that counts, or runs the user's code."""

    def __init__(self, why: str) -> None:
        self._work = _NotRun(_never, why)

    def check(self, request: PolicyRequest) -> Verdict:
        return Wait(self._work, 1.0, FailMode.CLOSED)


class _Counted:
    """Stands for rate limits: which of them count an RPC is known here."""

    def __init__(self, settings: RateLimitSettings, policy: Policy) -> None:
        self._describe = [compile_group(group) for group in settings.groups]
        self._rules, self._policy = LimitRules(settings.domain, settings.limits), policy

    def check(self, request: PolicyRequest) -> Verdict:
        found = [self._rules.find(one) for one in describe_all(self._describe, request)]
        counting = dict.fromkeys(limit for limit in found if limit is not None)
        if not counting:
            return ALLOW
        if any(not one.rate.amount for one in counting):  # it lets nothing through, or only logs it
            return self._policy.check(request)
        rules = "; ".join(map(describe_limit, counting))
        return _Described(f"{rules}: {NOT_RUN[RateLimitSettings.kind]}").check(request)


class _Unverified:
    """Stands for a policy of tokens whose keys are not known here. What becomes of a call without a token is known."""

    def __init__(self, settings: JwtSettings, without_keys: Policy | Deny) -> None:
        self._header, self._without_keys = settings.header, without_keys
        self._unknown = _Described(f"the token is not verified here: {settings.no_keys}")

    def check(self, request: PolicyRequest) -> Verdict:
        if request.get(self._header) is not None:
            return self._unknown.check(request)
        judge = self._without_keys
        return judge if isinstance(judge, Deny) else judge.check(request)


async def _never() -> Allow | Deny:
    raise AssertionError("it is not started")


def _make_dry(kind: PolicyKind) -> PolicyKind:
    def build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Any:
        if isinstance(settings, RateLimitSettings):
            policy = kind.build(key, settings, services)
            return policy if isinstance(policy, Deny) else _Counted(settings, policy)
        if kind.kind in NOT_RUN:
            policy = kind.build(key, settings, services)  # a Deny where it cannot be built
            rule = describe_policy(settings).what
            return policy if isinstance(policy, Deny) else _Described(f"{rule}: {NOT_RUN[kind.kind]}")
        if isinstance(settings, JwtSettings) and settings.no_keys:
            without_keys = kind.build(key, replace(settings, no_keys=""), services)
            return _Unverified(settings, without_keys)
        return kind.build(key, settings, services)

    return PolicyKind(kind.kind, kind.stage, build)


_DRY = Catalogue(_make_dry(one) if isinstance(one, PolicyKind) else one for one in CATALOGUE.kinds)
