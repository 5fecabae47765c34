"""The policy `jwt`: whom it lets in, what it refuses and how, what it remembers, and what goes into metadata."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from grpcgw.model.codes import Code
from grpcgw.model.jwt import JwtSettings
from grpcgw.model.objects import ObjectKey
from grpcgw.policy.contract import Policy, PolicyRequest
from grpcgw.policy.jwt_policy import build_jwt
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Allow, Deny
from tests.jwts import ISSUER, NOW_S, Signer, claims, keys_of, make_signer

KEY = ObjectKey("Mapping", "default", "greet")
RSA = make_signer()
SETTINGS = JwtSettings(name="Filter jwt.default", keys=keys_of(RSA), realm="jwt.default")


def build(settings: JwtSettings = SETTINGS, services: PolicyServices | None = None) -> Policy:
    built = build_jwt(KEY, settings, services or PolicyServices())
    assert not isinstance(built, Deny)
    return built


def request_of(*metadata: tuple[str, str | bytes], at_s: float = NOW_S) -> PolicyRequest:
    request = Request("/greet.GrpcService/Greet", "gateway.example", metadata, None, Peer("192.0.2.7"), at_s)
    return PolicyRequest(request, KEY, metadata)


def check(token: str, settings: JwtSettings = SETTINGS, at_s: float = NOW_S, *more: tuple[str, str]) -> Allow | Deny:
    verdict = build(settings).check(request_of(("authorization", f"Bearer {token}"), *more, at_s=at_s))
    assert isinstance(verdict, Allow | Deny)
    return verdict


def assert_refused(verdict: Allow | Deny, word: str, code: int = Code.UNAUTHENTICATED) -> Deny:
    assert isinstance(verdict, Deny), verdict
    assert verdict.status().code == code
    assert word in verdict.message
    return verdict


def encode(part: object) -> str:
    data = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


# --- who is let in


@pytest.mark.parametrize(
    "algorithm",
    ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"],
)
def test_a_token_with_a_right_signature_passes_with_its_identity(algorithm: str) -> None:
    signer = Signer(
        "k", algorithm, make_signer("k", "RS256" if algorithm[1] == "S" and algorithm[0] in "RP" else algorithm).private
    )
    allowed = check(signer.sign(claims()), replace(SETTINGS, keys=keys_of(signer)))
    assert isinstance(allowed, Allow)
    assert allowed.facts == (("identity", "ann"), ("token-issuer", ISSUER))
    assert allowed.claims is not None
    assert allowed.claims["aud"] == "greet"
