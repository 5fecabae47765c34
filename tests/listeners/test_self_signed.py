"""The certificate of a TLS port that nobody configured one for."""

from __future__ import annotations

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from grpcgw.listeners.self_signed import make_self_signed

NOW = datetime.datetime(2030, 1, 2, 3, 4, 5, tzinfo=datetime.UTC)


def certificate_for(hostname: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(make_self_signed(hostname, NOW).certificate_chain)


def names(certificate: x509.Certificate) -> x509.SubjectAlternativeName:
    return certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def test_it_names_the_host_and_the_loopback() -> None:
    found = names(certificate_for("gateway-1"))
    assert found.get_values_for_type(x509.DNSName) == ["localhost", "gateway-1"]
    addresses = found.get_values_for_type(x509.IPAddress)
    assert addresses == [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]


def test_a_host_that_is_localhost_or_nameless_is_named_once() -> None:
    for hostname in ("localhost", ""):
        assert names(certificate_for(hostname)).get_values_for_type(x509.DNSName) == ["localhost"]


def test_it_is_valid_now_and_for_years() -> None:
    certificate = certificate_for("gateway-1")
    assert certificate.not_valid_before_utc < NOW
    assert certificate.not_valid_after_utc > NOW + datetime.timedelta(days=365)


def test_its_key_fits_and_it_signed_itself() -> None:
    made = make_self_signed("gateway-1", NOW)
    certificate = x509.load_pem_x509_certificate(made.certificate_chain)
    assert load_pem_private_key(made.private_key, None).public_key() == certificate.public_key()
    certificate.verify_directly_issued_by(certificate)


def test_each_is_another() -> None:
    one, other = make_self_signed("gateway-1", NOW), make_self_signed("gateway-1", NOW)
    assert one.private_key != other.private_key
    assert certificate_for("a").serial_number != certificate_for("a").serial_number


def test_the_key_is_not_shown() -> None:
    assert "PRIVATE" not in repr(make_self_signed("gateway-1", NOW))
