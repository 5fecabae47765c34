"""JWK Sets: which keys are taken, with nothing but their public members, and which sets are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.model.jwks import MAX_JWKS_BYTES, MAX_KEYS, InvalidJwks, parse_jwks, write_jwks
from grpcgw.model.jwt import RSA_ALGORITHMS
from tests.jwts import make_signer
from tests.jwts import write_jwks as write_signers

RSA, EC, ED = make_signer(), make_signer("ec", "ES256"), make_signer("ed", "EdDSA")


def parse_one(jwk: Mapping[str, object]) -> None:
    parse_jwks(json.dumps({"keys": [jwk]}).encode())


def test_each_type_of_key_has_its_algorithms() -> None:
    keys = {key.kid: key.algorithms for key in parse_jwks(write_signers(RSA, EC, ED))}
    assert keys == {"first": RSA_ALGORITHMS, "ec": ("ES256",), "ed": ("EdDSA", "Ed25519")}


def test_alg_of_a_key_leaves_it_that_one() -> None:
    (key,) = parse_jwks(write_signers(RSA, alg="PS384"))
    assert key.algorithms == ("PS384",)


def test_nothing_of_a_private_key_is_kept() -> None:
    private = {**RSA.private.as_dict(private=True), "kid": "first", "use": "sig", "x5c": ["MII"], "more": "x"}
    (key,) = parse_jwks(json.dumps({"keys": [private]}).encode())
    assert set(json.loads(key.jwk)) == {"kty", "n", "e", "kid"}
    assert key == RSA.key()


def test_equal_sets_have_equal_texts_in_any_order() -> None:
    one, other = parse_jwks(write_signers(RSA, EC)), parse_jwks(write_signers(EC, RSA, EC))
    assert one == other
    assert parse_jwks(write_jwks(one).encode()) == one


@pytest.mark.parametrize(
    ("given_jwk", "word"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "type"),
        ({"kty": ["RSA"]}, "type"),
        ({}, "type"),
        ({**RSA.public, "use": "enc"}, "use"),
        ({**RSA.public, "key_ops": ["sign"]}, "key_ops"),
        ({**RSA.public, "key_ops": "verify"}, "key_ops"),
        ({**RSA.public, "alg": "HS256"}, "algorithm"),
        ({**RSA.public, "alg": "none"}, "algorithm"),
        ({**RSA.public, "alg": 7}, "algorithm"),
        ({**EC.public, "alg": "ES384"}, "algorithm"),
        ({**RSA.public, "kid": 1}, "kid"),
        ({**RSA.public, "kid": "x" * 257}, "kid"),
        ({**RSA.public, "n": "AQAB"}, "bits"),
        ({**RSA.public, "n": "_" * 4000}, "bits"),
        ({**RSA.public, "e": "_" * 40}, "exponent"),
        ({**RSA.public, "e": "AA"}, "."),
        ({**RSA.public, "n": f"{RSA.public['n']}=="}, "base64url"),
        ({**RSA.public, "n": None}, "base64url"),
        ({**RSA.public, "n": str(RSA.public["n"])[:170]}, "1016 bits"),
        ({**EC.public, "crv": "secp256k1"}, "curve"),
        ({**EC.public, "y": EC.public["x"]}, "."),
        ({**EC.public, "crv": "P-384"}, "."),
        ({**ED.public, "crv": "X25519"}, "curve"),
        ({**ED.public, "x": "AAAA"}, "."),
    ],
)  # fmt: skip
def test_keys_that_verify_no_token_are_passed_over(given_jwk: dict[str, object], word: str) -> None:
    with pytest.raises(InvalidJwks, match=word):
        parse_one(given_jwk)
    both = json.dumps({"keys": [given_jwk, EC.public]}).encode()
    assert [key.kid for key in parse_jwks(both)] == ["ec"]


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"[]", "no JSON object"),
        (b"{}", "array"),
        (b'{"keys": {}}', "array"),
        (b'{"keys": []}', "no public key"),
        (b'{"keys": [7]}', "no JSON object"),
        (b'{"keys": [], "keys": []}', "twice"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "."),
        (b" " * (MAX_JWKS_BYTES + 1), "larger"),
        (json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(), "more than"),
    ],
)
def test_what_is_no_key_set_is_refused(data: bytes, word: str) -> None:
    with pytest.raises(InvalidJwks, match=word):
        parse_jwks(data)


_VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=50) | st.lists(st.text(max_size=5), max_size=2)
_MEMBERS = st.sampled_from(["kty", "n", "e", "crv", "x", "y", "use", "key_ops", "alg", "kid"])


@given(st.sampled_from([RSA, EC, ED]), st.dictionaries(_MEMBERS, _VALUES, max_size=3))
def test_any_members_make_a_key_or_an_error(signer: object, members: dict[str, object]) -> None:
    assert isinstance(signer, type(RSA))
    try:
        parse_one({**signer.public, **members})
    except InvalidJwks:
        return
