"""Settings of the policy of FilterPolicies: which filters decide on which RPCs, in which order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from grpcgw.model.match import HeaderMatch
from grpcgw.model.route import PolicySettings


@dataclass(frozen=True, slots=True)
class HeaderCondition:
    """`ifRequestHeader`: what the metadata must have for a filter to be run."""

    match: HeaderMatch
    """Without a value: the key has one that is not empty. A pattern is searched for in the value."""
    negate: bool = False


@dataclass(frozen=True, slots=True)
class AppliedFilter:
    """A filter in a rule."""

    filter: int
    """Index into `FilterPolicySettings.filters`."""
    condition: HeaderCondition | None = None
    """None: it is run for all calls of the rule."""
    breaks_on_allow: bool = False
    """Whether the filters after it are left out when it allows."""
    breaks_on_deny: bool = True
    """Whether the RPC ends when it denies; else the next filter decides, and after the last one the RPC goes on."""


@dataclass(frozen=True, slots=True)
class FilterRule:
    """A rule of a FilterPolicy."""

    by: str
    """The FilterPolicy, for the operator."""
    host: str
    """Glob (`model.glob`) in lower case for `:authority`, with its port or without."""
    path: str
    """Glob for the path of the method."""
    filters: tuple[AppliedFilter, ...]
    """In order; empty: calls of the rule pass."""
    ignore_case: bool = False
    """Of the path, where the Mapping ignores it as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPolicySettings(PolicySettings):
    """The first rule that matches a call decides; a call that none matches passes."""

    kind: ClassVar[str] = "filter-policy"
    filters: tuple[PolicySettings, ...]
    """Each once. `upstreams` are theirs, one after another."""
    rules: tuple[FilterRule, ...]

    @property
    def reads_certificate(self) -> bool:
        return any(one.reads_certificate for one in self.filters)


def make_filter_policy(
    name: str, filters: tuple[PolicySettings, ...], rules: tuple[FilterRule, ...]
) -> FilterPolicySettings:
    upstreams = tuple([upstream for one in filters for upstream in one.upstreams])
    return FilterPolicySettings(name=name, upstreams=upstreams, filters=filters, rules=rules)
