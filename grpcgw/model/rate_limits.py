"""Settings of rate and concurrency limits: of RateLimits, and of Mappings themselves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from grpcgw.model.header_template import HeaderTemplate
from grpcgw.model.labels import LabelGroup
from grpcgw.model.route import PolicySettings


class Unit(StrEnum):
    SECOND = "second"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return _SECONDS[self]


_SECONDS = {Unit.SECOND: 1, Unit.MINUTE: 60, Unit.HOUR: 3600, Unit.DAY: 86_400}


@dataclass(frozen=True, slots=True)
class Rate:
    """How many RPCs are allowed. Enforced by a bucket that refills all the time (`policy.limits.token_bucket`)."""

    amount: int
    """RPCs per unit; 0: none at all."""
    unit: Unit
    burst: int | None = None
    """Size of the bucket: so many RPCs may come at once after a pause. None: `amount`, and the unit that begins with
    the first RPC after a pause allows no more than `amount`."""

    @property
    def per_s(self) -> float:
        return self.amount / self.unit.seconds

    def __str__(self) -> str:
        return f"{self.amount} per {self.unit}"


PatternItem = tuple[tuple[str, str], ...]
"""Labels of which one must match, by key and value; the value is empty where any matches."""


@dataclass(frozen=True, slots=True)
class LabelLimit:
    """A limit on the RPCs whose descriptor begins with a pattern. Each combination of matched labels counts apart."""

    name: str
    """For messages and logs; also identifies its counters, which a reload keeps."""
    pattern: tuple[PatternItem, ...]
    rate: Rate
    log_only: bool = False
    """An RPC above the limit is allowed, and the fact `rate-limit` names the limit."""
    request_headers: tuple[HeaderTemplate, ...] = ()
    """Added to the request of an RPC that is counted and allowed (`injectRequestHeaders`)."""
    response_headers: tuple[HeaderTemplate, ...] = ()
    """Added to the answer of an RPC that is counted, allowed or not (`injectResponseHeaders`)."""
    refusal_headers: tuple[HeaderTemplate, ...] = ()
    """Trailers of a refusal (`errorResponse.headers`)."""
    refusal_body: str = ""
    """Go template of a refusal's `grpc-message` (`errorResponse.bodyTemplate`); empty: the gateway's own."""

    @property
    def names_its_values(self) -> bool:
        """Whether the pattern has all values of the labels that it matches: then no client can make up new keys."""
        return all(value for item in self.pattern for _, value in item)

    @property
    def has_headers(self) -> bool:
        """Whether the answer of a counted RPC, or its request, gets any."""
        return bool(self.request_headers or self.response_headers)


@dataclass(frozen=True, slots=True)
class DomainLimits:
    """All limits of a domain, for the gateway's own rate limit service."""

    domain: str
    limits: tuple[LabelLimit, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitSettings(PolicySettings):
    """Rate limits of a Mapping: an RPC is refused where one of its descriptors exceeds its limit."""

    kind: ClassVar[str] = "rate-limit"
    domain: str
    groups: tuple[LabelGroup, ...]
    limits: tuple[LabelLimit, ...]
    """For each descriptor the one with the longest pattern counts, of several the one that names
    values, then the first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyLimitSettings(PolicySettings):
    """How many RPCs of a Mapping may run at one time, over all workers of the gateway."""

    kind: ClassVar[str] = "concurrency-limit"
    most: int
