"""From a Secret to a checked certificate and key, as PEM.

Private keys pass through here and are never part of a message.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from grpcgw.config.objects import KubeObject
from grpcgw.errors import GrpcgwError

_CHAIN, _KEY, _AUTHORITIES = "tls.crt", "tls.key", "ca.crt"
_LEAST_RSA_BITS = 1024
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}


class InvalidSecret(GrpcgwError):
    """The Secret holds no usable certificate; the message says why, without a word of its content."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A checked certificate chain (leaf first) and its private key, as PEM."""

    chain: bytes
    private_key: bytes = field(repr=False)
    expires_at: datetime
    """Of the leaf, with time zone UTC."""


def read_key_pair(secret: KubeObject) -> KeyPair:
    """The certificate of a `kubernetes.io/tls` Secret (`data` in base64 or `stringData`).

    Raises InvalidSecret where a part is missing, is no PEM, or key and certificate do not belong together.
    """
    chain, private_key = _read_entry(secret, _CHAIN), _read_entry(secret, _KEY)
    try:
        leaf = x509.load_pem_x509_certificates(chain)[0]
        public = leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSecret(f"{_CHAIN} is no PEM certificate") from error
    try:
        key = load_pem_private_key(private_key, password=None)
    except TypeError as error:
        raise InvalidSecret(f"{_KEY} is encrypted; store it without a password") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidSecret(f"{_KEY} is no PEM private key") from error
    if not _is_usable(key):
        raise InvalidSecret(f"{_KEY} is of a kind that grpc cannot serve; use RSA of 2048 bits, EC P-256 or Ed25519")
    if key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != public:
        raise InvalidSecret(f"{_KEY} does not belong to the certificate in {_CHAIN}")
    return KeyPair(chain, private_key, leaf.not_valid_after_utc)


def _is_usable(key: PrivateKeyTypes) -> bool:
    """Whether grpc core's BoringSSL can serve it: with another the whole port would stay shut."""
    if isinstance(key, RSAPrivateKey):
        return key.key_size >= _LEAST_RSA_BITS
    if isinstance(key, EllipticCurvePrivateKey):
        return key.curve.name in _CURVES
    return isinstance(key, Ed25519PrivateKey)


def read_authorities(secret: KubeObject) -> bytes:
    """The certificates of authorities, as PEM: `ca.crt`, or else `tls.crt`, which is what Ambassador reads.

    Raises InvalidSecret.
    """
    name = _AUTHORITIES if _has_entry(secret, _AUTHORITIES) else _CHAIN
    authorities = _read_entry(secret, name)
    try:
        x509.load_pem_x509_certificates(authorities)
    except ValueError as error:
        raise InvalidSecret(f"{name} is no PEM certificate") from error
    return authorities


def _has_entry(secret: KubeObject, name: str) -> bool:
    return any(_entry(secret, section, name) is not None for section in ("stringData", "data"))


def _read_entry(secret: KubeObject, name: str) -> bytes:
    plain, encoded = _entry(secret, "stringData", name), _entry(secret, "data", name)
    if plain is not None:  # as the API server does: stringData wins
        return plain.encode()
    if encoded is None:
        raise InvalidSecret(f"it has no {name}")
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidSecret(f"data of {name} is no base64") from error


def _entry(secret: KubeObject, section: str, name: str) -> str | None:
    entries = secret.body.get(section)
    value = entries.get(name) if isinstance(entries, Mapping) else None
    return value if isinstance(value, str) else None
