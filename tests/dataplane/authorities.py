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

    def delegate(self, name: str) -> Authority:
        """An intermediate authority, signed by this one."""
        middle = Authority(name)
        middle._certificate = _sign(
            middle._name, self._name, middle._key.public_key(), self._key, (), is_authority=True
        )
        middle.pem = middle._certificate.public_bytes(Encoding.PEM)
        return middle

    def revoke(self, *identities: Identity, days: int = 1) -> bytes:
        """The list of those that are revoked, as PEM, which ends `days` from now."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(self._name, now - 9 * DAY, now + days * DAY)
        for identity in identities:
            number = x509.load_pem_x509_certificate(identity.certificate).serial_number
            entry = x509.RevokedCertificateBuilder(number, now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

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
