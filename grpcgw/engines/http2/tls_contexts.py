"""Contexts of Python's `ssl`, made from the certificates of a port and from the TLS settings of a cluster."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ServerCertificate

ALPN_HTTP2, ALPN_HTTP1 = "h2", "http/1.1"
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: those that RFC 9113 (appendix A) does not forbid and that keep forward secrecy."""


class ServerContexts:
    """The contexts of a port, each made when it is first needed: that takes milliseconds, and there may be thousands.

    Clients resume sessions only with the context that they began with: each has ticket keys of its own. May be used in
    several threads.
    """

    def __init__(self, certificates: tuple[ServerCertificate, ...], before: ServerContexts | None = None) -> None:
        """`before`: those of the same port until now; unchanged certificates keep their contexts, so their sessions.

        Raises UserError if there is no certificate.
        """
        if not certificates:
            raise UserError("a TLS port needs a certificate before it opens")
        self._by_name: dict[str, ServerCertificate] = {}
        for certificate in certificates:
            for name in certificate.hosts:
                self._by_name.setdefault(name.lower(), certificate)
        self._other = self._by_name.get("*", certificates[0])
        made = {} if before is None else before._contexts
        self._contexts: dict[ServerCertificate, ssl.SSLContext] = {
            one: made[one] for one in certificates if one in made
        }

    def certificate_for(self, name: str | None) -> ServerCertificate:
        """Of the server name: the exact one, else that of the longest wildcard (`*.x`), else `*`, else the first."""
        wanted = (name or "").lower()
        found = self._by_name.get(wanted)
        while found is None and wanted:
            _, _, wanted = wanted.partition(".")
            found = self._by_name.get(f"*.{wanted}") if wanted else None
        return found or self._other

    def for_name(self, name: str | None) -> ssl.SSLContext:
        """The context of `certificate_for(name)`. Raises UserError if `ssl` does not take the certificate."""
        certificate = self.certificate_for(name)
        context = self._contexts.get(certificate)
        if context is None:  # of two threads that make one, the first counts: tickets must fit
            context = self._contexts.setdefault(certificate, make_server_context(certificate))
        return context


def make_server_context(certificate: ServerCertificate) -> ssl.SSLContext:
    """Raises UserError if `ssl` does not take the certificate, the key or the authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _limit(context)
    context.set_alpn_protocols([ALPN_HTTP2, ALPN_HTTP1])
    try:
        _load_key_pair(context, certificate.certificate_chain, certificate.private_key)
        if certificate.client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=certificate.client_ca.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"the certificate of {certificate.name} cannot be served: {_reason(error)}") from error
    return context


def make_client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """Verifies the pod's certificate against `tls.ca` (empty: the system's authorities) and its name.

    Raises UserError if `ssl` does not take a part of `tls`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    _limit(context)
    context.set_alpn_protocols([ALPN_HTTP2])
    try:
        if tls.ca:
            context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if tls.certificate_chain:
            _load_key_pair(context, tls.certificate_chain, tls.private_key)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"TLS to pods by {tls.name} is not possible: {_reason(error)}") from error
    return context


def _limit(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 9113, 9.2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9113, 9.2.1
    context.set_ciphers(_CIPHERS)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority may be trusted alone


def _load_key_pair(context: ssl.SSLContext, chain: bytes, private_key: bytes) -> None:
    with _as_file(chain + b"\n" + private_key) as path:
        context.load_cert_chain(path, password="")  # an encrypted key is an error, not a question on the terminal


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """`ssl` reads keys from files only: one in memory where the system has such, else one that only we can read."""
    if not hasattr(os, "memfd_create") or not os.path.exists("/proc/self/fd"):
        with tempfile.NamedTemporaryFile() as file:
            file.write(content)
            file.flush()
            yield file.name
        return
    descriptor = os.memfd_create("grpcgw key")
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _reason(error: Exception) -> str:
    """Without any content of keys."""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    return (reason or "it cannot be read").replace("_", " ").lower()
