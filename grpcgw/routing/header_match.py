"""Header matching: tests the HeaderMatches of a Route on the metadata of an RPC. Pure."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence

from grpcgw.model.match import CONSTANT_HEADERS, HeaderMatch
from grpcgw.model.metadata import Metadata
from grpcgw.model.regex import FullRegex, remember

Values = Mapping[str, str | bytes]
"""The metadata of one RPC by key."""


def join_values(metadata: Metadata) -> Values:
    """Several values of a key are joined as Envoy does."""
    values = dict(metadata)
    return values if len(values) == len(metadata) else _join(metadata)


def _join(metadata: Metadata) -> Values:
    joined: dict[str, str] = {}
    for key, value in metadata:
        text = as_text(value)
        joined[key] = f"{joined[key]},{text}" if key in joined else text
    return joined


def as_text(value: str | bytes) -> str:
    return value if isinstance(value, str) else b64encode(value).decode("ascii").rstrip("=")


class Condition:
    """One HeaderMatch, compiled."""

    __slots__ = ("_matches", "exact", "name")

    def __init__(self, match: HeaderMatch) -> None:
        self.name = match.name
        self.exact = match.exact
        if match.exact is not None and match.name.endswith("-bin"):
            self.exact = match.exact.rstrip("=")
        self._matches = None if match.regex is None else remember(FullRegex(match.regex).matches)

    def holds(self, values: Values) -> bool:
        value = values.get(self.name)
        if value is None:
            return False
        if not isinstance(value, str):
            value = as_text(value)
        matches = self._matches
        return matches(value) if matches is not None else self.exact is None or value == self.exact


def bind(headers: Sequence[HeaderMatch]) -> tuple[Condition, ...] | None:
    """Compile the conditions that depend on the RPC; None: one of them holds for no gRPC call.

    Raises InvalidRegex. A condition that a key is present is dropped where another one compares its value.
    """
    of_values = {match.name for match in headers if match.exact is not None or match.regex is not None}
    conditions = []
    for match in headers:
        if match.exact is None and match.regex is None and match.name in of_values:
            continue
        condition = Condition(match)
        if match.name not in CONSTANT_HEADERS:
            conditions.append(condition)
        elif not condition.holds(CONSTANT_HEADERS):
            return None
    return tuple(conditions)
