"""RE2 patterns over whole paths: linear time, so a pattern cannot be used to stall the gateway.

The one place that knows the `re2` package; the compiler checks patterns with it and the route table matches with it.
"""

from __future__ import annotations

import re2

from grpcgw.errors import GrpcgwError


class InvalidRegex(GrpcgwError):
    """The text is no RE2 pattern; the message says why."""


class PathRegex:
    """A compiled pattern that must match the whole path."""

    __slots__ = ("_regex",)

    def __init__(self, pattern: str) -> None:
        options = re2.Options()
        options.log_errors = False  # the operator gets the error as a problem, not on stderr
        try:
            self._regex = re2.compile(_encode(pattern), options)
        except re2.error as error:
            raise InvalidRegex(_reason(error)) from error

    def matches(self, path: str) -> bool:
        return self._regex.fullmatch(_encode(path)) is not None


def _encode(text: str) -> bytes:
    # A path from the wire may hold any byte; a lone surrogate must fail to match, not raise.
    return text.encode("utf-8", "surrogatepass")


def _reason(error: Exception) -> str:
    raw = error.args[0] if error.args else ""
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
