"""Describes the client's certificate to pods: `x-forwarded-client-cert`, in Envoy's form. Pure.

Envoy's `By` (the gateway's own certificate) is left out: grpc does not say which of several was shown.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from urllib.parse import quote

from grpcgw.model.clients import CertificateDetail, CertificateForwarding

FORWARDED_CERTIFICATE = "x-forwarded-client-cert"
_KNOWN_CERTIFICATES = 1024
_SET_APART = frozenset(',;="')


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    pem: bytes
    chain: bytes
    """What came with it, as PEM."""
    subject: str
    """As RFC 2253 writes it."""
    uris: tuple[str, ...]
    names: tuple[str, ...]
    """DNS names."""
    readable: bool = True
    """False: the parts of it could not be read, though it was verified: it may have any subject and names."""


def read_certificate(
    context: Mapping[bytes, Sequence[bytes]] | Mapping[str, Sequence[bytes]],
) -> ClientCertificate | None:
    """From grpc's authentication context; None: the client has shown none."""
    found = {key if isinstance(key, str) else key.decode(): values for key, values in context.items()}
    pem = b"".join(found.get("x509_pem_cert", ()))
    if not pem:
        return None
    return ClientCertificate(
        pem,
        b"".join(found.get("x509_pem_cert_chain", ())),
        b"".join(found.get("x509_subject", ())).decode("utf-8", "replace"),
        tuple(value.decode("utf-8", "replace") for value in found.get("peer_uri", ())),
        tuple(value.decode("utf-8", "replace") for value in found.get("peer_dns", ())),
    )


def forward_certificate(
    mode: CertificateForwarding,
    details: tuple[CertificateDetail, ...],
    given: str,
    certificate: ClientCertificate | None,
) -> str:
    """The header for the pod; empty: it gets none. `given` is what the client sent of it."""
    if mode is CertificateForwarding.ALWAYS_FORWARD_ONLY:
        return given
    if certificate is None or mode is CertificateForwarding.SANITIZE:
        return ""
    if mode is CertificateForwarding.FORWARD_ONLY:
        return given
    own = describe(certificate, details)
    return f"{given},{own}" if given and mode is CertificateForwarding.APPEND_FORWARD else own


@lru_cache(_KNOWN_CERTIFICATES)
def describe(certificate: ClientCertificate, details: tuple[CertificateDetail, ...]) -> str:
    """One element of the header: `Hash=…`, and `details` in Envoy's order."""
    return ";".join(f"{key}={value}" for key, value in _describe(certificate, details))


def _describe(certificate: ClientCertificate, details: tuple[CertificateDetail, ...]) -> Iterator[tuple[str, str]]:
    yield "Hash", sha256(_der(certificate.pem)).hexdigest()
    if CertificateDetail.CERT in details:
        yield "Cert", f'"{quote(certificate.pem, safe="")}"'
    if CertificateDetail.CHAIN in details:
        yield "Chain", f'"{quote(certificate.pem + certificate.chain, safe="")}"'
    if CertificateDetail.SUBJECT in details:
        yield "Subject", _quoted(certificate.subject)
    if CertificateDetail.URI in details:
        for uri in certificate.uris or ("",):
            yield "URI", _guarded(uri)
    if CertificateDetail.DNS in details:
        for name in certificate.names or ("",):
            yield "DNS", _guarded(name)


def _der(pem: bytes) -> bytes:
    lines = pem.strip().splitlines()
    return b64decode(b"".join(lines[1:-1]))


def _guarded(text: str) -> str:
    return _quoted(text) if _SET_APART & set(text) else _printable(text)


def _quoted(text: str) -> str:
    escaped = _printable(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _printable(text: str) -> str:
    """What an authority has signed may hold anything; a header holds printable ASCII."""
    return "".join(letter if " " <= letter <= "~" else quote(letter, safe="") for letter in text)
