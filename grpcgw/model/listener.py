"""Listeners: the ports of the gateway, with their TLS certificates and Hosts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.host_policy import HostPolicy

DEFAULT_CLIENT_IDLE_TIMEOUT_MS = 3_600_000
"""As Envoy's of client connections."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate for the TLS port, as PEM. The key is never shown, logged or hashed in the clear."""

    name: str
    """The TLSContext or Host it was configured by, for the operator."""
    hosts: tuple[str, ...]
    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes = b""
    """PEM. Clients must show a certificate of one of these authorities; empty: none is asked for.

    grpc core asks on a whole port or not at all, so all certificates of one port agree in it.
    """
    not_after_s: float = 0.0
    """When it expires, in seconds since the epoch; 0.0: unknown."""


class Transport(StrEnum):
    CLEAR = "clear text"
    TLS = "TLS"


class SecurityModel(StrEnum):
    """What a call over a Listener counts as (`securityModel`); HostPolicy.clear_text speaks of those not secure."""

    XFP = "XFP"
    """Secure if it came over TLS; by proxies that are believed, if its `x-forwarded-proto` is https."""
    SECURE = "SECURE"
    INSECURE = "INSECURE"


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of the gateway, as a Listener object asks for it."""

    name: str
    """The Listener, for the operator."""
    port: int
    transport: Transport
    security_model: SecurityModel
    max_concurrent_streams: int | None = None
    """Per connection; None: grpc core's default."""
    max_message_bytes: int | None = None
    """Of a client's message, uncompressed; None: `--max-message-bytes`."""
    idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    """Closes a client's connection without RPCs; None: never. As the snapshot's, once the ports are settled."""
    hosts: tuple[HostPolicy, ...] = ()
    """The Hosts bound to it, as in Snapshot.hosts. Where there are any, calls to other names are not served."""
    certificates: tuple[ServerCertificate, ...] = ()
    """For TLS: those of its Hosts, and of the TLSContexts."""
    trusted_hops: int = 0
    """So many proxies before this port are believed what they say of the client; 0: as many as `ClientRules` says."""
