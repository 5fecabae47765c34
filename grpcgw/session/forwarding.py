"""Metadata that crosses the gateway: drops hop-by-hop headers and adds those that Envoy would add. Pure.

Keys arrive in lower case, without pseudo-headers (grpc core keeps those); order and duplicates are kept.
"""

from __future__ import annotations

from dataclasses import replace

from grpcgw.model.header_values import CONNECTION_HEADERS
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.client_certificates import FORWARDED_CERTIFICATE
from grpcgw.policy.request import FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID, Peer, make_request_id

# user-agent is listed because grpc core always sends its own; the others describe this hop alone.
HOP_BY_HOP = CONNECTION_HEADERS | frozenset(
    {
        "te",
        "user-agent",
        "grpc-encoding",
        "grpc-accept-encoding",
        "grpc-internal-encoding-request",
        "grpc-timeout",
        "content-type",
        "accept-encoding",
        "content-length",
        "host",
        # Describes the client's connection; the Module may have the gateway set it (`Peer.certificate`).
        FORWARDED_CERTIFICATE,
    }
)
OWN_PREFIXES = ("x-grpcgw-", "x-envoy-")
"""Of keys that the gateway alone sets, and of Envoy's own: pods believe these, as an Envoy takes them from clients."""
_HANDLED = HOP_BY_HOP | {FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID}
FIELD_OVERHEAD_BYTES = 32


def forward_request(metadata: Metadata, peer: Peer, tls: bool, own_id: str = "") -> Metadata:
    """The client's metadata as the pod gets it, with what Envoy sets by default. `tls`: it came in over TLS.

    The address of the connection is appended to `x-forwarded-for`. An RPC without a request id, or with one of an
    external client, gets `own_id` (`Request.own_id`), or a new one where that is empty. `x-forwarded-proto` says how
    the RPC arrived, unless a trusted proxy before the gateway set it. The Module may change all three (`clients`).
    """
    kept = []
    forwarded_for = proto = ""
    has_id = False
    for item in metadata:
        key = item[0]
        if key not in _HANDLED:
            kept.append(item)
        elif key == FORWARDED_FOR:
            forwarded_for = f"{forwarded_for},{item[1]!s}" if forwarded_for else str(item[1])
        elif key == REQUEST_ID:
            if peer.keeps_id and not has_id:
                kept.append(item)
                has_id = True
        elif key == FORWARDED_PROTO:
            proto = str(item[1])
    if peer.hop:
        forwarded_for = f"{forwarded_for},{peer.hop}" if forwarded_for else peer.hop
    if forwarded_for:
        kept.append((FORWARDED_FOR, forwarded_for))
    kept.append((FORWARDED_PROTO, proto if proto and peer.keeps_proto else "https" if tls else "http"))
    if not has_id:
        kept.append((REQUEST_ID, own_id or make_request_id()))
    if peer.certificate:
        kept.append((FORWARDED_CERTIFICATE, peer.certificate))
    return tuple(kept)


def has_own_keys(metadata: Metadata) -> bool:
    return any(key.startswith(OWN_PREFIXES) for key, _ in metadata)


def drop_own_keys(metadata: Metadata) -> Metadata:
    """Without the keys that only a gateway may set."""
    return tuple(item for item in metadata if not item[0].startswith(OWN_PREFIXES))


def trim(metadata: Metadata) -> Metadata:
    """Without the spaces and tabs around values, which gRPC allows to strip (`PROTOCOL-HTTP2`, ASCII-Value).

    RFC 9113, 8.2.1 forbids them, and a strict peer ends the whole connection over one. Bytes of `-bin` keys stay.
    """
    # Most requests need no trimming; the check takes 0.1 us for each value.
    if not [True for _, value in metadata if value.strip() != value]:
        return metadata
    return tuple((name, value.strip(" \t") if isinstance(value, str) else value) for name, value in metadata)


def forward_response(metadata: Metadata) -> Metadata:
    """A pod's initial metadata or trailers as the client gets them: without the headers of the connection to the pod.

    Values that grpc core refuses to send are dropped too: it would turn the pod's answer into INTERNAL.
    """
    if not metadata:
        return metadata
    metadata = trim(metadata)
    if CONNECTION_HEADERS.isdisjoint([key for key, _ in metadata]) and is_sendable(metadata):
        return metadata
    return tuple(item for item in metadata if item[0] not in CONNECTION_HEADERS and is_sendable((item,)))


def forward_status(status: Status) -> Status:
    """A pod's status as the client gets it."""
    trailers = forward_response(status.trailers)
    return status if trailers is status.trailers else replace(status, trailers=trailers)


def size_of(metadata: Metadata) -> int:
    """Bytes of a header list, counted as RFC 9113, 6.5.2 has it."""
    return sum([len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in metadata])


def is_sendable(metadata: Metadata) -> bool:
    """Whether grpc core sends it: values are printable ASCII, but for those of `-bin` keys."""
    return all(isinstance(value, bytes) or (value.isascii() and value.isprintable()) for _, value in metadata)
