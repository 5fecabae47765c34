"""Listeners: the ports of the gateway, with their TLS certificates and Hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.tls_parameters import DEFAULT_PARAMETERS, TlsParameters

ALPN_HTTP2, ALPN_HTTP1 = "h2", "http/1.1"

DEFAULT_CLIENT_IDLE_TIMEOUT_MS = 3_600_000
"""Envoy's default for client connections."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate for the TLS port, as PEM. The key is never shown, logged or hashed in the clear."""

    name: str
    """The TLSContext or Host it was configured by, for the operator."""
    hosts: tuple[str, ...]
    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes = b""
    """PEM. Clients must present a certificate of one of these authorities; empty: none is requested."""
    not_after_s: float = 0.0
    """When it expires, in seconds since the epoch; 0.0: unknown."""
    client_optional: bool = False
    """A client without a certificate is served too; one that it shows is verified."""
    client_crl: bytes = b""
    """PEM. Revocation lists of all of `client_ca`; empty: no certificate is revoked."""
    parameters: TlsParameters = DEFAULT_PARAMETERS
    alpn: tuple[str, ...] = (ALPN_HTTP2, ALPN_HTTP1)
    """What the http2 engine offers, the preferred first; the others offer h2 alone."""

    @property
    def requires_client(self) -> bool:
        """Whether a client without a certificate is refused."""
        return bool(self.client_ca) and not self.client_optional

    @property
    def demands(self) -> tuple[bytes, bytes, TlsParameters]:
        """What a client must fulfil; equal for certificates that ask for the same."""
        if not self.requires_client:
            return b"", b"", self.parameters
        return self.client_ca, self.client_crl, self.parameters


NO_DEMANDS = (b"", b"", DEFAULT_PARAMETERS)


class Transport(StrEnum):
    CLEAR = "clear text"
    TLS = "TLS"
    BOTH = "TLS and clear text"
    """Each connection is one or the other, recognised by its first bytes. Engines on grpc cannot do it."""

    @property
    def takes_tls(self) -> bool:
        return self is not Transport.CLEAR

    @property
    def takes_clear_text(self) -> bool:
        return self is not Transport.TLS


class SecurityModel(StrEnum):
    """Whether a call over a Listener is secure (`securityModel`); HostPolicy.clear_text is about calls that are not."""

    XFP = "XFP"
    """Secure if it came over TLS, or from a trusted proxy with `x-forwarded-proto: https`."""
    SECURE = "SECURE"
    INSECURE = "INSECURE"


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of the gateway, as a Listener object configures it."""

    name: str
    """The Listener, for the operator."""
    port: int
    transport: Transport
    security_model: SecurityModel
    max_concurrent_streams: int | None = None
    """Per connection; None: grpc core's default."""
    max_message_bytes: int | None = None
    """Limit for a client's message, uncompressed; None: `--max-message-bytes`."""
    idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    """Closes a client's connection without RPCs; None: never. Equals the snapshot's value once the ports are
    compiled."""
    hosts: tuple[HostPolicy, ...] = ()
    """The Hosts bound to it, as in Snapshot.hosts. If there are any, calls to other names are refused."""
    certificates: tuple[ServerCertificate, ...] = ()
    """Where it takes TLS: the certificates of its Hosts and of the TLSContexts."""
    proxy_protocol: bool = False
    """Every connection begins with a PROXY header, which names the client; without one it is closed. Engines on grpc
    cannot read it."""
    trusted_hops: int = 0
    """Number of proxies before this port whose headers about the client are trusted; 0: `ClientRules.trusted_hops`."""
    address: str = ""
    """Where it listens; empty: `--address`."""
    counts_for_others: bool = False
    """The port of the gateway's own rate limit service, which serves no Mapping."""


def should_open(
    transport: Transport, policies: tuple[HostPolicy, ...], certificates: tuple[ServerCertificate, ...]
) -> bool:
    """Whether to open a port with these Hosts and certificates: not where every Host is left out, nor a port for TLS
    with a self-signed certificate in place of the one of a Host that is left out."""
    if transport.takes_tls and not certificates and any(policy.left_out for policy in policies):
        return False
    return not policies or not all(policy.left_out for policy in policies)
