"""RE2 patterns: linear time, so a pattern cannot be used to stall the gateway.

The one place that knows the `re2` package; the compiler checks patterns with it and the data plane matches with it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from itertools import takewhile
from typing import TypeVar

import re2

from grpcgw.errors import GrpcgwError

DEFAULT_MAX_SIZE = 200
"""Greatest program size of a pattern unless the Module's `regex_max_size` says otherwise; Ambassador's default."""

_LITERAL_BYTES = 200


_REMEMBERED, _REMEMBERED_LENGTH = 512, 256
"""Most cached texts and their greatest length: at most about 200 KB for each pattern."""

T = TypeVar("T")


class InvalidRegex(GrpcgwError):
    """The text is no valid RE2 pattern or too large; the message says why."""


class FullRegex:
    """A compiled pattern that must match the whole text."""

    __slots__ = ("_regex",)

    def __init__(self, pattern: str, case_sensitive: bool = True) -> None:
        """Raises InvalidRegex."""
        self._regex = _compile(pattern, case_sensitive)

    def matches(self, text: str) -> bool:
        return self._regex.fullmatch(_encode(text)) is not None

    def literal_prefix(self) -> str:
        """A common prefix of all matching texts; may be shorter than the longest one, or empty."""
        try:
            lowest, highest = self._regex.possiblematchrange(_LITERAL_BYTES)
        except re2.error:  # it begins with anything
            return ""
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lowest, highest, strict=False)))
        return bytes(lowest[:same]).decode("utf-8", "ignore")  # an incomplete character at the end is left out


class Replacement:
    """Replaces every match in a text. Source: Envoy's `regex_rewrite`, RE2's GlobalReplace."""

    __slots__ = ("_regex", "_substitution")

    def __init__(self, pattern: str, substitution: str) -> None:
        """`\\1` in `substitution` is what the first group matched, `\\0` the whole match. Raises InvalidRegex."""
        self._regex = _compile(pattern, case_sensitive=True)
        self._substitution = _parse_substitution(substitution, self._regex.groups)

    def apply(self, text: str) -> str:
        replaced: bytes = self._regex.sub(self._expand, _encode(text))
        return replaced.decode("utf-8", "replace")

    def _expand(self, match: re2._Match) -> bytes:
        return b"".join(part if isinstance(part, bytes) else match.group(part) or b"" for part in self._substitution)


def remember(ask: Callable[[str], T]) -> Callable[[str], T]:
    """`ask`, a pure function, with an LRU cache: RPCs repeat the same few texts."""
    known = lru_cache(_REMEMBERED)(ask)
    return lambda text: known(text) if len(text) <= _REMEMBERED_LENGTH else ask(text)


def check_regex(pattern: str, max_size: int = DEFAULT_MAX_SIZE) -> None:
    """Raises InvalidRegex for an invalid pattern, or if its program is larger than `max_size`."""
    size = _compile(pattern, case_sensitive=True).programsize
    if size > max_size:
        raise InvalidRegex(
            f"its program size is {size}, more than the {max_size} allowed; simplify it"
            " or raise regex_max_size in the Module"
        )


def _compile(pattern: str, case_sensitive: bool) -> re2._Regexp:
    options = re2.Options()
    options.log_errors = False  # the operator gets the error as a problem, not on stderr
    options.case_sensitive = case_sensitive
    try:
        return re2.compile(_encode(pattern), options)
    except re2.error as error:
        raise InvalidRegex(_reason(error)) from error


def _parse_substitution(text: str, groups: int) -> tuple[bytes | int, ...]:
    parts: list[bytes | int] = []
    rest = text
    while rest:
        plain, backslash, rest = rest.partition("\\")
        parts.append(_encode(plain))
        if not backslash:
            break
        escaped, rest = rest[:1], rest[1:]
        if escaped == "\\":
            parts.append(b"\\")
        elif escaped.isascii() and escaped.isdigit():
            if int(escaped) > groups:
                raise InvalidRegex(f"the substitution names group {escaped}, but the pattern has {groups}")
            parts.append(int(escaped))
        else:
            raise InvalidRegex(f"'\\{escaped}' in the substitution means nothing; write \\1 to \\9, or \\\\")
    return tuple(parts)


def _encode(text: str) -> bytes:
    # A path from the wire may hold any byte; a lone surrogate must fail to match, not raise.
    return text.encode("utf-8", "surrogatepass")


def _reason(error: Exception) -> str:
    raw = error.args[0] if error.args else ""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
