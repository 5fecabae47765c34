"""FilterPolicies: which rule is for a call, which filters decide, and what each of them sees; against a plain model."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.codes import Code
from grpcgw.model.filters import AppliedFilter, FilterRule, HeaderCondition, make_filter_policy
from grpcgw.model.match import HeaderMatch, MatchKind, PathMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.objects import ObjectKey
from grpcgw.model.plugins import make_plugin
from grpcgw.model.route import Destination, PolicySettings, Route, Unenforced, WeightedCluster
from grpcgw.model.status import Reason, Status
from grpcgw.policy.catalogue import CATALOGUE, Catalogue, PolicyKind, Stage
from grpcgw.policy.chain import DENIED_BY, Chain
from grpcgw.policy.contract import CoroutineWork, FailMode, PartialAllow, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.filter_policy import compile_condition
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

KEY = ObjectKey("Mapping", "default", "m")
DENY = Deny("forbidden", "not you", Code.PERMISSION_DENIED)
OK = Status(Code.OK, "")
PATH = "/greet.GrpcService/Greet"


async def _never() -> Allow:
    raise AssertionError("the chain does no I/O")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptedSettings(PolicySettings):
    """Of a filter with one verdict. `late`: it comes after a wait."""

    kind: ClassVar[str] = "scripted"
    verdict: Allow | Deny = ALLOW
    late: bool = False
    seen: list[tuple[Metadata, dict[str, str]]] = field(default_factory=list, compare=False)
    ended: list[Status] = field(default_factory=list, compare=False)


class Scripted:
    def __init__(self, settings: ScriptedSettings) -> None:
        self._settings = settings

    def check(self, request: PolicyRequest) -> Verdict:
        settings = self._settings
        settings.seen.append((request.metadata, dict(request.facts)))
        if not settings.late:
            return settings.verdict
        if settings.upstreams:
            return Wait(UnaryRpc("/a.S/M", b"", lambda answer: ALLOW), 1.0, FailMode.CLOSED)
        return Wait(CoroutineWork(_never), 1.0, FailMode.CLOSED)

    def on_end(self, request: PolicyRequest, status: Status) -> None:
        self._settings.ended.append(status)


def _build(key: ObjectKey, settings: PolicySettings, services: PolicyServices) -> Scripted:
    assert isinstance(settings, ScriptedSettings)
    if settings.name == "broken":
        raise LookupError("bug")
    return Scripted(settings)


KINDS = Catalogue((*CATALOGUE.kinds, PolicyKind("scripted", Stage.OWN, _build)))


def build(filters: list[PolicySettings], rules: list[FilterRule]) -> Chain:
    chain = _try_build(filters, rules)
    assert isinstance(chain, Chain)
    return chain


def _try_build(
    filters: list[PolicySettings], rules: list[FilterRule], path: str = PATH, authority: str = "gateway.example"
) -> Chain | Deny:
    settings = make_filter_policy("FilterPolicy p.default", tuple(filters), tuple(rules))
    built = KINDS.build(Destination(KEY, (), policies=(settings,)), PolicyServices())
    if isinstance(built, Deny):
        return built
    request = Request(path, authority, (("x-user", "ann"),), None, Peer("192.0.2.7"))
    return Chain(built, PolicyRequest(request, KEY, request.metadata))


def rule(*filters: AppliedFilter | int, host: str = "*", path: str = "*") -> FilterRule:
    applied = [AppliedFilter(one) if isinstance(one, int) else one for one in filters]
    return FilterRule("FilterPolicy p.default", host, path, tuple(applied))


def scripted(name: str = "a", verdict: Allow | Deny = ALLOW, late: bool = False) -> ScriptedSettings:
    return ScriptedSettings(name=name, verdict=verdict, late=late)


# --- which rule


@pytest.mark.parametrize(
    ("host", "path", "authority", "is_for"),
    [
        ("*", "*", "gateway.example", True),
        ("gateway.example", "*", "gateway.example", True),
        ("gateway.example", "*", "GateWay.Example:8443", True),
        ("gateway.example", "*", "gateway.example:", True),
        ("gateway.example:8443", "*", "gateway.example:8443", True),
        ("gateway.example:8443", "*", "gateway.example", False),
        ("*.example", "/greet.*", "gateway.example", True),
        ("*.example", "*", "gateway.example.org", False),
        ("gateway.example", "/other/*", "gateway.example", False),
        ("gateway.example", "/other/*", "", False),
        ("*", PATH, "", True),
    ],
)
def test_a_rule_is_for_a_host_with_any_port_and_a_path(host: str, path: str, authority: str, is_for: bool) -> None:
    chain = _try_build([scripted(verdict=DENY)], [rule(0, host=host, path=path)], authority=authority)
    assert isinstance(chain, Chain)
    assert (chain.run() is DENY) is is_for


def test_a_call_whose_name_is_not_known_is_refused_where_a_rule_is_for_a_name() -> None:
    """As on the generic-handler engine, which does not show `:authority`."""
    rules = [rule(0, host="gateway.example", path="/greet.*"), rule()]
    chain = _try_build([scripted()], rules, authority="")
    assert isinstance(chain, Chain)
    denied = chain.run()
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.NOT_ENFORCED, Code.UNAVAILABLE)
    assert "a rule of FilterPolicy p.default is for gateway.example" in denied.message
    elsewhere = _try_build([scripted()], rules, path="/other.S/M", authority="")
    assert isinstance(elsewhere, Chain)
    assert elsewhere.run() is None


def test_case_of_the_path_is_ignored_where_the_mapping_ignores_it() -> None:
    strict = rule(0, path="/GREET.*")
    assert build([scripted(verdict=DENY)], [strict]).run() is None
    assert build([scripted(verdict=DENY)], [replace(strict, ignore_case=True)]).run() is DENY


_GLOBS = st.sampled_from(["*", "/a.*", "/a.S/M", "/b.S/*", "*/M", "/?.S/N"])
_PATHS = st.sampled_from(["/a.S/M", "/a.S/N", "/b.S/M", "/b.S/N"])
_HOSTS = st.sampled_from(["*", "a.example", "*.example", "b.*"])


@given(st.lists(st.tuples(_HOSTS, _GLOBS), max_size=5), _PATHS, st.sampled_from(["a.example", "b.example:80", "c.org"]))
def test_the_first_rule_that_matches_decides(globs: list[tuple[str, str]], path: str, authority: str) -> None:
    denials = [Deny("forbidden", str(index)) for index in range(len(globs))]
    filters: list[PolicySettings] = [scripted(str(index), denial) for index, denial in enumerate(denials)]
    rules = [rule(index, host=host, path=glob) for index, (host, glob) in enumerate(globs)]
    chain = _try_build(filters, rules, path, authority)
    assert isinstance(chain, Chain)
    name = authority.partition(":")[0]
    first = [i for i, (host, glob) in enumerate(globs) if fnmatchcase(name, host) and fnmatchcase(path, glob)][:1]
    assert chain.run() is (denials[first[0]] if first else None)


# --- which filters


@dataclass(frozen=True)
class Given:
    verdict: Allow | Deny
    late: bool
    breaks_on_allow: bool
    breaks_on_deny: bool
    needs_header: bool
    negate: bool


_VERDICTS = st.sampled_from(
    [ALLOW, DENY, Allow(add=(("x-mark", "1"),), facts=(("f", "1"),)), Allow(remove=("x-mark",), facts=(("f", "2"),))]
)
_GIVEN = st.builds(Given, _VERDICTS, *[st.booleans()] * 5)


def _expect(given_filters: list[Given]) -> tuple[list[int], bool, Metadata, dict[str, str], list[int]]:
    """Those that are run, whether the RPC is denied, its metadata and facts, and those that allowed it."""
    metadata: Metadata = (("x-user", "ann"),)
    facts: dict[str, str] = {}
    ran, allowed = [], []
    for index, one in enumerate(given_filters):
        has = any(name == "x-mark" for name, _ in metadata)
        if one.needs_header and has is one.negate:
            continue
        ran.append(index)
        if isinstance(one.verdict, Deny):
            if one.breaks_on_deny:
                return ran, True, metadata, facts, allowed
            continue
        allowed.append(index)
        removed = one.verdict.remove
        metadata = (*(item for item in metadata if item[0] not in removed), *one.verdict.add)
        facts |= dict(one.verdict.facts)
        if one.breaks_on_allow:
            break
    return ran, False, metadata, facts, allowed


@given(st.lists(_GIVEN, max_size=5))
def test_filters_run_in_order_and_break_or_continue(given_filters: list[Given]) -> None:
    settings = [scripted(str(index), one.verdict, one.late) for index, one in enumerate(given_filters)]
    applied = [
        AppliedFilter(
            index,
            HeaderCondition(HeaderMatch("x-mark"), one.negate) if one.needs_header else None,
            one.breaks_on_allow,
            one.breaks_on_deny,
        )
        for index, one in enumerate(given_filters)
    ]
    chain = build([*settings], [rule(*applied)])
    outcome = chain.run()
    while isinstance(outcome, Wait):
        waiting = next(one for one in reversed(settings) if one.late and one.seen)
        outcome = chain.resume(waiting.verdict)
    ran, denied, metadata, facts, allowed = _expect(given_filters)
    assert [index for index, one in enumerate(settings) if one.seen] == ran
    assert (outcome is DENY) is denied
    denied_by = {DENIED_BY: chain.current.name} if denied else {}
    assert (chain.request.metadata, chain.request.facts) == (metadata, {**facts, **denied_by})
    assert chain.edit((("x-user", "ann"),)) == metadata
    chain.end(OK)
    assert [index for index, one in enumerate(settings) if one.ended] == allowed
    assert all(len(one.ended) <= 1 for one in settings)


def test_a_filter_sees_what_the_filters_before_it_changed() -> None:
    last = scripted("b")
    first = scripted("a", Allow(add=(("x-role", "r"),), facts=(("identity", "ann"),)))
    assert build([first, last], [rule(0, 1)]).run() is None
    assert last.seen == [((("x-user", "ann"), ("x-role", "r")), {"identity": "ann"})]


def test_a_filter_that_allowed_gets_the_end_of_an_rpc_that_was_given_up_while_the_next_one_waits() -> None:
    first, second = scripted("a"), scripted("b", late=True)
    chain = build([first, second], [rule(0, 1)])
    assert isinstance(chain.run(), Wait)
    chain.end(Status(Code.CANCELLED, ""))
    assert (len(first.ended), len(second.ended)) == (1, 0)


@pytest.mark.parametrize(
    ("condition", "value", "holds"),
    [
        (HeaderCondition(HeaderMatch("x")), "a", True),
        (HeaderCondition(HeaderMatch("x")), "", False),
        (HeaderCondition(HeaderMatch("x")), None, False),
        (HeaderCondition(HeaderMatch("x"), negate=True), None, True),
        (HeaderCondition(HeaderMatch("x", exact="a")), "a", True),
        (HeaderCondition(HeaderMatch("x", exact="a")), "ab", False),
        (HeaderCondition(HeaderMatch("x", regex="b|c")), "abd", True),
        (HeaderCondition(HeaderMatch("x", regex="^b")), "ab", False),
        (HeaderCondition(HeaderMatch("x", regex="^b"), negate=True), "ab", True),
        (HeaderCondition(HeaderMatch("content-type", regex="grpc")), None, True),
        (HeaderCondition(HeaderMatch(":method", exact="GET")), None, False),
    ],
)
def test_conditions_on_headers(condition: HeaderCondition, value: str | None, holds: bool) -> None:
    metadata = () if value is None else (("x", value),)
    assert compile_condition(condition)(metadata) is holds


@pytest.mark.parametrize(
    ("condition", "values"),
    [
        (HeaderCondition(HeaderMatch("x", exact="a")), "a a"),
        (HeaderCondition(HeaderMatch("x", exact="a")), "b a"),
        (HeaderCondition(HeaderMatch("x", regex="^b$")), "a b"),
        (HeaderCondition(HeaderMatch("x", regex="a"), negate=True), "a b"),
        (HeaderCondition(HeaderMatch("x", exact="a"), negate=True), "a a"),
    ],
)
def test_nobody_gets_round_a_filter_by_sending_a_header_twice(condition: HeaderCondition, values: str) -> None:
    assert compile_condition(condition)(tuple([("x", value) for value in values.split()]))


def test_a_filter_is_not_run_where_no_value_asks_for_it() -> None:
    metadata: Metadata = (("x", "a"), ("x", "b"))
    assert not compile_condition(HeaderCondition(HeaderMatch("x", exact="c")))(metadata)
    assert not compile_condition(HeaderCondition(HeaderMatch("x", regex="a|b"), negate=True))(metadata)


def test_several_values_are_compared_as_one_list_and_bytes_as_base64() -> None:
    metadata: Metadata = (("x", "a"), ("y", "b"), ("x", "c"), ("z-bin", b"\x01"))
    assert compile_condition(HeaderCondition(HeaderMatch("x", exact="a,c")))(metadata)
    assert compile_condition(HeaderCondition(HeaderMatch("z-bin", exact="AQ")))(metadata)


# --- waits and faults


def test_rpcs_of_a_filter_go_to_its_own_upstreams() -> None:
    upstream = Destination(ObjectKey("Filter", "default", "f"), (WeightedCluster("f"),))
    first = replace(scripted("a"), upstreams=(upstream, upstream))
    second = replace(scripted("b", late=True), upstreams=(upstream,))
    wait = build([first, second], [rule(0, 1)]).run()
    assert isinstance(wait, Wait)
    assert isinstance(wait.work, UnaryRpc)
    assert wait.work.upstream == 2


def test_a_filter_that_gives_no_verdict_ends_the_rpc_whatever_on_deny_says() -> None:
    after = scripted("b")
    chain = build([scripted("a", late=True), after], [rule(AppliedFilter(0, breaks_on_deny=False), 1)])
    chain.run()
    denied = chain.fail("away")
    assert isinstance(denied, Deny)
    assert (denied.reason, after.seen) == (Reason.POLICY_UNAVAILABLE, [])


def test_a_filter_that_cannot_be_enforced_refuses_the_calls_that_need_it() -> None:
    filters: list[PolicySettings] = [Unenforced(name="Filter f.default", why="does not exist"), scripted()]
    rules = [rule(1, path="/other.*"), rule(AppliedFilter(0, breaks_on_deny=False), path="/greet.*")]
    denied = build(filters, rules).run()
    assert isinstance(denied, Deny)
    assert denied.message == "Mapping m.default: Filter f.default decides on its calls, and does not exist"
    other = _try_build(filters, rules, path="/other.S/M")
    assert isinstance(other, Chain)
    assert other.run() is None


def test_a_filter_that_cannot_be_built_refuses_the_calls_that_need_it() -> None:
    filters = [scripted("broken"), scripted()]
    denied = build(filters, [rule(AppliedFilter(0, breaks_on_deny=False), 1)]).run()
    assert isinstance(denied, Deny)
    assert (denied.reason, denied.status().code) == (Reason.POLICY_NOT_BUILT, Code.UNAVAILABLE)
    assert build(filters, [rule(0, path="/other/*"), rule(1)]).run() is None


def test_a_filter_that_cannot_be_built_is_a_fault_of_the_filter_where_it_is_known() -> None:
    by = ObjectKey("Filter", "default", "own")
    rules = (rule(0, 1),)
    settings = make_filter_policy("p", (make_plugin(str(by), "absent:X", {}, by=by), scripted("broken")), rules)
    destination = Destination(KEY, (), policies=(settings,))
    faults = KINDS.find_faults([Route("m", PathMatch(MatchKind.PREFIX, "/"), 0, (destination,))])
    assert list(faults) == [by, KEY]
    assert faults[by].startswith("Filter own.default cannot be built: importing absent:X raised ModuleNotFoundError")


def test_a_filter_may_be_made_of_steps_itself() -> None:
    inner = make_filter_policy("inner", (scripted("a"), scripted("b", DENY)), (rule(0, 1),))
    assert build([inner], [rule(0)]).run() is DENY
    chain = build([inner, scripted("c")], [rule(AppliedFilter(0, breaks_on_deny=False), 1)])
    assert chain.run() is None


def test_a_step_goes_on_with_what_it_allowed() -> None:
    seen: list[Metadata] = []

    def then(request: PolicyRequest) -> Verdict:
        seen.append(request.metadata)
        return ALLOW

    class Stepping:
        def check(self, request: PolicyRequest) -> Verdict:
            return PartialAllow(Allow(add=(("x-role", "r"),)), then)

    built = Catalogue((PolicyKind("scripted", Stage.OWN, lambda *_: Stepping()),)).build(
        Destination(KEY, (), policies=(scripted(),)), PolicyServices()
    )
    assert not isinstance(built, Deny)
    request = Request(PATH, "", (), None, Peer(""))
    assert Chain(built, PolicyRequest(request, KEY, ())).run() is None
    assert seen == [(("x-role", "r"),)]
