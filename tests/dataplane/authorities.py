"""Certificates as an authority signs them, for gateways and for clients."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from grpcgw.model.listener import ServerCertificate

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Identity:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes

    @property
    def der(self) -> bytes:
        return x509.load_pem_x509_certificate(self.certificate).public_bytes(Encoding.DER)


class Authority:
    def __init__(self, name: str = "authority") -> None:
        self._name, self._key = _subject(name), ec.generate_private_key(ec.SECP256R1())
        self._certificate = _sign(self._name, self._name, self._key.public_key(), self._key, (), is_authority=True)
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def sign(self, name: str, *uris: str, days: int = 1) -> Identity:
        """For the DNS name `name`, and for `uris`; it ends `days` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.DNSName(name), *map(x509.UniformResourceIdentifier, uris)]
        signed = _sign(_subject(name), self._name, key.public_key(), self._key, names, is_authority=False, days=days)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return Identity(signed.public_bytes(Encoding.PEM), private)

    def certificate(self, *hosts: str, client_ca: bytes = b"") -> ServerCertificate:
        """For the gateway."""
        identity = self.sign(hosts[0])
        return ServerCertificate(f"Host {hosts[0]}", hosts, identity.certificate, identity.key, client_ca)

    def client(self, identity: Identity | None = None) -> grpc.ChannelCredentials:
        """Of a client that trusts this authority, and shows `identity`."""
        if identity is None:
            return grpc.ssl_channel_credentials(self.pem)
        return grpc.ssl_channel_credentials(self.pem, identity.key, identity.certificate)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    private: ec.EllipticCurvePrivateKey,
    names: list[x509.GeneralName] | tuple[()],
    is_authority: bool,
    days: int = 1,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), now - 9 * DAY, now + days * DAY
    ).add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(private, hashes.SHA256())
