"""What is known of a client's certificate, also where `cryptography` cannot read what OpenSSL has accepted."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from grpcgw.engines.http2.peer_certificates import describe_peer

_ALTERNATIVE_NAMES = x509.ObjectIdentifier("2.5.29.17")


class Shown:
    """The part of an SSLObject that is asked."""

    def __init__(self, der: bytes) -> None:
        self._der = der

    def getpeercert(self, binary_form: bool) -> bytes:
        return self._der

    def get_unverified_chain(self) -> list[bytes]:
        return []


def certificate_with(names: bytes) -> bytes:
    key, name, now = ec.generate_private_key(ec.SECP256R1()), x509.Name([]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    builder = builder.add_extension(x509.UnrecognizedExtension(_ALTERNATIVE_NAMES, names), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "names", [b"\x30\x04\xa3\x02\x30\x00", b"\x30\x02\x86\x05"], ids=["an X.400 address", "cut off"]
)
def test_a_certificate_whose_names_cannot_be_read_says_so(names: bytes) -> None:
    found = describe_peer(cast(ssl.SSLObject, Shown(certificate_with(names))))
    assert found is not None
    assert (found.readable, found.uris, found.names) == (False, (), ())
    assert found.pem.startswith(b"-----BEGIN CERTIFICATE-----")


def test_a_certificate_without_names_can_be_read() -> None:
    found = describe_peer(cast(ssl.SSLObject, Shown(certificate_with(b"\x30\x00"))))
    assert found is not None
    assert (found.readable, found.uris) == (True, ())
