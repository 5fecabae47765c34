"""The ruling of an authorization service: a verdict that does not depend on the RPC it is applied to. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata, MetadataValue
from grpcgw.model.status import Reason
from grpcgw.policy.verdicts import Allow, Deny, Facts


class Verb(Enum):
    """How a header of an allowed RPC is set."""

    SET = "set"
    APPEND = "append"
    ADD_IF_ABSENT = "add if absent"
    SET_IF_PRESENT = "set if present"


@dataclass(frozen=True, slots=True)
class Rule:
    verb: Verb
    key: str
    value: MetadataValue


class Ruling:
    """A verdict, and the headers of the request that it sets."""

    __slots__ = ("_conditional", "_rules", "_verdict")

    def __init__(self, verdict: Allow | Deny, rules: tuple[Rule, ...] = ()) -> None:
        """Raises ValueError for a header that cannot be sent."""
        self._rules = rules
        self._conditional = any(rule.verb in (Verb.ADD_IF_ABSENT, Verb.SET_IF_PRESENT) for rule in rules)
        self._verdict = verdict if self._conditional else _add_rules(verdict, rules)

    def apply(self, metadata: Metadata) -> Allow | Deny:
        """The verdict on an RPC with this metadata."""
        if not self._conditional:
            return self._verdict
        present = {key for key, _ in metadata}
        return _add_rules(self._verdict, [rule for rule in self._rules if _holds(rule, present)])


def _holds(rule: Rule, present: set[str]) -> bool:
    if rule.verb is Verb.ADD_IF_ABSENT:
        return rule.key not in present
    return rule.verb is not Verb.SET_IF_PRESENT or rule.key in present


def _add_rules(verdict: Allow | Deny, rules: Iterable[Rule]) -> Allow | Deny:
    rules = tuple(rules)
    if not rules or isinstance(verdict, Deny):
        return verdict
    replaced = [rule.key for rule in rules if rule.verb in (Verb.SET, Verb.SET_IF_PRESENT)]
    added = tuple([(rule.key, rule.value) for rule in rules])
    return replace(verdict, add=added, remove=(*verdict.remove, *dict.fromkeys(replaced)))


def refuse(who: str, code: int, message: str, metadata: Metadata = (), details: bytes = b"", facts: Facts = ()) -> Deny:
    """The refusal of an RPC by a service; `who` names it where it gives no message."""
    reason = Reason.UNAUTHENTICATED if code == Code.UNAUTHENTICATED else Reason.FORBIDDEN
    return Deny(reason, message or f"{who} refuses the call", code, details, metadata, facts=facts)
