"""Parser of Envoy's `%OPERATOR(argument):length%` command operators; a Grammar lists the operators of one use. Pure.

Used by the access log and by headers that a Mapping adds. The users evaluate the operators.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from grpcgw.errors import GrpcgwError


@dataclass(frozen=True, slots=True)
class Operator:
    """`%NAME(argument?alternative):max_length%`."""

    name: str
    argument: str = ""
    """The key in lower case of an operator with a key; else its argument: a style or a format."""
    alternative: str = ""
    """The key to use if the first is absent."""
    max_length: int | None = None


ABSENT = "-"
"""Name of an operator that only Envoy has a value for; its argument is its text in the configuration."""

Part = str | Operator
Line = tuple[Part, ...]


class InvalidOperator(GrpcgwError):
    """An operator is unknown or misused; the text says which, and what is valid."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The valid operators of one use."""

    plain: frozenset[str]
    """Without an argument."""
    keyed: frozenset[str]
    """With a key, and optionally an alternative: `REQ(x-a?x-b)`."""
    choosing: Mapping[str, tuple[str, ...]]
    """Operators with an optional argument and its choices, the default first; an empty tuple: any argument."""

    def names(self) -> list[str]:
        return sorted({*self.plain, *self.keyed, *self.choosing})


_ENVOYS = re.compile(
    r"(DOWNSTREAM|UPSTREAM|REQUEST|RESPONSE|TLS|CONNECTION|BYTES|PACKETS|DYNAMIC|CLUSTER|FILTER|QUERY|TRACE|STREAM)"
    r"_[A-Z0-9_]+|METADATA|REQUESTED_SERVER_NAME|HOSTNAME|ENVIRONMENT|LOCAL_REPLY_BODY|ACCESS_LOG_TYPE|EMIT_TIME"
    r"|START_TIME_LOCAL|EMIT_TIME_LOCAL|COMMON_DURATION|ROUNDTRIP_DURATION|VIRTUAL_CLUSTER_NAME|UNIQUE_ID|CUSTOM_FLAGS"
    r"|PATH|SPAN_ID|CEL|COALESCE|PER_REQUEST_STATE|GRPC_STATUS|GRPC_STATUS_NUMBER|ROUTE_NAME|DURATION|RESP|TRAILER",
    re.ASCII,
)
"""Envoy's operators in access logs or headers. Operators of the Grammar take precedence."""
_SAME = {"REQ_WITHOUT_QUERY": "REQ"}
"""No gRPC path has a query."""

_TOKEN = re.compile(r"%%|%([A-Z][A-Z0-9_]*)(?:\(([^()]*)\))?(?::([0-9]{1,6}))?%|[^%]+|%")
_KEYS = re.compile(r":?[0-9a-z_.-]+(\?:?[0-9a-z_.-]*)?", re.ASCII)


def parse_operators(text: str, grammar: Grammar) -> Line:
    """Literal text and operators in their order; `%%` is one `%`. Raises InvalidOperator."""
    parts: list[Part] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "%":
            raise InvalidOperator(f"the % at position {token.start()} begins no operator; write %% for a percent sign")
        parts.append(_parse_operator(token, grammar) if token[1] else token[0].replace("%%", "%"))
    return tuple(parts)


def absent_operators(line: Line) -> list[str]:
    """The operators without a value, as in the configuration."""
    return [part.argument for part in line if isinstance(part, Operator) and part.name == ABSENT]


def _parse_operator(token: re.Match[str], grammar: Grammar) -> Operator:
    name, argument = _SAME.get(token[1], token[1]), token[2] or ""
    max_length = int(token[3]) if token[3] else None
    if name in grammar.keyed:
        if not _KEYS.fullmatch(argument.lower()):
            raise InvalidOperator(f"{token[0]}: {name} needs a key, {name}(KEY)")
        key, _, alternative = argument.lower().partition("?")
        return Operator(name, key, alternative, max_length)
    if name in grammar.choosing:
        choices = grammar.choosing[name]
        if argument and choices and argument not in choices:
            raise InvalidOperator(f"{token[0]}: {name} takes {', '.join(choices)}")
        return Operator(name, argument or next(iter(choices), ""), max_length=max_length)
    if name not in grammar.plain and _ENVOYS.fullmatch(name):
        return Operator(ABSENT, token[0])
    if name not in grammar.plain:
        raise InvalidOperator(f"{token[0]} is not among the operators: {', '.join(grammar.names())}")
    if token[2] is not None:
        raise InvalidOperator(f"{token[0]}: {name} takes no argument")
    return Operator(name, max_length=max_length)
