"""Describes the certificate that the other side of a TLS connection has shown."""

from __future__ import annotations

import ssl
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

from grpcgw.policy.client_certificates import ClientCertificate

_SHORT_NAMES = {
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.GIVEN_NAME: "GN",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
}
"""As OpenSSL, and so Envoy, writes them in a subject; `cryptography` knows those of RFC 4514 only."""
_UNREADABLE = (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


def describe_peer(connection: ssl.SSLObject) -> ClientCertificate | None:
    """None: it has shown none, or it was not verified."""
    der = connection.getpeercert(binary_form=True)
    return None if der is None else describe_certificate(der, _read_chain(connection))


def describe_certificate(der: bytes, chain: bytes) -> ClientCertificate:
    """`chain`: what came with it, as PEM."""
    try:
        certificate = x509.load_der_x509_certificate(der)
        subject = certificate.subject.rfc4514_string(_SHORT_NAMES)
        uris, names = _read_alternative_names(certificate)
    except _UNREADABLE:  # OpenSSL accepts some that `cryptography` does not; the hash alone identifies them
        return ClientCertificate(_pem(der), chain, "", (), (), readable=False)
    return ClientCertificate(_pem(der), chain, subject, uris, names)


def _read_alternative_names(certificate: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return tuple(uris), tuple(names.get_values_for_type(x509.DNSName))


def _read_chain(connection: ssl.SSLObject) -> bytes:
    """What came after the certificate, as PEM; empty where a session was resumed, which does not keep it."""
    get_chain = getattr(connection, "get_unverified_chain", None)
    if get_chain is not None:  # from Python 3.13 on
        chain: Sequence[bytes] = get_chain()
        return b"".join(map(_pem, chain[1:]))
    own = getattr(connection, "_sslobj", None)  # the same method, not yet public
    parts = own.get_unverified_chain() or () if own is not None else ()
    return b"".join(part.public_bytes().encode() for part in parts[1:])


def _pem(der: bytes) -> bytes:
    return ssl.DER_cert_to_PEM_cert(der).encode()
