"""Client rules: which clients are served, which proxies are trusted, and what becomes of what clients send."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Underscores(StrEnum):
    """What becomes of a request with a metadata key that has an underscore."""

    ALLOW = "ALLOW"
    REJECT_REQUEST = "REJECT_REQUEST"
    DROP_HEADER = "DROP_HEADER"


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Matches the clients of one network."""

    network: str
    """`10.0.0.0/8`, `2001:db8::/32`."""
    of_peer: bool = False
    """By the address of the connection (`peer`), whoever the client behind it is (`remote`)."""


class CertificateForwarding(StrEnum):
    """What becomes of `x-forwarded-client-cert`; all but the first and the last only of who has shown a certificate."""

    SANITIZE = "sanitize"
    """No pod gets it."""
    FORWARD_ONLY = "forward_only"
    """As the client sent it."""
    APPEND_FORWARD = "append_forward"
    """As the client sent it, and the client's own certificate after it."""
    SANITIZE_SET = "sanitize_set"
    """The client's own certificate alone."""
    ALWAYS_FORWARD_ONLY = "always_forward_only"
    """As anybody sent it."""


class CertificateDetail(StrEnum):
    """What it tells of a certificate beside its hash."""

    CERT = "cert"
    CHAIN = "chain"
    SUBJECT = "subject"
    URI = "uri"
    DNS = "dns"


@dataclass(frozen=True, slots=True)
class ClientRules:
    """What the Module says of clients and their requests, whatever the Mapping."""

    use_remote_address: bool = True
    """The client is who opened the connection, and is appended to `x-forwarded-for`; False: the last in that list."""
    trusted_hops: int = 0
    """`xff_num_trusted_hops`: so many proxies before the gateway are believed what they say of the client."""
    preserve_request_id: bool = False
    """An external client's `x-request-id` is kept; False: replaced."""
    underscores: Underscores = Underscores.ALLOW
    allow: tuple[AddressRule, ...] | None = None
    """Only clients that one of these matches are served; None: all."""
    deny: tuple[AddressRule, ...] = ()
    """Clients that one of these matches are not served."""
    max_metadata_bytes: int | None = None
    """What a request's metadata may be, counted as HTTP/2 does; None: the gateway's own limit."""
    certificates: CertificateForwarding = CertificateForwarding.SANITIZE
    certificate_details: tuple[CertificateDetail, ...] = ()


DEFAULT_CLIENT_RULES = ClientRules()
