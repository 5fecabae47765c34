"""Globs of FilterPolicies, for hosts and paths: `*`, `?`, `[a-z]`, `[!a-z]`, `{one,other}`; `\\` takes a meaning away.

`*` stands for any characters, also `/` and `.`; so does `**`. Source: Edge Stack's FilterPolicy, whose globs have no
separators.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from grpcgw.errors import GrpcgwError
from grpcgw.model.regex import FullRegex, InvalidRegex, remember

ANYTHING = "*"
_SPECIAL = re.compile(r"[*?\[\]{}\\]")
_MOST_BRACES = 50
"""`{` in a glob: each may be inside another."""
_ANY_TEXT, _ANY_CHARACTER = "(?s:.*)", "(?s:.)"


class InvalidGlob(GrpcgwError):
    """The text is no glob; the message says why."""


def compile_glob(glob: str, ignore_case: bool = False) -> Callable[[str], bool]:
    """A predicate of whole texts, which remembers those it had to work out. Raises InvalidGlob."""
    if glob == ANYTHING:
        return lambda text: True
    literal = glob.removesuffix("*")
    if ignore_case or _SPECIAL.search(literal):
        return remember(_compile_regex(glob, ignore_case).matches)
    if literal != glob:
        return lambda text: text.startswith(literal)
    return glob.__eq__


def _compile_regex(glob: str, ignore_case: bool) -> FullRegex:
    try:
        return FullRegex(_Translation(glob).run(), case_sensitive=not ignore_case)
    except InvalidRegex as error:
        raise InvalidGlob(f"{glob!r} is no glob that can be used: {error}") from error


class _Translation:
    """Of one glob to RE2."""

    def __init__(self, glob: str) -> None:
        self._glob, self._at = glob, 0

    def run(self) -> str:
        if self._glob.count("{") > _MOST_BRACES:
            raise InvalidGlob(f"a glob with more than {_MOST_BRACES} '{{' is no glob that can be used")
        pattern = self._sequence("")
        if self._at < len(self._glob):
            raise self._error(f"{self._glob[self._at]!r} has no counterpart")
        return pattern

    def _sequence(self, ends: str) -> str:
        """Up to the end, or to one of the characters `ends`."""
        parts: list[str] = []
        while self._at < len(self._glob) and self._glob[self._at] not in ends + "]}":
            parts.append(self._one())
        return "".join(parts)

    def _one(self) -> str:
        character = self._next()
        match character:
            case "*":
                return _ANY_TEXT
            case "?":
                return _ANY_CHARACTER
            case "\\":
                return re.escape(self._next())
            case "[":
                return self._characters()
            case "{":
                return self._alternatives()
            case _:
                return re.escape(character)

    def _characters(self) -> str:
        """`[abc]`, `[a-z]`, and either with `!`, after the bracket."""
        end = self._glob.find("]", self._at)
        inside = self._glob[self._at : end]
        negated = inside.startswith("!")
        members = inside.removeprefix("!")
        if end < 0 or not members:
            raise self._error("'[' begins a list of characters, which ends with ']'")
        self._at = end + 1
        middle = "-" if len(members) == 3 and members[1] == "-" else ""
        escaped = f"{re.escape(members[0])}-{re.escape(members[2])}" if middle else re.escape(members)
        return f"[{'^' if negated else ''}{escaped}]"

    def _alternatives(self) -> str:
        found = [self._sequence(",")]
        while (character := self._next()) == ",":
            found.append(self._sequence(","))
        if character != "}":
            raise self._error(f"{character!r} has no counterpart")
        return f"(?:{'|'.join(found)})"

    def _next(self) -> str:
        if self._at == len(self._glob):
            raise self._error("it ends too early")
        self._at += 1
        return self._glob[self._at - 1]

    def _error(self, why: str) -> InvalidGlob:
        return InvalidGlob(f"{self._glob!r} is no glob that can be used: {why}")
