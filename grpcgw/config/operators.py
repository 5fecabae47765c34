"""Envoy's `%OPERATOR(argument):length%` in lines of text, read into values; which there are is each user's Grammar.

The access log and the headers a Mapping adds speak it. What an operator shows is decided where lines are made. Pure.
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
    """Of an operator that asks for a key: the key, in lower case. Else what the operator takes: a style, a format."""
    alternative: str = ""
    """The key to look at where the first is not there."""
    max_length: int | None = None


Part = str | Operator
Line = tuple[Part, ...]


class InvalidOperator(GrpcgwError):
    """An operator that is unknown or wrongly used; the text says which, and what would be right."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """The operators that can be used in one place."""

    plain: frozenset[str]
    """Without an argument."""
    keyed: frozenset[str]
    """With a key, and perhaps another to look at without it: `REQ(x-a?x-b)`."""
    choosing: Mapping[str, tuple[str, ...]]
    """Those that may have an argument, and which, the default first; of an empty tuple any."""

    def names(self) -> list[str]:
        return sorted({*self.plain, *self.keyed, *self.choosing})


_TOKEN = re.compile(r"%%|%([A-Z_]+)(?:\(([^()]*)\))?(?::([0-9]{1,6}))?%|[^%]+|%")
_KEYS = re.compile(r":?[0-9a-z_.-]+(\?:?[0-9a-z_.-]*)?", re.ASCII)


def parse_operators(text: str, grammar: Grammar) -> Line:
    """Literal text and operators in turn; `%%` is one `%`. Raises InvalidOperator."""
    parts: list[Part] = []
    for token in _TOKEN.finditer(text):
        if token[0] == "%":
            raise InvalidOperator(
                f"{text!r}: the % at position {token.start()} begins no operator; write %% for a percent sign"
            )
        parts.append(_parse_operator(token, grammar) if token[1] else token[0].replace("%%", "%"))
    return tuple(parts)


def _parse_operator(token: re.Match[str], grammar: Grammar) -> Operator:
    name, argument = token[1], token[2] or ""
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
    if name not in grammar.plain:
        raise InvalidOperator(f"{token[0]} is not among the operators: {', '.join(grammar.names())}")
    if token[2] is not None:
        raise InvalidOperator(f"{token[0]}: {name} takes no argument")
    return Operator(name, max_length=max_length)
