"""Certificates, keys and the Secrets that hold them, for the tests of configuration."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from grpcgw.model.objects import KubeObject, ObjectKey, Source

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@cache
def key_pair(
    name: str, expires: datetime = NOW + timedelta(days=1), curve: type[ec.EllipticCurve] = ec.SECP256R1
) -> tuple[bytes, bytes]:
    """A self-signed certificate and its key, as PEM; the same for the same name."""
    key = ec.generate_private_key(curve())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1, expires - timedelta(days=9), expires)
    certificate = builder.sign(key, SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


def secret(chain: bytes, private: bytes, name: str = "cert", namespace: str = "shop") -> KubeObject:
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(private).decode()}
    return raw_secret({"type": "kubernetes.io/tls", "data": data}, name, namespace)


def raw_secret(body: dict[str, object], name: str = "cert", namespace: str = "shop") -> KubeObject:
    return KubeObject("v1", ObjectKey("Secret", namespace, name), body, Source("secret.yaml"))
