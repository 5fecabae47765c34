"""Client rules: which clients are served, which proxies are trusted, and how client headers are handled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Underscores(StrEnum):
    """How a request with an underscore in a metadata key is handled (Envoy's `headers_with_underscores_action`)."""

    ALLOW = "ALLOW"
    REJECT_REQUEST = "REJECT_REQUEST"
    DROP_HEADER = "DROP_HEADER"


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Matches the clients of one network."""

    network: str
    """`10.0.0.0/8`, `2001:db8::/32`."""
    of_peer: bool = False
    """Match the address of the connection (`peer`), not that of the client behind it (`remote`)."""


class CertificateForwarding(StrEnum):
    """How `x-forwarded-client-cert` is forwarded. All but the first and the last apply only to clients with a
    certificate."""

    SANITIZE = "sanitize"
    """It is removed."""
    FORWARD_ONLY = "forward_only"
    """As the client sent it."""
    APPEND_FORWARD = "append_forward"
    """As the client sent it, and the client's own certificate after it."""
    SANITIZE_SET = "sanitize_set"
    """The client's own certificate alone."""
    ALWAYS_FORWARD_ONLY = "always_forward_only"
    """As the client sent it, with a certificate or without."""


class CertificateDetail(StrEnum):
    """Details of a certificate in the header, beside its hash."""

    CERT = "cert"
    CHAIN = "chain"
    SUBJECT = "subject"
    URI = "uri"
    DNS = "dns"


@dataclass(frozen=True, slots=True)
class ClientRules:
    """Rules of the Module for all clients and requests."""

    use_remote_address: bool = True
    """The client's address is that of the connection, and is appended to `x-forwarded-for`; False: it is the last in
    that list."""
    trusted_hops: int = 0
    """`xff_num_trusted_hops`: number of proxies before the gateway whose headers about the client are trusted."""
    preserve_request_id: bool = False
    """An external client's `x-request-id` is kept; False: replaced."""
    underscores: Underscores = Underscores.ALLOW
    allow: tuple[AddressRule, ...] | None = None
    """Only clients that one of these matches are served; None: all."""
    deny: tuple[AddressRule, ...] = ()
    """Clients that one of these matches are not served."""
    max_metadata_bytes: int | None = None
    """Limit for a request's metadata, counted as in HTTP/2; None: the gateway's own limit."""
    proxy_protocol: bool = False
    """`use_proxy_proto`: `Listener.proxy_protocol` of every port."""
    certificates: CertificateForwarding = CertificateForwarding.SANITIZE
    certificate_details: tuple[CertificateDetail, ...] = ()


DEFAULT_CLIENT_RULES = ClientRules()
