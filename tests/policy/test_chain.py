"""The policy chain: order, late verdicts, fail modes, edits of metadata, facts, defects, and who hears of the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.match import MatchKind, PathMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, PolicySettings, Route, Unenforced
from grpcgw.model.status import Reason, Status
from grpcgw.policy.catalogue import CATALOGUE, Catalogue, PolicyKind, Stage
from grpcgw.policy.chain import DENIED_BY, FAILED_OPEN, BuiltPolicy, Chain
from grpcgw.policy.contract import CoroutineWork, FailMode, PolicyRequest, Verdict, Wait
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

DENY = Deny("busy", "come back later", Code.RESOURCE_EXHAUSTED)
METADATA: Metadata = (("x-user", "ann"), ("x-tenant", "a"), ("x-tenant", "b"))
OK = Status(Code.OK, "")


async def _never() -> Allow:
    raise AssertionError("the chain does no I/O")


def wait(fail_mode: FailMode = FailMode.CLOSED, code: int = Code.UNAVAILABLE) -> Wait:
    return Wait(CoroutineWork(_never), 1.0, fail_mode, code)


@dataclass
class Scripted:
    """Gives one verdict, or raises, and notes what it saw."""

    verdict: object = ALLOW
    seen: list[tuple[Metadata, dict[str, str]]] = field(default_factory=list)
    ended: list[Status] = field(default_factory=list)

    def check(self, request: PolicyRequest) -> Verdict:
        self.seen.append((request.metadata, dict(request.facts)))
        if isinstance(self.verdict, BaseException):
            raise self.verdict
        return self.verdict  # type: ignore[return-value]  # some scripts give no verdict

    def on_end(self, request: PolicyRequest, status: Status) -> None:
        self.ended.append(status)


def chain_of(*policies: Scripted) -> Chain:
    built = tuple(BuiltPolicy(f"p{index}", index, one, one.on_end) for index, one in enumerate(policies))
    request = Request("/greet.GrpcService/Greet", "gateway.example", METADATA, None, Peer("192.0.2.7"))
    return Chain(built, PolicyRequest(request, ObjectKey("Mapping", "default", "m"), METADATA))


def test_policies_run_in_order_until_one_denies() -> None:
    first, second, third = Scripted(), Scripted(DENY), Scripted()
    chain = chain_of(first, second, third)
    assert chain.run() is DENY
    assert (len(first.seen), len(second.seen), len(third.seen)) == (1, 1, 0)
    assert chain.current.name == "p1"


def test_a_policy_sees_the_metadata_and_facts_of_those_before_it() -> None:
    last = Scripted()
    edits = Scripted(Allow(add=(("x-tenant", "c"),), remove=("x-tenant", "x-user"), facts=(("user", "ann"),)))
    chain = chain_of(edits, Scripted(Allow(facts=(("user", "bob"), ("tier", "gold")))), last)
    assert chain.run() is None
    assert last.seen == [((("x-tenant", "c"),), {"user": "bob", "tier": "gold"})]
    assert chain.request.request.metadata == METADATA, "the client's own stays as it was"


def test_edits_apply_to_the_metadata_that_goes_to_the_pod() -> None:
    chain = chain_of(
        Scripted(Allow(remove=("x-user",), add=(("x-user", "bob"),))), Scripted(Allow(add=(("x-role", "r"),)))
    )
    assert chain.run() is None
    forwarded = (*METADATA, ("x-request-id", "1"))
    assert chain.edit(forwarded) == (*forwarded[1:], ("x-user", "bob"), ("x-role", "r"))


def test_without_edits_the_metadata_is_the_very_same() -> None:
    chain = chain_of(Scripted(), Scripted())
    assert chain.run() is None
    assert chain.edit(METADATA) is METADATA


def test_a_late_verdict_resumes_with_the_next_policy() -> None:
    waiting, after = Scripted(wait()), Scripted()
    chain = chain_of(waiting, after)
    assert chain.run() is waiting.verdict
    assert not after.seen, "the next policy has to wait"
    assert chain.resume(Allow(facts=(("user", "ann"),))) is None
    assert after.seen == [(METADATA, {"user": "ann"})]


def test_a_late_denial_is_the_verdict() -> None:
    chain = chain_of(Scripted(wait()), Scripted())
    chain.run()
    assert chain.resume(DENY) is DENY


def test_several_policies_may_wait_one_after_another() -> None:
    chain = chain_of(Scripted(wait()), Scripted(wait()))
    assert isinstance(chain.run(), Wait)
    assert isinstance(chain.resume(ALLOW), Wait)
    assert chain.resume(ALLOW) is None


def test_a_policy_may_go_on_from_what_it_waited_for() -> None:
    """As a FilterPolicy does, whose filters each may wait."""
    seen: list[Allow | Deny] = []

    def after_first(verdict: Allow | Deny) -> Verdict:
        seen.append(verdict)
        return replace(wait(), then=after_second)

    def after_second(verdict: Allow | Deny) -> Verdict:
        seen.append(verdict)
        return ALLOW

    after = Scripted()
    chain = chain_of(Scripted(replace(wait(), then=after_first)), after)
    assert isinstance(chain.run(), Wait)
    assert isinstance(chain.resume(DENY), Wait)
    assert chain.fail("no answer") is None
    denied = seen.pop()
    assert (seen, isinstance(denied, Deny)) == ([DENY], True)
    assert after.seen


def test_a_defect_in_going_on_ends_the_rpc_with_internal() -> None:
    def raise_error(verdict: Allow | Deny) -> Verdict:
        raise LookupError("bug")

    chain = chain_of(Scripted(replace(wait(), then=raise_error)))
    chain.run()
    denied = chain.resume(ALLOW)
    assert isinstance(denied, Deny)
    assert denied.reason == Reason.POLICY_DEFECT


def test_what_policies_add_to_the_answer_is_in_their_order() -> None:
    chain = chain_of(Scripted(Allow(add_response=(("x", "1"),))), Scripted(Allow(add_response=(("x", "2"),))))
    assert chain.run() is None
    assert chain.add_response == (("x", "1"), ("x", "2"))


def test_without_a_verdict_an_open_policy_allows_and_says_so() -> None:
    after = Scripted()
    chain = chain_of(Scripted(wait(FailMode.OPEN)), after)
    chain.run()
    assert chain.fail("no answer within 1000 ms") is None
    assert after.seen == [(METADATA, {FAILED_OPEN: "p0"})]


@pytest.mark.parametrize("code", [Code.UNAVAILABLE, Code.PERMISSION_DENIED])
def test_without_a_verdict_a_closed_policy_denies_with_its_code(code: Code) -> None:
    chain = chain_of(Scripted(wait(FailMode.CLOSED, code)))
    chain.run()
    denied = chain.fail("no answer within 1000 ms")
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.POLICY_UNAVAILABLE, code)
    assert denied.message == "Mapping m.default: p0 gave no verdict: no answer within 1000 ms"


@pytest.mark.parametrize("verdict", [RuntimeError("bug"), SystemExit("bug"), None, True, "allow"])
def test_a_policy_that_raises_or_gives_no_verdict_ends_the_rpc_with_internal(
    verdict: object, caplog: pytest.LogCaptureFixture
) -> None:
    chain = chain_of(Scripted(), Scripted(verdict))
    denied = chain.run()
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.POLICY_DEFECT, Code.INTERNAL)
    assert "p1" in denied.message
    assert "bug" not in denied.message, "what it raised is for the log alone"


@pytest.mark.parametrize("came", [RuntimeError("bug"), None, wait()])
def test_late_nonsense_ends_the_rpc_with_internal(came: object) -> None:
    chain = chain_of(Scripted(wait()), Scripted())
    chain.run()
    denied = chain.resume(came)
    assert isinstance(denied, Deny)
    assert denied.reason == Reason.POLICY_DEFECT


def test_those_that_allowed_hear_of_the_end_the_last_one_first() -> None:
    heard: list[str] = []
    policies = [Scripted(), Scripted(), Scripted(DENY)]
    for name, policy in zip("abc", policies, strict=True):
        policy.on_end = lambda request, status, name=name: heard.append(name)  # type: ignore[method-assign,misc]
    chain = chain_of(*policies)
    chain.run()
    chain.end(OK)
    assert heard == ["b", "a"]


@pytest.mark.parametrize("error", [RuntimeError("bug"), SystemExit("bug")])
def test_one_that_raises_at_the_end_keeps_nothing_from_the_others(error: BaseException) -> None:
    def fail(*_: object) -> None:
        raise error

    first, broken = Scripted(), Scripted()
    broken.on_end = fail  # type: ignore[method-assign]
    chain = chain_of(first, broken)
    assert chain.run() is None
    chain.end(OK)
    assert first.ended == [OK]


# --- against a plain reading of the rules

Step = tuple[str, object]
_facts = st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz"), max_size=2).map(lambda d: tuple(d.items()))
_allows = st.builds(
    Allow,
    add=st.lists(st.tuples(st.sampled_from(["x-user", "x-tenant", "x-new"]), st.sampled_from("pq"))).map(tuple),
    remove=st.lists(st.sampled_from(["x-user", "x-tenant", "x-new"])).map(tuple),
    facts=_facts,
)
_final: st.SearchStrategy[Step] = st.one_of(
    st.tuples(st.just("now"), _allows),
    st.tuples(st.just("late"), _allows),
    st.tuples(st.just("open"), st.none()),
    st.tuples(st.sampled_from(["now", "late"]), st.just(DENY)),
    st.tuples(st.sampled_from(["closed", "raises", "late raises"]), st.none()),
)


def _expect(steps: list[Step]) -> tuple[int, str, Metadata, dict[str, str]]:
    """How many policies are asked, how it ends, and the metadata and facts then."""
    metadata, facts = METADATA, dict[str, str]()
    for index, (how, verdict) in enumerate(steps):
        if how in ("closed", "raises", "late raises"):
            return index + 1, Reason.POLICY_UNAVAILABLE if how == "closed" else Reason.POLICY_DEFECT, metadata, facts
        if verdict is DENY:
            return index + 1, DENY.reason, metadata, facts
        if how == "open":
            facts[FAILED_OPEN] = f"p{index}"
        elif isinstance(verdict, Allow):
            metadata = (*(item for item in metadata if item[0] not in verdict.remove), *verdict.add)
            facts |= dict(verdict.facts)
    return len(steps), "", metadata, facts


_FIRST: dict[str, Callable[[object], object]] = {
    "now": lambda verdict: verdict,
    "late": lambda _: wait(),
    "open": lambda _: wait(FailMode.OPEN),
    "closed": lambda _: wait(),
    "raises": lambda _: RuntimeError("bug"),
    "late raises": lambda _: wait(),
}


@given(st.lists(_final, max_size=6))
def test_any_chain_does_what_its_policies_say(steps: list[Step]) -> None:
    policies = [Scripted(_FIRST[how](verdict)) for how, verdict in steps]
    chain = chain_of(*policies)
    outcome = chain.run()
    while isinstance(outcome, Wait):
        how, verdict = steps[chain.current.index]
        if how in ("open", "closed"):
            outcome = chain.fail("away")
        else:
            outcome = chain.resume(RuntimeError("bug") if how == "late raises" else verdict)
    asked, reason, metadata, facts = _expect(steps)
    assert [len(one.seen) for one in policies] == [int(index < asked) for index in range(len(policies))]
    assert (outcome.reason if outcome else "") == reason
    denied_by = {DENIED_BY: chain.current.name} if reason else {}
    assert (chain.request.metadata, chain.request.facts) == (metadata, {**facts, **denied_by})
    assert chain.edit(METADATA) == metadata
    chain.end(OK)
    allowed = asked - bool(reason)
    assert [len(one.ended) for one in policies] == [int(index < allowed) for index in range(len(policies))]


# --- counters

ALLOWED, DENIED = (1, 0, {}), (0, 1, {})


@pytest.mark.parametrize(
    ("verdict", "late", "counted"),
    [
        (ALLOW, None, ALLOWED),
        (DENY, None, DENIED),
        (RuntimeError("bug"), None, (0, 1, {"defect": 1})),
        (wait(), ALLOW, ALLOWED),
        (wait(), DENY, DENIED),
        (wait(), RuntimeError("bug"), (0, 1, {"defect": 1})),
        (wait(), "nonsense", (0, 1, {"defect": 1})),
        (wait(FailMode.OPEN), None, (1, 0, {"failed-open": 1})),
        (wait(FailMode.CLOSED), None, (0, 1, {"failed-closed": 1})),
    ],
)
def test_each_verdict_and_error_is_counted_once(verdict: object, late: object, counted: object) -> None:
    counters = PolicyServices().counters.of_policy("m.default", "p0")
    script = Scripted(verdict)
    request = chain_of(script).request
    chain = Chain((BuiltPolicy("p0", 0, script, None, counters),), request)
    if isinstance(chain.run(), Wait):
        chain.resume(late) if late is not None else chain.fail("away")
    report = counters.report()
    assert (report.allowed, report.denied, report.errors) == counted


def test_counters_of_a_policy_survive_a_reload_and_its_absence() -> None:
    services = PolicyServices()
    before = services.counters.of_policy("m.default", "AuthService auth.default")
    before.allowed += 1
    before.wait(0.002)
    del before
    services.counters.of_policy("m.default", "AuthService auth.default").deny()
    (report,) = services.counters.policy_reports()
    assert (report.allowed, report.denied, sum(report.wait_counts), report.wait_sum_s) == (1, 1, 1, 0.002)


# --- the catalogue


def destination(*policies: PolicySettings) -> Destination:
    return Destination(ObjectKey("Mapping", "default", "m"), (), policies=policies)


class First(PolicySettings):
    kind = "first"


class Second(PolicySettings):
    kind = "second"


def _build(mapping: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Scripted:
    if settings.name == "broken":
        raise LookupError("no such key")
    return Scripted()


SERVICES = PolicyServices()
KINDS = Catalogue(
    (PolicyKind("second", Stage.LIMITS, _build), PolicyKind("first", Stage.IDENTITY, _build)),
)


def test_policies_run_by_stage_and_in_one_stage_as_they_are_set() -> None:
    built = KINDS.build(destination(Second(name="a"), First(name="b"), Second(name="c"), First(name="d")), SERVICES)
    assert not isinstance(built, Deny)
    assert [(one.name, one.index) for one in built] == [("b", 1), ("d", 3), ("a", 0), ("c", 2)]


def test_a_mapping_without_policies_has_none() -> None:
    assert KINDS.build(destination(), SERVICES) == ()


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        (First(name="broken"), "LookupError: no such key"),
        (Unenforced(name="x"), "no policy of the kind 'unenforced'"),
    ],
)
def test_a_policy_that_cannot_be_built_refuses_the_mapping(settings: PolicySettings, cause: str) -> None:
    mapping = destination(First(name="fine"), settings)
    denied = KINDS.build(mapping, SERVICES)
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.POLICY_NOT_BUILT, Code.UNAVAILABLE)
    assert cause in denied.message
    route = Route("m", PathMatch(MatchKind.PREFIX, "/"), 0, (mapping,))
    assert KINDS.find_faults((route,)) == {mapping.key: denied.message}


def test_what_cannot_be_enforced_is_refused_on_purpose() -> None:
    mapping = destination(Unenforced(name="AuthService auth.default"))
    denied = CATALOGUE.build(mapping, SERVICES)
    assert isinstance(denied, Deny)
    assert denied.reason == Reason.NOT_ENFORCED
    route = Route("m", PathMatch(MatchKind.PREFIX, "/"), 0, (mapping,))
    assert not CATALOGUE.find_faults((route,)), "the dialect has reported it"
