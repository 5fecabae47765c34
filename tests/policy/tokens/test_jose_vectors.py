"""The examples of the JOSE standards: RFC 7515, appendix A (signatures), RFC 8037, appendix A.4 (Ed25519)."""

from __future__ import annotations

import json

import pytest

from grpcgw.model.jwks import parse_jwks
from grpcgw.model.jwt import ALGORITHMS, PublicKey
from grpcgw.policy.tokens.jws import InvalidToken, verify

CLAIMS = {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
_PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
HMAC = f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{_PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
NONE = f"eyJhbGciOiJub25lIn0.{_PAYLOAD}."
RS256_KEY = {
    "kty": "RSA",
    "e": "AQAB",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZ"
    "S-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2Cap"
    "Hg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4F"
    "RWyuXpoQ",
}
RS256 = (
    f"eyJhbGciOiJSUzI1NiJ9.{_PAYLOAD}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1"
    "dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzD"
    "wusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe7"
    "7Rw"
)
ES256_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ES256 = (
    f"eyJhbGciOiJFUzI1NiJ9.{_PAYLOAD}."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
ES512_KEY = {
    "kty": "EC",
    "crv": "P-521",
    "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
}
ES512 = (
    "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA."
    "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPE"
    "X3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn"
)
ED25519_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
ED25519 = (
    "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
    "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
)


def keys(*jwks: dict[str, str]) -> tuple[PublicKey, ...]:
    return parse_jwks(json.dumps({"keys": jwks}).encode())


ALL = keys(RS256_KEY, ES256_KEY, ES512_KEY, ED25519_KEY)


def change(token: str) -> str:
    """The token with another signature: its first character differs."""
    signed, _, signature = token.rpartition(".")
    return f"{signed}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"


@pytest.mark.parametrize("token", [RS256, ES256])
def test_examples_with_claims_are_verified(token: str) -> None:
    assert verify(token, ALL, ALGORITHMS).claims == CLAIMS
    with pytest.raises(InvalidToken, match="signature"):
        verify(change(token), ALL, ALGORITHMS)


@pytest.mark.parametrize("token", [ES512, ED25519])
def test_examples_whose_payload_is_text_are_verified_and_have_no_claims(token: str) -> None:
    with pytest.raises(InvalidToken, match="claims: it is no JSON"):
        verify(token, ALL, ALGORITHMS)
    with pytest.raises(InvalidToken, match="signature"):
        verify(change(token), ALL, ALGORITHMS)


@pytest.mark.parametrize("token", [HMAC, NONE])
def test_examples_that_need_no_public_key_are_refused(token: str) -> None:
    with pytest.raises(InvalidToken):
        verify(token, ALL, ALGORITHMS)


def test_a_signature_in_der_is_refused() -> None:
    """ECDSA in JOSE is two numbers of fixed length (RFC 7518, 3.4)."""
    signed, _, _ = ES256.rpartition(".")
    der = "MEQCIA7RIVN5Y2xIPC9_FVgH1AKjsigDOvl8fheBmsMWnqZlAiAFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    with pytest.raises(InvalidToken, match="signature"):
        verify(f"{signed}.{der}", ALL, ALGORITHMS)


@pytest.mark.parametrize("signature", ["A" * 86, "A" * 43 + "E" + "A" * 42, "_" * 85 + "w"])
def test_signatures_of_zeros_and_beyond_the_curve_are_refused(signature: str) -> None:
    """CVE-2022-21449: r = s = 0 verified anything."""
    signed, _, _ = ES256.rpartition(".")
    with pytest.raises(InvalidToken):
        verify(f"{signed}.{signature}", ALL, ALGORITHMS)
