"""Contexts of Python's `ssl`, made from the certificates of a port and from the TLS settings of a cluster."""

from __future__ import annotations

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from grpcgw.errors import UserError
from grpcgw.model.authority import split_authority
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ALPN_HTTP2, NO_DEMANDS, ServerCertificate
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion

_VERSIONS = {TlsVersion.TLS_1_2: ssl.TLSVersion.TLSv1_2, TlsVersion.TLS_1_3: ssl.TLSVersion.TLSv1_3}
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
        self._names, self._authorities = _Names(certificates), _Names(certificates, with_ports=True)
        self.demanding = any(one.demands != NO_DEMANDS for one in certificates)
        """Whether `may_call` can be false."""
        made = {} if before is None else before._contexts
        self._contexts: dict[ServerCertificate, ssl.SSLContext] = {
            one: made[one] for one in certificates if one in made
        }

    def certificate_for(self, name: str | None) -> ServerCertificate:
        """Of the server name: the exact one, else that of the longest glob (`*.x` before `x.*`), else `*`, else the
        first."""
        return self._names.find((name or "").lower().removesuffix("."))

    def may_call(self, shown: ServerCertificate, authority: str) -> bool:
        """Whether an RPC to `authority` may come over a connection whose handshake was that of `shown`: the handshake
        that `authority` asks for demands no more, nor does the Host that serves `authority`, which may be another: no
        handshake knows the port. A client chooses `authority` after the handshake.
        """
        names = split_authority(authority)
        wanted = self._names.find(names[-1]), self._authorities.find(*names)
        return _shows_enough(shown, wanted[0]) and _shows_enough(shown, wanted[1])

    def for_name(self, name: str | None) -> ssl.SSLContext:
        """The context of `certificate_for(name)`. Raises UserError if `ssl` does not take the certificate."""
        certificate = self.certificate_for(name)
        context = self._contexts.get(certificate)
        if context is None:  # of two threads that make one, the first counts: tickets must fit
            context = self._contexts.setdefault(certificate, make_server_context(certificate))
        return context


def _shows_enough(shown: ServerCertificate, wanted: ServerCertificate) -> bool:
    """What the same Host or TLSContext demanded at the time of the handshake is enough."""
    if wanted.name == shown.name:
        return shown.requires_client or not wanted.requires_client
    return wanted.demands in (NO_DEMANDS, shown.demands)


class _Names:
    """Certificates by the names that Hosts and TLSContexts give them; of two with one name the first counts."""

    def __init__(self, certificates: tuple[ServerCertificate, ...], with_ports: bool = False) -> None:
        """`with_ports`: a port in a name counts."""
        self._exact: dict[str, ServerCertificate] = {}
        self._suffixes: dict[str, ServerCertificate] = {}
        self._prefixes: dict[str, ServerCertificate] = {}
        self._other = certificates[0]
        for certificate in reversed(certificates):
            for host in certificate.hosts:
                self._add(split_authority(host.removesuffix(":*"))[0 if with_ports else -1], certificate)
        self._suffix_lengths = sorted({len(suffix) for suffix in self._suffixes}, reverse=True)
        self._prefix_lengths = sorted({len(prefix) for prefix in self._prefixes}, reverse=True)

    def _add(self, host: str, certificate: ServerCertificate) -> None:
        if host == "*":
            self._other = certificate
        elif host.startswith("*"):
            self._suffixes[host[1:]] = certificate
        elif host.endswith("*"):
            self._prefixes[host[:-1]] = certificate
        else:
            self._exact[host] = certificate

    def find(self, *names: str) -> ServerCertificate:
        """`names`: of one call, the one with its port first. As calls are matched with Hosts, or a call would need the
        handshake of another Host than its own."""
        for name in names:
            if name in self._exact:
                return self._exact[name]
        return self._find_glob(names) or self._other

    def _find_glob(self, names: tuple[str, ...]) -> ServerCertificate | None:
        """A `*` stands for one character or more."""
        for length in self._suffix_lengths:
            for name in names:
                if length < len(name) and (found := self._suffixes.get(name[-length:])):
                    return found
        for length in self._prefix_lengths:
            for name in names:
                if length < len(name) and (found := self._prefixes.get(name[:length])):
                    return found
        return None


def make_server_context(certificate: ServerCertificate) -> ssl.SSLContext:
    """Raises UserError if `ssl` does not take the certificate, the key or the authorities."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(list(certificate.alpn))
    try:
        _limit(context, certificate.parameters)
        _load_key_pair(context, certificate.certificate_chain, certificate.private_key)
        if certificate.client_ca:
            context.verify_mode = ssl.CERT_OPTIONAL if certificate.client_optional else ssl.CERT_REQUIRED
            context.load_verify_locations(cadata=certificate.client_ca.decode("ascii"))
            _load_revocations(context, certificate.client_crl)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"the certificate of {certificate.name} cannot be served: {_reason(error)}") from error
    return context


def make_client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """Verifies the pod's certificate against `tls.ca` (empty: the system's authorities) and its name.

    Raises UserError if `ssl` does not take a part of `tls`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies certificate and name
    context.set_alpn_protocols([ALPN_HTTP2])
    try:
        _limit(context, tls.parameters)
        if tls.ca:
            context.load_verify_locations(cadata=tls.ca.decode("ascii"))
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        _load_revocations(context, tls.crl)
        if tls.certificate_chain:
            _load_key_pair(context, tls.certificate_chain, tls.private_key)
    except (ssl.SSLError, ValueError) as error:
        raise UserError(f"TLS to pods by {tls.name} is not possible: {_reason(error)}") from error
    return context


def _limit(context: ssl.SSLContext, parameters: TlsParameters) -> None:
    context.minimum_version = _VERSIONS[parameters.min_version]
    context.maximum_version = _VERSIONS[parameters.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION  # RFC 9113, 9.2.1
    context.set_ciphers(":".join(parameters.ciphers) or _CIPHERS)
    if parameters.curve:
        context.set_ecdh_curve(parameters.curve)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate authority may be trusted alone


def _load_revocations(context: ssl.SSLContext, crl: bytes) -> None:
    """Each authority of a chain must then have a list that is not out of date, as Envoy asks for."""
    if crl:
        with _as_file(crl) as path:
            context.load_verify_locations(path)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


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
