"""Compiles AuthorizationPolicies: all that select a Mapping decide together, those that deny first.

One with an error serves on in its last good version; without one, the calls of what it selects are refused, unless it
only logs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from grpcgw.ambassador.compile.authorization_matchers import ignore_method_case, read_matchers
from grpcgw.ambassador.compile.guards import Guard, GuardContext, GuardedMapping
from grpcgw.ambassador.compile.rule_reach import (
    NO_AUTHORITY,
    NO_CALL,
    RuleReach,
    complete_host,
    complete_path,
    may_be_authority,
    may_be_call,
)
from grpcgw.ambassador.spec.authorization_spec import (
    AuthorizationPolicySpec,
    AuthorizationRuleSpec,
    SelectorSpec,
    read_selector,
)
from grpcgw.ambassador.spec.parse import Findings, parse_spec, raw_spec
from grpcgw.model.authorization import (
    ANYTHING,
    CONDITION_VARIABLES,
    Action,
    AllOf,
    AnyOf,
    AuthorizationSettings,
    IsAuthority,
    IsMethod,
    Matcher,
    Not,
    Rbac,
    RbacPolicy,
    TextKind,
    TextMatch,
)
from grpcgw.model.cel import CelExpression, InvalidExpression
from grpcgw.model.cluster import Cluster
from grpcgw.model.glob import ANYTHING as ANY_TEXT
from grpcgw.model.glob import InvalidGlob, compile_glob
from grpcgw.model.objects import KubeObject
from grpcgw.model.route import PolicySettings, Unenforced

OUTSIDE = "outside"
"""The rule of calls that policies which allow are not for."""
_REFUSED = "the calls of what it selects are refused"
_NOT_AUTHORIZED = "calls are not authorized by it"
_CANNOT_BE_READ = "cannot be read"
_NOT_LOGGED = "no call is logged by it"
_HOST_HIDDEN = "is for hosts, and the engine does not know the :authority of calls"


@dataclass(frozen=True, slots=True)
class Selection:
    """The Mappings that a policy is for, and which of their calls."""

    namespace: str
    """Empty: all."""
    labels: tuple[tuple[str, str], ...] = ()
    reaches: tuple[RuleReach, ...] = ()
    """A call must be in one of them; none: all calls."""

    def may_be_for(self, mapping: GuardedMapping) -> bool:
        if self.namespace and mapping.key.namespace != self.namespace:
            return False
        if not all(mapping.labels.get(name) == value for name, value in self.labels):
            return False
        return not self.reaches or any(one.may_match(mapping.matching) for one in self.reaches)

    def find_target(self, mapping: GuardedMapping) -> Matcher | None:
        """Which calls of the Mapping; None: all."""
        if not self.reaches or any(one.covers(mapping.matching) for one in self.reaches):
            return None
        return AnyOf(tuple([_match_reach(one) for one in self.reaches if one.may_match(mapping.matching)]))

    def needs_host(self, mapping: GuardedMapping) -> bool:
        """Whether the name that a call is for decides."""
        if self.find_target(mapping) is None:
            return False
        return any(one.host != ANY_TEXT and not one.covers_host(mapping.matching.host) for one in self.reaches)


@dataclass(frozen=True, slots=True)
class _Policy:
    """An AuthorizationPolicy."""

    by: str
    action: Action
    dry_run: bool
    selection: Selection
    rules: tuple[RbacPolicy, ...]


@dataclass(frozen=True, slots=True)
class AuthorizationGuard:
    """All AuthorizationPolicies that can be enforced."""

    policies: tuple[_Policy, ...]
    authority_hidden: bool = False
    clusters: tuple[Cluster, ...] = ()

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        mine = [one for one in self.policies if one.selection.may_be_for(mapping)]
        if not mine:
            return None
        deciding = [one for one in mine if one.action is not Action.LOG]
        for one in deciding if self.authority_hidden else ():
            if one.selection.needs_host(mapping):
                return Unenforced(name=one.by, why=_HOST_HIDDEN)
        enforced = [one for one in mine if not one.dry_run]
        return AuthorizationSettings(
            name=", ".join(one.by for one in mine),
            rules=_combine(enforced, mapping),
            shadow_rules=_combine(deciding, mapping) if len(enforced) < len(mine) else (),
        )


@dataclass(frozen=True, slots=True)
class BrokenPolicyGuard:
    """Refuses the calls of the Mappings that a policy selects which cannot be enforced."""

    by: str
    selection: Selection
    clusters: tuple[Cluster, ...] = ()

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        return Unenforced(name=self.by, why=_CANNOT_BE_READ) if self.selection.may_be_for(mapping) else None


def compile_authorization(objects: Sequence[KubeObject], context: GuardContext) -> tuple[Guard, ...]:
    policies: list[_Policy] = []
    guards: list[Guard] = []
    for obj in objects:
        passes = context.serve_without or _only_logs(obj)
        left_out = _NOT_LOGGED if _only_logs(obj) else _NOT_AUTHORIZED if passes else _REFUSED
        compiled = context.generations.serve(obj, _Compiler(context).compile, left_out)
        if compiled is not None:
            policies.append(compiled)
        elif not passes:
            guards.append(BrokenPolicyGuard(str(obj.key), _guess_selection(obj)))
    if policies:
        guards.append(AuthorizationGuard(tuple(policies), bool(context.authority_hidden_by)))
    return tuple(guards)


# --- several policies on one Mapping


def _combine(policies: Iterable[_Policy], mapping: GuardedMapping) -> tuple[Rbac, ...]:
    """What logs stands first, then what denies. A call that policies which allow are for has to be allowed by one of
    them."""
    targets = [(one, one.selection.find_target(mapping)) for one in policies]
    made = []
    for action in (Action.LOG, Action.DENY, Action.ALLOW):
        given = [(one, target) for one, target in targets if one.action is action]
        rules = [_fit(rule, target, mapping) for one, target in given for rule in one.rules]
        narrowed = [target for _, target in given if target is not None]
        if action is Action.ALLOW and given and len(narrowed) == len(given):
            rules.append(_fit(RbacPolicy(OUTSIDE, (Not(AnyOf(tuple(narrowed))),)), None, mapping))
        if given:
            made.append(Rbac(action, tuple(rules)))
    return tuple(made)


def _fit(rule: RbacPolicy, target: Matcher | None, mapping: GuardedMapping) -> RbacPolicy:
    """The rule for the calls of `target`; the case of methods counts where it counts for the Mapping."""
    if target is not None:
        rule = replace(rule, permissions=(AllOf((target, AnyOf(rule.permissions))),))
    if mapping.matching.case_sensitive:
        return rule
    return replace(
        rule,
        permissions=tuple(map(ignore_method_case, rule.permissions)),
        principals=tuple(map(ignore_method_case, rule.principals)),
    )


def _match_reach(reach: RuleReach) -> Matcher:
    is_path: Matcher = IsMethod((TextMatch(TextKind.GLOB, reach.path),))
    if reach.host == ANY_TEXT:
        return is_path
    return AllOf((is_path, IsAuthority((TextMatch(TextKind.GLOB, reach.host),))))


# --- one policy


class _Compiler:
    def __init__(self, context: GuardContext) -> None:
        self._context = context

    def compile(self, obj: KubeObject, findings: Findings) -> _Policy | None:
        spec = parse_spec(obj, AuthorizationPolicySpec, findings)
        if spec is None:
            return None
        selection = _read_selection(spec.selector or SelectorSpec(), obj.key.namespace)
        self._check_globs(spec.selector or SelectorSpec(), spec.action == Action.LOG, findings)
        rules = [self._compile_rule(obj, index, rule, findings) for index, rule in enumerate(spec.rules)]
        self._check_names(spec.rules, findings)
        action = Action(spec.action or "ALLOW")
        if spec.dryRun and action is Action.LOG:
            findings.notice("has no effect on a policy that only logs", "dryRun")
        dry_run = bool(spec.dryRun) and action is not Action.LOG
        return _Policy(str(obj.key), action, dry_run, selection, tuple(rules))

    def _compile_rule(self, obj: KubeObject, index: int, rule: AuthorizationRuleSpec, findings: Findings) -> RbacPolicy:
        hidden_by = self._context.authority_hidden_by
        at = ("rules", index)
        if rule.condition is not None:
            try:
                CelExpression(rule.condition, CONDITION_VARIABLES)
            except InvalidExpression as error:
                findings.error(f"is no CEL expression that can be used: {error}", *at, "condition")
        return RbacPolicy(
            f"{obj.key.name}.{obj.key.namespace}/{rule.name or index}",
            read_matchers(rule.permissions, hidden_by, findings, *at, "permissions") or (ANYTHING,),
            read_matchers(rule.principals, hidden_by, findings, *at, "principals") or (ANYTHING,),
            rule.condition or "",
        )

    def _check_globs(self, selector: SelectorSpec, only_logs: bool, findings: Findings) -> None:
        for index, glob in enumerate(selector.hosts or ()):
            self._check_glob(complete_host(glob), may_be_authority, NO_AUTHORITY, findings, "hosts", index)
        for index, glob in enumerate(selector.paths or ()):
            self._check_glob(complete_path(glob), may_be_call, NO_CALL, findings, "paths", index)
        if selector.hosts and self._context.authority_hidden_by:
            outcome = "are not logged" if only_logs else "are refused"
            findings.fault(
                f"the calls of the Mappings it selects that have no such host of their own {outcome}: the"
                f" {self._context.authority_hidden_by} engine does not know the :authority of calls; run grpcgw with"
                " --engine http2, or leave hosts out",
                *("selector", "hosts"),
            )

    def _check_glob(
        self, glob: str, may_match: Callable[[str], bool], otherwise: str, findings: Findings, *at: str | int
    ) -> None:
        try:
            compile_glob(glob)
        except InvalidGlob as error:
            findings.error(str(error), "selector", *at)
        if not may_match(glob):
            findings.error(otherwise, "selector", *at)

    def _check_names(self, rules: list[AuthorizationRuleSpec], findings: Findings) -> None:
        seen: set[str] = set()
        for index, rule in enumerate(rules):
            name = rule.name or str(index)
            if name in seen:
                findings.error(f"another rule has the name {name}, too", "rules", index, "name")
            seen.add(name)


def _read_selection(selector: SelectorSpec, namespace: str) -> Selection:
    hosts = [complete_host(glob) for glob in selector.hosts or ()] or [ANY_TEXT]
    paths = [complete_path(glob) for glob in selector.paths or ()] or [ANY_TEXT]
    everything = hosts == paths == [ANY_TEXT]
    return Selection(
        "" if selector.allNamespaces else namespace,
        tuple(sorted((selector.matchLabels or {}).items())),
        () if everything else tuple(RuleReach(host, path) for host, path in product(hosts, paths)),
    )


def _only_logs(obj: KubeObject) -> bool:
    """Also of a policy with an error: it keeps nobody out."""
    raw = raw_spec(obj)
    return isinstance(raw, dict) and raw.get("action") == Action.LOG


def _guess_selection(obj: KubeObject) -> Selection:
    """What a policy selects that has an error; what of its selector cannot be read selects all."""
    raw = raw_spec(obj)
    given = raw.get("selector") if isinstance(raw, dict) else raw
    if isinstance(raw, dict) and given is None and "rules" in raw:
        return Selection(obj.key.namespace)
    selector = read_selector(given)
    if selector is None or not _is_readable(selector):
        own = isinstance(given, dict) and given.keys() <= {"matchLabels", "hosts", "paths"}
        return Selection(obj.key.namespace if own else "")
    return _read_selection(selector, obj.key.namespace)


def _is_readable(selector: SelectorSpec) -> bool:
    try:
        for glob in (*(selector.hosts or ()), *(selector.paths or ())):
            compile_glob(glob)
    except InvalidGlob:
        return False
    return True
