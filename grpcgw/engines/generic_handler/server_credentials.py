"""TLS credentials towards clients, from PEM; certificates may change while a port is open."""

from __future__ import annotations

import threading

import grpc

from grpcgw.engines.generic_handler.grpc_limits import check_certificates
from grpcgw.errors import UserError
from grpcgw.model.listener import ServerCertificate


class FreshCertificates:
    """Passes new certificates to grpc core, which fetches them at each handshake, in any thread."""

    def __init__(self, first: tuple[ServerCertificate, ...]) -> None:
        self._lock = threading.Lock()
        self._fresh: tuple[ServerCertificate, ...] | None = first

    def set(self, certificates: tuple[ServerCertificate, ...]) -> None:
        """Raises UserError for what grpc cannot do."""
        check_certificates(certificates)
        with self._lock:
            self._fresh = certificates

    def take(self) -> tuple[ServerCertificate, ...] | None:
        """The certificates set since the last call; None: core keeps those it has."""
        with self._lock:
            fresh, self._fresh = self._fresh, None
        return fresh


def make_server_credentials(fresh: FreshCertificates) -> grpc.ServerCredentials:
    """Credentials that present the newest certificates of `fresh`. Whether clients must present one is fixed here.

    Raises UserError if there is no certificate yet.
    """
    first = fresh.take()
    if not first:
        raise UserError("a TLS port needs a certificate before it opens")

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        certificates = fresh.take()
        return _configure(certificates) if certificates else None

    required = any(certificate.requires_client for certificate in first)
    return grpc.dynamic_ssl_server_credentials(_configure(first), fetch, require_client_authentication=required)


def _configure(certificates: tuple[ServerCertificate, ...]) -> grpc.ServerCertificateConfiguration:
    # grpc core selects by SNI; for other names it presents the first: the one for every name, if there is one.
    ordered = sorted(certificates, key=lambda certificate: "*" not in certificate.hosts)
    pairs = [(certificate.private_key, certificate.certificate_chain) for certificate in ordered]
    required = next((certificate.client_ca for certificate in ordered if certificate.requires_client), None)
    return grpc.ssl_server_certificate_configuration(pairs, required)
