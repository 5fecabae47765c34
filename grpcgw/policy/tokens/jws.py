"""Verifies the signature of a compact JWS (RFC 7515) with public keys. Pure.

joserfc imports keys and verifies signatures. What it lets pass, and what is settled before a key is chosen, is checked
here: padding and other spellings of base64url, JSON with a name twice, `crit` (no extension is understood), `alg` and
`kid`. Keys that a token carries or points to (`jwk`, `jku`, `x5c`, `x5u`) are never used.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key

from grpcgw.model.jwks import MAX_KID_CHARACTERS
from grpcgw.model.jwt import PublicKey
from grpcgw.model.strict_json import parse_object

MAX_TOKEN_CHARACTERS = 16 * 1024
"""Two to four times the largest tokens with groups that identity providers issue."""
MAX_KEYS_TRIED = 4
"""For a token without `kid`, or with one that several keys have: each costs a verification."""

jws.JWSRegistry.algorithms["EdDSA"].security_warning = None  # it has a newer name (RFC 9864); issuers use the older one

_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+")


class InvalidToken(Exception):
    """Why a token is refused; the text holds no part of it."""


class UnknownKey(InvalidToken):
    """None of the keys has the token's `kid`: the issuer may have a new one."""

    def __init__(self, kid: str, claims: Mapping[str, object]) -> None:
        """`claims`: what the token says, which nobody has verified."""
        super().__init__("its key (kid) is unknown")
        self.kid, self.claims = kid, claims


@dataclass(frozen=True, slots=True)
class Verified:
    """A token whose signature is right. Its claims are not checked yet."""

    header: Mapping[str, object]
    claims: Mapping[str, object]
    key: PublicKey
    """The key that verified it."""


class _Registry(jws.JWSRegistry):
    """joserfc's checks of a header, with private parameters allowed (RFC 7515, 4.3: they are ignored)."""

    max_header_length = max_payload_length = MAX_TOKEN_CHARACTERS

    def __init__(self, algorithm: str) -> None:
        super().__init__(algorithms=[algorithm], strict_check_header=False)


def verify(token: str, keys: Sequence[PublicKey], algorithms: Sequence[str]) -> Verified:
    """Raises InvalidToken unless one of `keys` signed `token` with one of `algorithms`."""
    header, payload = _read(token)
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise InvalidToken("its algorithm is not accepted")
    registry = _Registry(algorithm)
    named = _find_named(header, keys)
    if not named:
        raise UnknownKey(str(header.get("kid", "")), _parse(payload, "claims"))
    for key in _choose_keys(named, header, algorithm):
        if _has_signed(token, key, registry):
            return Verified(header, _parse(payload, "claims"), key)
    raise InvalidToken("its signature is wrong")


def _read(token: str) -> tuple[dict[str, object], bytes]:
    """The header, and the claims before they are parsed."""
    if len(token) > MAX_TOKEN_CHARACTERS:
        raise InvalidToken(f"it is longer than {MAX_TOKEN_CHARACTERS} characters")
    if not _COMPACT.fullmatch(token):
        raise InvalidToken("it is no JWT: three parts in base64url, with dots between them")
    header, payload, _ = (_decode(part) for part in token.split("."))
    parsed = _parse(header, "header")
    if "crit" in parsed:
        raise InvalidToken("its header demands an extension (crit)")
    return parsed, payload


def _decode(part: str) -> bytes:
    """Only the one spelling that an encoder writes, so that a token has one form."""
    try:
        decoded = urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        decoded = b""
    if urlsafe_b64encode(decoded).rstrip(b"=") != part.encode():
        raise InvalidToken("a part is no base64url")
    return decoded


def _parse(data: bytes, part: str) -> dict[str, object]:
    try:
        return parse_object(data)
    except ValueError as error:
        raise InvalidToken(f"{part}: {error}") from None


def _find_named(header: Mapping[str, object], keys: Sequence[PublicKey]) -> list[PublicKey]:
    """The keys that may have signed it by `kid`, if both have one."""
    kid = header.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise InvalidToken("its kid is no text")
    if kid is not None and len(kid) > MAX_KID_CHARACTERS:
        raise InvalidToken("its kid is too long")
    return [key for key in keys if not kid or not key.kid or key.kid == kid]


def _choose_keys(named: Sequence[PublicKey], header: Mapping[str, object], algorithm: str) -> list[PublicKey]:
    """Those of the algorithm, the most likely first."""
    fitting = [key for key in named if algorithm in key.algorithms]
    if not fitting:
        raise InvalidToken("its key is for another algorithm")
    fitting.sort(key=lambda key: key.kid != header.get("kid"))
    return fitting[:MAX_KEYS_TRIED]


def _has_signed(token: str, key: PublicKey, registry: _Registry) -> bool:
    try:
        jws.deserialize_compact(token, import_key(key.jwk), registry=registry)
    except (JoseError, ValueError):
        return False
    return True


@lru_cache(maxsize=1024)
def import_key(jwk: str) -> Key:
    """The key of a `PublicKey.jwk`. Raises ValueError or JoseError for one that is no key."""
    return JWKRegistry.import_key(parse_object(jwk.encode()))  # type: ignore[arg-type]  # checked by joserfc
