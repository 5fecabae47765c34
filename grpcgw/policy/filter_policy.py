"""FilterPolicies: the first rule that matches a call runs its filters, each a policy of its own, in order. Pure.

Source: Edge Stack's FilterPolicy. `onDeny: continue` does not let pass what a filter could not decide on.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial

from grpcgw.model.authority import split_authority
from grpcgw.model.filters import AppliedFilter, FilterPolicySettings, FilterRule, HeaderCondition
from grpcgw.model.glob import ANYTHING, compile_glob
from grpcgw.model.match import CONSTANT_HEADERS, HeaderMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.regex import FullRegex, remember
from grpcgw.model.route import PolicySettings
from grpcgw.model.status import Reason
from grpcgw.policy.contract import HttpCall, OnEnd, PartialAllow, Policy, PolicyRequest, UnaryRpc, Verdict, Wait
from grpcgw.policy.verdicts import ALLOW, Allow, Deny

UNDECIDED = frozenset(
    {
        Reason.NOT_ENFORCED,
        Reason.NO_TOKEN_KEYS,
        Reason.POLICY_UNAVAILABLE,
        Reason.POLICY_DEFECT,
        Reason.POLICY_NOT_BUILT,
    }
)
"""Reasons of a Deny that is no verdict of the filter: it could not decide."""

Test = Callable[[Metadata], bool]


@dataclass(frozen=True, slots=True)
class _Filter:
    """A filter in a rule, built."""

    name: str
    policy: Policy | Deny
    """Deny: it cannot be enforced, and refuses each call."""
    first_upstream: int
    """Index of its first upstream among those of the FilterPolicy."""
    applies: Test | None
    breaks_on_allow: bool
    breaks_on_deny: bool
    on_end: OnEnd | None


@dataclass(frozen=True, slots=True)
class _Rule:
    by: str
    host: str
    is_host: Callable[[str], bool] | None
    """None: any."""
    is_path: Callable[[str], bool]
    filters: tuple[_Filter, ...]
    owned_keys: frozenset[str]
    """Of all its filters (`PolicySettings`)."""
    cleans: Allow
    """Takes them from what the client sent. A filter may know who calls by one of them: only pods do not get that."""


def build_filter_policy(settings: PolicySettings, build: Callable[[PolicySettings], Policy | Deny]) -> FilterPolicy:
    """`build` makes the policy of a filter; one that cannot be built refuses the calls that need it."""
    assert isinstance(settings, FilterPolicySettings)
    return FilterPolicy(settings, [build(one) for one in settings.filters])


class FilterPolicy:
    def __init__(self, settings: FilterPolicySettings, policies: Sequence[Policy | Deny]) -> None:
        """`policies`: those of `settings.filters`. Raises InvalidGlob and InvalidRegex."""
        self._rules = tuple([_make_rule(rule, settings, policies) for rule in settings.rules])
        self.unbuilt = tuple(
            [
                (given, built)
                for given, built in zip(settings.filters, policies, strict=True)
                if isinstance(built, Deny) and built.reason == Reason.POLICY_NOT_BUILT
            ]
        )
        """The filters that cannot be built, with what they refuse calls with."""

    def check(self, request: PolicyRequest) -> Verdict:
        rule = self._find_rule(request)
        if rule is None:
            return ALLOW
        if isinstance(rule, Deny):
            return rule
        if rule.owned_keys and any(name in rule.owned_keys for name, _ in request.metadata):
            # At once: not each filter needs to run and allow (`ifRequestHeader`, `onAllow: break`, `onDeny: continue`).
            return PartialAllow(rule.cleans, partial(_run, rule.filters))
        return _run(rule.filters, request)

    def _find_rule(self, request: PolicyRequest) -> _Rule | Deny | None:
        path, authority = request.request.path, request.request.authority
        for rule in self._rules:
            if not rule.is_path(path):
                continue
            if rule.is_host is None:
                return rule
            if not authority:
                return _refuse_unknown_name(rule, request)
            if rule.is_host(authority):
                return rule
        return None


def _refuse_unknown_name(rule: _Rule, request: PolicyRequest) -> Deny:
    message = f"{request.key}: a rule of {rule.by} is for {rule.host}, and the :authority of the call is not known"
    return Deny(Reason.NOT_ENFORCED, message)


def _run(filters: tuple[_Filter, ...], request: PolicyRequest) -> Verdict:
    """What the filters decide, the first of which is next."""
    for index, one in enumerate(filters):
        if one.applies is None or one.applies(request.metadata):
            verdict = one.policy if isinstance(one.policy, Deny) else one.policy.check(request)
            return _settle(one, filters[index + 1 :], request, verdict)
    return ALLOW


def _settle(one: _Filter, rest: tuple[_Filter, ...], request: PolicyRequest, verdict: Verdict) -> Verdict:
    """What `one`, which decided so, and the filters after it, the rest, decide together."""
    if isinstance(verdict, Allow):
        rest = () if one.breaks_on_allow else rest
        if not rest and one.on_end is None:
            return verdict
        return PartialAllow(verdict, partial(_run, rest), one.name, one.on_end)
    if isinstance(verdict, Deny):
        ends = one.breaks_on_deny or verdict.reason in UNDECIDED
        return verdict if ends else _run(rest, request)
    if isinstance(verdict, Wait):
        return _wait(one, rest, request, verdict)
    return replace(verdict, then=partial(_go_on, one, rest, verdict.then))


def _wait(one: _Filter, rest: tuple[_Filter, ...], request: PolicyRequest, wait: Wait) -> Wait:
    work = wait.work
    if isinstance(work, UnaryRpc | HttpCall) and one.first_upstream:
        work = replace(work, upstream=one.first_upstream + work.upstream)
    return replace(wait, work=work, then=partial(_resume, one, rest, request, wait.then))


def _resume(
    one: _Filter,
    rest: tuple[_Filter, ...],
    request: PolicyRequest,
    then: Callable[[Allow | Deny], Verdict] | None,
    came: Allow | Deny,
) -> Verdict:
    return _settle(one, rest, request, came if then is None else then(came))


def _go_on(
    one: _Filter, rest: tuple[_Filter, ...], then: Callable[[PolicyRequest], Verdict], request: PolicyRequest
) -> Verdict:
    return _settle(one, rest, request, then(request))


# --- building

_compile_path = lru_cache(1024)(compile_glob)
"""Most Mappings have the same rules: what a glob remembers is then there once."""


@lru_cache(1024)
def _compile_host(glob: str) -> Callable[[str], bool]:
    """A predicate of `:authority`."""
    matches = compile_glob(glob)
    return remember(lambda authority: any(map(matches, split_authority(authority))))


def _make_rule(rule: FilterRule, settings: FilterPolicySettings, policies: Sequence[Policy | Deny]) -> _Rule:
    applied = [settings.filters[one.filter] for one in rule.filters]
    owned = dict.fromkeys(key for one in applied for key in one.owned_keys)
    credentials = {key for one in applied for key in one.credential_keys}
    return _Rule(
        rule.by,
        rule.host,
        None if rule.host == ANYTHING else _compile_host(rule.host),
        _compile_path(rule.path, rule.ignore_case),
        tuple([_make_filter(one, settings, policies) for one in rule.filters]),
        frozenset(owned),
        Allow(
            remove=tuple([key for key in owned if key not in credentials]),
            withhold=tuple([key for key in owned if key in credentials]),
        ),
    )


def _make_filter(one: AppliedFilter, settings: FilterPolicySettings, policies: Sequence[Policy | Deny]) -> _Filter:
    policy = policies[one.filter]
    return _Filter(
        settings.filters[one.filter].name,
        policy,
        sum(len(before.upstreams) for before in settings.filters[: one.filter]),
        None if one.condition is None else compile_condition(one.condition),
        one.breaks_on_allow,
        one.breaks_on_deny,
        getattr(policy, "on_end", None),
    )


def compile_condition(condition: HeaderCondition) -> Test:
    """Whether the filter is run. Of a header that is sent several times one value is enough to run it: a pod may read
    that one. Raises InvalidRegex.
    """
    holds, negate = _compile_match(condition.match), condition.negate
    name = condition.match.name
    constant = CONSTANT_HEADERS.get(name)
    if constant is not None:
        answer = holds(constant) is not negate
        return lambda metadata: answer

    def applies(metadata: Metadata) -> bool:
        values = [_to_text(value) for key, value in metadata if key == name]
        if len(values) < 2:  # as of most
            return holds(values[0] if values else "") is not negate
        return any(holds(value) is not negate for value in (",".join(values), *values))

    return applies


def _compile_match(match: HeaderMatch) -> Callable[[str], bool]:
    if match.exact is not None:
        return match.exact.__eq__
    if match.regex is not None:
        return FullRegex(f"(?s:.*)(?:{match.regex})(?s:.*)").matches
    return bool


def _to_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else base64.b64encode(value).decode().rstrip("=")
