"""Checks the claims of a verified JWT against the settings (RFC 7519, 4.1; RFC 8693, 4.2 for scopes). Pure.

Checks that depend on the time are apart: a token that is remembered is checked again for those alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from grpcgw.model.jwt import JwtSettings, RequiredClaim, TimeRule

_YEAR_10000 = 253_402_300_800
"""Times beyond it are no seconds: milliseconds, say, by which a token would last for thousands of years."""

Claims = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TokenFault:
    """Why a token is refused, without a part of it."""

    message: str
    forbidden: bool = False
    """The token is good, and not for this: PERMISSION_DENIED. Else the caller is not known: UNAUTHENTICATED."""
    scope: str = ""
    """Scopes that are needed, for `insufficient_scope` (RFC 6750, 3.1)."""
    unknown_kid: str = ""
    """Of its key, which may be a new one of the issuer; empty: that is not why. Not in any message."""
    errors: int = 4
    """As templates of Edge Stack's Filters know it: a bit of jwt-go's ValidationError, 4 for any other fault."""


@dataclass(frozen=True, slots=True)
class Lifetime:
    """When a token may be used, in seconds since the epoch, with the leeways."""

    starts_s: float
    """By `nbf`."""
    issued_s: float
    """By `iat`."""
    ends_s: float
    """By `exp`: from this second on it has expired."""

    def find_fault(self, now_s: float) -> TokenFault | None:
        if now_s >= self.ends_s:
            return TokenFault("it has expired", errors=16)
        if now_s < self.starts_s:
            return TokenFault("it is not valid yet (nbf)", errors=128)
        return TokenFault("it was issued in the future (iat)", errors=32) if now_s < self.issued_s else None


def find_fault(claims: Claims, settings: JwtSettings) -> TokenFault | None:
    """The first fault that does not depend on the time; None: there is none."""
    return (
        _check_texts(claims)
        or _check_issuer(claims, settings)
        or _check_audience(claims, settings)
        or _check_required(claims, settings)
        or _check_scopes(claims, settings)
    )


def read_lifetime(claims: Claims, settings: JwtSettings) -> Lifetime | TokenFault:
    """A TokenFault for a time that is missing or none."""
    times = []
    for name, rule in (("nbf", settings.not_before), ("iat", settings.issued), ("exp", settings.expires)):
        time_s = _read_time(claims, name, rule)
        if isinstance(time_s, TokenFault):
            return time_s
        times.append((time_s, rule.leeway_s))
    (starts, early), (issued, ahead), (ends, late) = times
    return Lifetime(
        -math.inf if starts is None else starts - early,
        -math.inf if issued is None else issued - ahead,
        math.inf if ends is None else ends + late,
    )


def read_scopes(claims: Claims) -> frozenset[str]:
    """Of `scope` and `scp`: text with spaces, or an array of texts."""
    found: set[str] = set()
    for given in (claims.get("scope"), claims.get("scp")):
        if isinstance(given, str):
            found.update(given.split(" "))
        elif isinstance(given, list):
            found.update(one for one in given if isinstance(one, str))
    return frozenset(found - {""})


def _read_time(claims: Claims, name: str, rule: TimeRule) -> float | TokenFault | None:
    given = claims.get(name)
    if given is None:
        return TokenFault(f"it has no {name}") if rule.required else None
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < _YEAR_10000:
        return TokenFault(f"its {name} is no time in seconds")
    return given


def _check_texts(claims: Claims) -> TokenFault | None:
    for name in ("iss", "sub", "jti"):
        if not isinstance(claims.get(name, ""), str):
            return TokenFault(f"its {name} is no text")
    return None


def _check_issuer(claims: Claims, settings: JwtSettings) -> TokenFault | None:
    issuer = claims.get("iss")
    if issuer is None:
        return TokenFault("it has no issuer (iss)") if settings.issuer_required else None
    is_other = settings.issuers and issuer not in settings.issuers
    return TokenFault("its issuer is not accepted", errors=64) if is_other else None


def _check_audience(claims: Claims, settings: JwtSettings) -> TokenFault | None:
    given = claims.get("aud")
    if given is None:
        return TokenFault("it has no audience (aud)", forbidden=True) if settings.audience_required else None
    audiences = [given] if isinstance(given, str) else given
    if not isinstance(audiences, list) or not all(isinstance(one, str) for one in audiences):
        return TokenFault("its audience (aud) is neither text nor an array of texts")
    if settings.audiences and not any(one in settings.audiences for one in audiences):
        return TokenFault("it is for another audience", forbidden=True, errors=8)
    return None


def _check_required(claims: Claims, settings: JwtSettings) -> TokenFault | None:
    for required in settings.required_claims:
        if not _holds(required, find_claim(claims, required.name)):
            return TokenFault(f"its claim {required.name} is not what is needed", forbidden=True)
    return None


def _check_scopes(claims: Claims, settings: JwtSettings) -> TokenFault | None:
    if not settings.scopes or read_scopes(claims).issuperset(settings.scopes):
        return None
    needed = " ".join(settings.scopes)
    return TokenFault(f"it lacks a scope; needed: {needed}", forbidden=True, scope=needed)


def find_claim(claims: Claims, name: str) -> object:
    """The claim with this name, or the one that its dots lead to; None: there is none."""
    if name in claims:
        return claims[name]
    found: object = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _holds(required: RequiredClaim, given: object) -> bool:
    if not required.values:
        return given is not None
    elements = given if isinstance(given, list) else [given]
    return any(write_claim(one) in required.values for one in elements)


def write_claim(value: object) -> str | None:
    """A claim as text; None for one that is no text, number or truth value."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else None
