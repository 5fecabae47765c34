"""Keys, tokens and JWKS for tests of JWTs."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from joserfc import jws
from joserfc.jwk import ECKey, Key, OKPKey, RSAKey

from grpcgw.model.jwks import parse_jwks
from grpcgw.model.jwt import PublicKey

NOW_S = 1_800_000_000.0
ISSUER = "https://issuer.example"


@dataclass(frozen=True)
class Signer:
    """A key pair of an issuer."""

    kid: str
    algorithm: str
    private: Key

    @property
    def public(self) -> dict[str, object]:
        members = {**self.private.as_dict(private=False), "use": "sig"}
        return {**members, "kid": self.kid} if self.kid else members

    def key(self, **members: object) -> PublicKey:
        return keys_of(self, **members)[0]

    def sign(self, claims: Mapping[str, object] | bytes, **header: object) -> str:
        """`header`: more parameters, or others (None: without it)."""
        head = {"alg": self.algorithm, "typ": "JWT", **({"kid": self.kid} if self.kid else {}), **header}
        head = {name: value for name, value in head.items() if value is not None}
        payload = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        signed = f"{encode(json.dumps(head).encode())}.{encode(payload)}"
        signature = jws.JWSRegistry.algorithms[self.algorithm].sign(signed.encode(), self.private)
        return f"{signed}.{encode(signature)}"


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


@cache
def make_signer(kid: str = "first", algorithm: str = "RS256") -> Signer:
    """The same for the same arguments: keys take time to make."""
    if algorithm.startswith("ES"):
        return Signer(
            kid, algorithm, ECKey.generate_key({"256": "P-256", "384": "P-384", "512": "P-521"}[algorithm[2:]])
        )
    if algorithm.startswith("Ed"):
        return Signer(kid, algorithm, OKPKey.generate_key("Ed25519"))
    return Signer(kid, algorithm, RSAKey.generate_key(2048))


def write_jwks(*signers: Signer, **members: object) -> bytes:
    return json.dumps({"keys": [{**one.public, **members} for one in signers]}).encode()


def keys_of(*signers: Signer, **members: object) -> tuple[PublicKey, ...]:
    return parse_jwks(write_jwks(*signers, **members))


def claims(**more: object) -> dict[str, object]:
    """Of a token that lasts for an hour from `NOW_S` on; None leaves a claim out."""
    made: dict[str, object] = {
        "iss": ISSUER,
        "sub": "ann",
        "aud": "greet",
        "iat": NOW_S - 1,
        "exp": NOW_S + 3600,
        **more,
    }
    return {name: value for name, value in made.items() if value is not None}
