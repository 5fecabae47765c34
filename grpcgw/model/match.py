"""Match rules of a Route: path, host and metadata."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MatchKind(StrEnum):
    PREFIX = "prefix"
    EXACT = "exact"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: MatchKind
    value: str
    """The prefix, the whole path, or an RE2 pattern that must match the whole path."""


class HostKind(StrEnum):
    EXACT = "exact"
    SUFFIX = "suffix"
    """`*.example.com`: `value` is `.example.com`."""
    PREFIX = "prefix"
    """`example.*`: `value` is `example.`."""
    REGEX = "regex"
    """RE2 over the whole name, whatever its case."""


@dataclass(frozen=True, slots=True)
class HostMatch:
    """Matches `:authority` in lower case, with its port or without. `*` is no HostMatch.

    A name without a port (`greet.example.com`) matches any port, one with a port (`greet.example.com:8443`) only that.
    A glob's `*` stands for at least one character.
    """

    kind: HostKind
    value: str
    """Lower case, except a regex."""

    def __str__(self) -> str:
        """As in the configuration."""
        return {HostKind.SUFFIX: "*" + self.value, HostKind.PREFIX: self.value + "*"}.get(self.kind, self.value)


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """One condition on a request's metadata. Neither `exact` nor `regex`: the key must be present.

    Several values of one key are joined by "," before they are compared; those of a `-bin` key are compared in base64
    without padding, as they travel. See CONSTANT_HEADERS for the keys that are not in metadata.
    """

    name: str
    """Lower case."""
    exact: str | None = None
    regex: str | None = None
    """RE2 over the whole value."""


CONSTANT_HEADERS = {":method": "POST", "content-type": "application/grpc", "te": "trailers"}
"""Headers of every gRPC call that grpc core does not pass on: conditions on them hold for all calls or for none."""
