"""Reads certificates, private keys, CA certificates and revocation lists from Secrets or files, and checks them.

Private keys pass through here: no message contains a key or any other content.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from grpcgw.ambassador.compile.secret_entries import InvalidSecret, decode_entry, find_entry
from grpcgw.model.certificate_objects import CERTIFICATE_FILES, list_paths
from grpcgw.model.jwks import InvalidJwks, parse_jwks
from grpcgw.model.jwt import PublicKey
from grpcgw.model.objects import KubeObject

_CHAIN, _KEY, _AUTHORITIES, _REVOCATIONS = "tls.crt", "tls.key", "ca.crt", "crl.pem"
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_LEAST_RSA_BITS = 2048
"""As Envoy requires; OpenSSL too refuses shorter keys."""
_CURVES = {"secp256r1", "secp384r1", "secp521r1"}


class InvalidCertificate(InvalidSecret):
    """A certificate cannot be used; the message says why, without any content."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A checked certificate chain (leaf first) and its private key, as PEM."""

    chain: bytes
    """Certificates only; other PEM blocks are dropped."""
    private_key: bytes = field(repr=False)
    expires_at: datetime
    """Of the leaf, with time zone UTC."""


def read_key_pair(obj: KubeObject) -> KeyPair:
    """The certificate of a `kubernetes.io/tls` Secret (`data` in base64 or `stringData`), or of two files.

    Raises InvalidCertificate if a part is missing, is no PEM, or key and certificate do not belong together.
    """
    chain_name, key_name = list_paths(obj.key) if obj.key.kind == CERTIFICATE_FILES else (_CHAIN, _KEY)
    chain, private_key = _read_entry(obj, chain_name), _read_entry(obj, key_name)
    certificates = _load_certificates(chain, chain_name)
    publics = [_read_public(certificate, chain_name) for certificate in certificates]
    own = _load_private_key(private_key, key_name)
    if own not in publics:
        raise InvalidCertificate(f"{key_name} does not belong to the certificate in {chain_name}")
    if own != publics[0]:
        raise InvalidCertificate(
            f"the certificates in {chain_name} are in the wrong order: that of {key_name} is number"
            f" {publics.index(own) + 1} of {len(publics)}; put it first, and after each certificate the one that"
            " signed it"
        )
    return KeyPair(_join(certificates), private_key, certificates[0].not_valid_after_utc)


def _load_certificates(pem: bytes, name: str) -> list[x509.Certificate]:
    """At least one."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidCertificate(f"{name} is no PEM certificate") from error


def _read_public(certificate: x509.Certificate, name: str) -> bytes:
    try:
        return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidCertificate(f"{name} is no PEM certificate") from error


def _join(certificates: list[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _load_private_key(pem: bytes, name: str) -> bytes:
    """The public half of a key that grpc can serve."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError as error:
        raise InvalidCertificate(f"{name} is encrypted; store it without a passphrase") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidCertificate(f"{name} is no PEM private key") from error
    if not _is_usable(key):
        raise InvalidCertificate(f"{name} has a type that grpc cannot serve; use RSA of 2048 bits, EC P-256 or Ed25519")
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _is_usable(key: PrivateKeyTypes) -> bool:
    """Whether BoringSSL and OpenSSL can serve it: otherwise the whole port of a grpc-based engine would not open."""
    if isinstance(key, RSAPrivateKey):
        return key.key_size >= _LEAST_RSA_BITS
    if isinstance(key, EllipticCurvePrivateKey):
        return key.curve.name in _CURVES
    return isinstance(key, Ed25519PrivateKey)


def read_authorities(obj: KubeObject) -> bytes:
    """The certificates of authorities, as PEM: of a file, or of a Secret's `ca.crt`, or else its `tls.crt`, which is
    what Ambassador reads.

    Raises InvalidCertificate.
    """
    if obj.key.kind == CERTIFICATE_FILES:
        (name,) = list_paths(obj.key)
    else:
        name = _AUTHORITIES if _has_entry(obj, _AUTHORITIES) else _CHAIN
    return _join(_load_certificates(_read_entry(obj, name), name))


def read_revocations(obj: KubeObject) -> bytes:
    """The revocation lists in a Secret's `crl.pem`, as PEM.

    Raises InvalidCertificate.
    """
    lists = _LIST.findall(_read_entry(obj, _REVOCATIONS))
    try:
        for one in lists:
            x509.load_pem_x509_crl(one)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidCertificate(f"{_REVOCATIONS} is no PEM revocation list") from error
    if not lists:
        raise InvalidCertificate(f"{_REVOCATIONS} is no PEM revocation list")
    return b"".join(one + b"\n" for one in lists)


def read_token_keys(obj: KubeObject, entry: str) -> tuple[PublicKey, ...]:
    """The public keys in an entry of a Secret that holds a JWK Set. Raises InvalidCertificate."""
    try:
        return parse_jwks(_read_entry(obj, entry))
    except InvalidJwks as error:
        raise InvalidCertificate(f"{entry}: {error}") from None


def _has_entry(obj: KubeObject, name: str) -> bool:
    return any(find_entry(obj, section, name) is not None for section in ("stringData", "data"))


def _read_entry(obj: KubeObject, name: str) -> bytes:
    entry = decode_entry(obj, name)
    if entry is None:
        raise InvalidCertificate(_explain_absence(obj, name))
    return entry


def _explain_absence(obj: KubeObject, name: str) -> str:
    reason = find_entry(obj, "unreadable", name)
    if reason is None:
        return f"it has no {name}"
    return f"{name} cannot be read: {reason}; put a PEM file there that the gateway may read, or name another"
