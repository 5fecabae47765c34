"""Compiles FilterPolicies: the rules of all of them in one order, and of those each Mapping's own.

The order is Edge Stack's: by `precedence`, the highest first, then the FilterPolicies by namespace and name, then as
the rules stand in one. What a Filter that is missing or cannot be enforced should decide on is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grpcgw.ambassador.compile.filters import CompiledFilter, apply_arguments, compile_filters
from grpcgw.ambassador.compile.guards import Guard, GuardContext, GuardedMapping
from grpcgw.ambassador.compile.metadata_edits import HIDDEN_KEYS, check_key
from grpcgw.ambassador.compile.rule_reach import (
    NO_AUTHORITY,
    NO_CALL,
    RuleReach,
    complete_host,
    complete_path,
    may_be_authority,
    may_be_call,
)
from grpcgw.ambassador.compile.unenforced_guards import UnenforcedGuard, read_filter_scope
from grpcgw.ambassador.spec.filter_specs import (
    FilterPolicySpec,
    FilterReferenceSpec,
    FilterRuleSpec,
    HeaderConditionSpec,
)
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.resources import EDGE_STACK_GROUP
from grpcgw.model.cluster import Cluster
from grpcgw.model.dialect import name_in_group
from grpcgw.model.filters import AppliedFilter, FilterRule, HeaderCondition, make_filter_policy
from grpcgw.model.glob import ANYTHING, InvalidGlob, compile_glob
from grpcgw.model.match import CONSTANT_HEADERS, HeaderMatch
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.regex import InvalidRegex, check_regex
from grpcgw.model.route import PolicySettings, Unenforced

_CANNOT_BE_READ = "cannot be read"
_REFUSED = "the calls that it may be for are refused"
_NOT_ENFORCED = "has an error or does not exist"


@dataclass(frozen=True, slots=True)
class _Reference:
    """A filter in a rule."""

    settings: PolicySettings
    condition: HeaderCondition | None
    breaks_on_allow: bool
    breaks_on_deny: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    by: str
    reach: RuleReach
    precedence: int
    filters: tuple[_Reference, ...]


@dataclass(frozen=True, slots=True)
class FilterPoliciesGuard:
    """All FilterPolicies."""

    rules: tuple[_Rule, ...]
    """In the order they are tried."""
    clusters: tuple[Cluster, ...]

    def settings_for(self, mapping: GuardedMapping) -> PolicySettings | None:
        rules = list(self._rules_for(mapping))
        while rules and not rules[-1].filters:  # without it calls pass as well
            rules.pop()
        if not rules:
            return None
        filters = list(_unique(one.settings for rule in rules for one in rule.filters))
        names = ", ".join(dict.fromkeys(rule.by for rule in rules if rule.filters))
        return make_filter_policy(names, tuple(filters), tuple([_make_rule(rule, mapping, filters) for rule in rules]))

    def _rules_for(self, mapping: GuardedMapping) -> Iterator[_Rule]:
        """Those that may match its calls, up to one that matches them all."""
        for rule in self.rules:
            if rule.reach.may_match(mapping.matching):
                yield rule
                if rule.reach.covers(mapping.matching):
                    return


def _unique(settings: Iterator[PolicySettings]) -> Iterator[PolicySettings]:
    seen: list[PolicySettings] = []
    for one in settings:
        if one not in seen:
            seen.append(one)
            yield one


def _make_rule(rule: _Rule, mapping: GuardedMapping, filters: list[PolicySettings]) -> FilterRule:
    matching = mapping.matching
    applied = [
        AppliedFilter(filters.index(one.settings), one.condition, one.breaks_on_allow, one.breaks_on_deny)
        for one in rule.filters
    ]
    return FilterRule(
        rule.by,
        ANYTHING if rule.reach.covers_host(matching.host) else rule.reach.host,
        rule.reach.path,
        tuple(applied),
        ignore_case=bool(applied) and not matching.case_sensitive,
    )


def compile_filter_policies(objects: Sequence[KubeObject], context: GuardContext) -> tuple[Guard, ...]:
    """Of Filters and FilterPolicies."""
    given = [obj for obj in objects if obj.key.kind == "Filter"]
    filters = compile_filters(given, context)
    compiler = _PolicyCompiler(filters, frozenset(obj.key for obj in given), context)
    rules: list[_Rule] = []
    guards: list[Guard] = []
    for obj in (obj for obj in objects if obj.key.kind == "FilterPolicy"):
        compiled = context.generations.serve(obj, compiler.compile, _REFUSED)
        if compiled is not None:
            rules += compiled
        elif not context.serve_without:
            guards.append(UnenforcedGuard(str(obj.key), read_filter_scope(obj), why=_CANNOT_BE_READ))
    rules.sort(key=lambda rule: -rule.precedence)
    used = {one.settings.name for rule in rules for one in rule.filters}
    clusters = [cluster for one in filters.values() if one.settings.name in used for cluster in one.clusters]
    if rules:
        guards.append(FilterPoliciesGuard(tuple(rules), tuple(clusters)))
    return tuple(guards)


class _PolicyCompiler:
    """Compiles one FilterPolicy."""

    def __init__(
        self, filters: Mapping[ObjectKey, CompiledFilter], known: frozenset[ObjectKey], context: GuardContext
    ) -> None:
        """`known`: all Filters, also those that cannot be enforced."""
        self._filters, self._known, self._context = filters, known, context

    def compile(self, obj: KubeObject, findings: Findings) -> tuple[_Rule, ...] | None:
        spec = parse_spec(obj, FilterPolicySpec, findings)
        if spec is None:
            return None
        return tuple([self._compile_rule(obj, index, rule, findings) for index, rule in enumerate(spec.rules)])

    def _compile_rule(self, obj: KubeObject, index: int, rule: FilterRuleSpec, findings: Findings) -> _Rule:
        host, path = complete_host(rule.host or ANYTHING), complete_path(rule.path or ANYTHING)
        for name, glob in (("host", host), ("path", path)):
            try:
                compile_glob(glob)
            except InvalidGlob as error:
                findings.error(str(error), "rules", index, name)
        if rule.filters or rule.filterRefs:
            _note_unmatched(host, path, findings, "rules", index)
        if host != ANYTHING and self._context.authority_hidden_by:
            findings.fault(
                f"the calls of this rule's path that no rule before it is for are refused: the"
                f" {self._context.authority_hidden_by} engine does not know the :authority of calls; run grpcgw with"
                " --engine http2, or leave host out",
                *("rules", index, "host"),
            )
        field = "filterRefs" if rule.filterRefs else "filters"
        found = [
            self._compile_reference(obj, one, findings, ("rules", index, field, position))
            for position, one in enumerate(rule.filters or rule.filterRefs or ())
        ]
        references = tuple([one for one in found if one is not None])
        if references and not references[-1].breaks_on_deny:
            findings.notice(
                "a call that the last filter denies is served, as its onDeny is continue", "rules", index, field
            )
        return _Rule(str(obj.key), RuleReach(host, path), rule.precedence or 0, references)

    def _compile_reference(
        self, obj: KubeObject, reference: FilterReferenceSpec, findings: Findings, at: tuple[str | int, ...]
    ) -> _Reference | None:
        """None: calls are served without the filter."""
        key = self._find_key(obj, reference)
        compiled = self._filters.get(key)
        if compiled is not None:
            settings = compiled.settings
        elif self._context.serve_without:
            findings.notice(f"{key} {_NOT_ENFORCED}: calls are not filtered by it", *at)
            return None
        else:
            found = sorted(one.namespace for one in self._known if one.name == key.name and one != key)
            hint = f"; there is one in namespace {found[0]}, which `namespace` would name" if found else ""
            findings.fault(f"{key} {_NOT_ENFORCED}: the calls that need it are refused{hint}", *at)
            settings = Unenforced(name=str(key), why=_NOT_ENFORCED)
        return _Reference(
            apply_arguments(settings, reference.arguments or {}, findings, *at, "arguments"),
            _compile_condition(reference.ifRequestHeader, findings, *at, "ifRequestHeader"),
            reference.onAllow == "break",
            reference.onDeny != "continue",
        )

    def _find_key(self, policy: KubeObject, reference: FilterReferenceSpec) -> ObjectKey:
        """Of the Filter that a reference means: in a cluster that of the FilterPolicy's own API group, if it exists."""
        key = ObjectKey("Filter", reference.namespace or policy.key.namespace, reference.name)
        of_edge_stack = key._replace(name=name_in_group(key.name, EDGE_STACK_GROUP))
        if key in self._known and not policy.api_version.startswith(f"{EDGE_STACK_GROUP}/"):
            return key
        return of_edge_stack if of_edge_stack in self._known else key


def _note_unmatched(host: str, path: str, findings: Findings, *at: str | int) -> None:
    """Not an error: a FilterPolicy may have rules for HTTP beside those for gRPC."""
    if not may_be_authority(host):
        findings.notice(f"{NO_AUTHORITY}: the rule's filters decide on none", *at, "host")
    if not may_be_call(path):
        findings.notice(f"{NO_CALL}: the rule's filters decide on none", *at, "path")


def _compile_condition(spec: HeaderConditionSpec | None, findings: Findings, *at: str | int) -> HeaderCondition | None:
    if spec is None:
        return None
    name = spec.name.lower()
    if name in HIDDEN_KEYS or name == "host":
        findings.error(f"{name} cannot be compared: grpc does not show it", *at, "name")
    elif name not in CONSTANT_HEADERS:
        check_key(name, findings, *at, "name")
    pattern = spec.valueRegex or (spec.value if spec.type == "RegularExpression" else None) or None
    exact = None if pattern else spec.value or None
    if pattern:
        try:
            check_regex(pattern)
        except InvalidRegex:
            findings.error(
                "the pattern is no RE2 pattern that can be used", *at, "valueRegex" if spec.valueRegex else "value"
            )
    return HeaderCondition(HeaderMatch(name, exact=exact, regex=pattern), bool(spec.negate))
