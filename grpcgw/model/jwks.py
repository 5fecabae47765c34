"""Reads a JWK Set (RFC 7517): keeps the public keys that can verify tokens, and of those only public members. Pure.

Secret keys (`oct`) are never taken: a set that anybody may read holds none, and no public key is mistaken for one.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from grpcgw.model.jwt import EC_ALGORITHMS, ED25519_ALGORITHMS, RSA_ALGORITHMS, PublicKey
from grpcgw.model.strict_json import parse_object

MAX_JWKS_BYTES = 512 * 1024
MAX_KEYS = 100
"""Of a set; issuers have one to ten."""
MAX_KID_CHARACTERS = 256
_RSA_BITS = range(2048, 8193)
"""At least 2048 by RFC 7518, 3.3; larger ones than 8192 take milliseconds for each token."""
_CURVES: Mapping[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}


class InvalidJwks(ValueError):
    """Why a text is no usable JWK Set; the text holds no part of it."""


def parse_jwks(data: bytes) -> tuple[PublicKey, ...]:
    """The keys that can verify a token; others are passed over. Raises InvalidJwks for what is no JWK Set, or has no
    such key."""
    if len(data) > MAX_JWKS_BYTES:
        raise InvalidJwks(f"it is larger than {MAX_JWKS_BYTES // 1024} KiB")
    try:
        given = parse_object(data).get("keys")
    except ValueError as error:
        raise InvalidJwks(str(error)) from None
    if not isinstance(given, list):
        raise InvalidJwks("it is no JWK Set: it has no array `keys`")
    if len(given) > MAX_KEYS:
        raise InvalidJwks(f"it has more than {MAX_KEYS} keys")
    keys, passed_over = [], []
    for index, one in enumerate(given):
        try:
            keys.append(_read_key(one))
        except ValueError as error:
            passed_over.append(f"key {index + 1}: {error}")
    if not keys:
        why = f" ({passed_over[0]})" if passed_over else ""
        raise InvalidJwks(f"it has no public key that verifies tokens{why}")
    return tuple(sorted(set(keys), key=lambda key: (key.kid, key.jwk)))


def write_jwks(keys: Iterable[PublicKey]) -> str:
    """As a JWK Set again, with nothing but what `parse_jwks` reads: equal sets have equal texts."""
    return f'{{"keys":[{",".join(key.jwk for key in keys)}]}}'


def _read_key(given: object) -> PublicKey:
    """Raises ValueError for a key that verifies no token."""
    if not isinstance(given, Mapping):
        raise ValueError("it is no JSON object")
    _check_use(given)
    read = _READERS.get(str(given.get("kty")))
    if read is None:
        raise ValueError("its type is none of RSA, EC and OKP")
    members, algorithms = read(given)
    only = given.get("alg")
    if only is not None and only not in algorithms:
        raise ValueError("its algorithm does not fit its type")
    kid = given.get("kid", "")
    if not isinstance(kid, str) or len(kid) > MAX_KID_CHARACTERS:
        raise ValueError("its kid is no text, or too long")
    named = {"kid": kid} if kid else {}
    allowed = algorithms if only is None else (str(only),)
    shown = {**members, **named, **({} if only is None else {"alg": only}), "kty": given["kty"]}
    return PublicKey(json.dumps(shown, sort_keys=True, separators=(",", ":")), allowed, kid)


def _check_use(given: Mapping[str, object]) -> None:
    """RFC 7517, 4.2 and 4.3."""
    if given.get("use", "sig") != "sig":
        raise ValueError("it is not for signatures (use)")
    operations = given.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise ValueError("it is not for verification (key_ops)")


_Read = tuple[dict[str, str], tuple[str, ...]]
"""The public members, and the algorithms."""


def _read_rsa(given: Mapping[str, object]) -> _Read:
    modulus, exponent = _read_number(given, "n"), _read_number(given, "e")
    if modulus.bit_length() not in _RSA_BITS:
        raise ValueError(f"it has {modulus.bit_length()} bits: {_RSA_BITS[0]} to {_RSA_BITS[-1]} are taken")
    if exponent.bit_length() > 64:
        raise ValueError("its exponent is too large")
    rsa.RSAPublicNumbers(exponent, modulus).public_key()
    return {"n": str(given["n"]), "e": str(given["e"])}, RSA_ALGORITHMS


def _read_ec(given: Mapping[str, object]) -> _Read:
    curve = given.get("crv")
    if not isinstance(curve, str) or curve not in _CURVES:
        raise ValueError("its curve is none of P-256, P-384 and P-521")
    ec.EllipticCurvePublicNumbers(_read_number(given, "x"), _read_number(given, "y"), _CURVES[curve]).public_key()
    return {"crv": curve, "x": str(given["x"]), "y": str(given["y"])}, (EC_ALGORITHMS[curve],)


def _read_okp(given: Mapping[str, object]) -> _Read:
    if given.get("crv") != "Ed25519":
        raise ValueError("its curve is not Ed25519")
    ed25519.Ed25519PublicKey.from_public_bytes(_read_bytes(given, "x"))
    return {"crv": "Ed25519", "x": str(given["x"])}, ED25519_ALGORITHMS


_READERS: Mapping[str, Callable[[Mapping[str, object]], _Read]] = {"RSA": _read_rsa, "EC": _read_ec, "OKP": _read_okp}


def _read_number(given: Mapping[str, object], member: str) -> int:
    return int.from_bytes(_read_bytes(given, member), "big")


def _read_bytes(given: Mapping[str, object], member: str) -> bytes:
    text = given.get(member)
    if not isinstance(text, str) or not text.isascii() or "=" in text:
        raise ValueError(f"its {member} is no base64url")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
