"""Self-signed certificate for a TLS port without a certificate of a TLSContext or Host, as Ambassador serves one."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from grpcgw.model.listener import ServerCertificate

NAME = "grpcgw.self-signed"
VALID_DAYS = 3650


def make_self_signed(hostname: str, now: datetime.datetime) -> ServerCertificate:
    """A fresh key and a certificate for `localhost`, `hostname` and the loopback addresses. `now` is aware."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)])
    names = [x509.DNSName(name) for name in dict.fromkeys(("localhost", hostname)) if name]
    addresses = [x509.IPAddress(ipaddress.ip_address(address)) for address in ("127.0.0.1", "::1")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName([*names, *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private_key = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = certificate.public_bytes(serialization.Encoding.PEM)
    expires_at_s = certificate.not_valid_after_utc.timestamp()
    return ServerCertificate("self-signed", ("*",), chain, private_key, not_after_s=expires_at_s)
