"""The question to an ext_authz service: `CheckRequest` of an RPC, with the fields that Envoy sets. Pure.

Difference from Envoy: the message is in `raw_body`, as it is no text.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache

from grpcgw.policy.client_certificates import FORWARDED_CERTIFICATE
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.ext_authz.ext_authz_pb2 import Address, AttributeContext, HttpRequest, Peer, SocketAddress
from grpcgw.policy.protobuf_fields import bytes_field, number_field
from grpcgw.policy.request import FORWARDED_FOR, FORWARDED_PROTO, REQUEST_ID

_Http = tuple[bytes, bool]
"""An HttpRequest, serialized, and whether it has an id of the client's."""
PARTIAL_BODY = "x-envoy-auth-partial-body"
MOST_KNOWN, LONGEST_KNOWN_BYTES = 1024, 2048
"""What RPCs with equal metadata have in common is written once. Bounded, since strangers choose it."""
_KNOWN: dict[tuple[object, ...], _Http] = {}

# Fields that are written by hand: of CheckRequest, AttributeContext, AttributeContext.Request, Timestamp, HttpRequest,
# and one of its headers.
_ATTRIBUTES = 1
_SOURCE, _DESTINATION, _REQUEST = 1, 2, 4
_TIME, _HTTP = 1, 2
_SECONDS, _NANOS = 1, 2
_ID, _HEADERS = 1, 3
_KEY, _VALUE = 1, 2
_ID_KEY = bytes_field(_KEY, REQUEST_ID.encode())


class QuestionWriter:
    """Writes the questions about the RPCs of one Mapping: serialized CheckRequests."""

    def __init__(self, extensions: Iterable[tuple[str, str]]) -> None:
        """`extensions`: the Mapping's `auth_context_extensions`."""
        self._extensions = AttributeContext(context_extensions=dict(extensions)).SerializeToString()

    def write(self, request: PolicyRequest) -> bytes:
        client = request.request
        peer, at_s = client.peer, client.received_at_s
        http, has_id = _find_http(request)
        if not has_id:
            http += _write_id(client.give_id().encode())
        asked = _write_time(int(at_s), int(at_s % 1 * 1e9)) + bytes_field(_HTTP, http)
        ends = _write_source(peer.address, peer.port, find_principal(request)) + _write_destination(*peer.dialled)
        return bytes_field(_ATTRIBUTES, ends + bytes_field(_REQUEST, asked) + self._extensions)


def _write_time(seconds: int, nanos: int) -> bytes:
    return bytes_field(_TIME, _write_seconds(seconds) + number_field(_NANOS, nanos))


@lru_cache(16)
def _write_seconds(seconds: int) -> bytes:
    return number_field(_SECONDS, seconds)


@lru_cache(1024)
def _write_source(address: str, port: int, principal: str) -> bytes:
    """Of all RPCs on a connection."""
    where = SocketAddress(address=address, port_value=port)
    source = Peer(address=Address(socket_address=where), principal=principal)
    return bytes_field(_SOURCE, source.SerializeToString())


@lru_cache(64)
def _write_destination(address: str, port: int) -> bytes:
    """Of all RPCs on a port of the gateway."""
    if not address:
        return b""
    where = SocketAddress(address=address, port_value=port)
    return bytes_field(_DESTINATION, Peer(address=Address(socket_address=where)).SerializeToString())


def _write_id(request_id: bytes) -> bytes:
    """Fields of an HttpRequest without an id."""
    return bytes_field(_ID, request_id) + bytes_field(_HEADERS, _ID_KEY + bytes_field(_VALUE, request_id))


def _find_http(request: PolicyRequest) -> _Http:
    """The same for all RPCs that a client begins with the same metadata."""
    client, peer = request.request, request.request.peer
    if request.first_message is not None or client.metadata_bytes > LONGEST_KNOWN_BYTES:
        return _write_http(request)
    vouched_for = client.port.tls, peer.hop, peer.keeps_proto, peer.keeps_id, peer.certificate
    same = client.path, client.authority, request.metadata, vouched_for
    known = _KNOWN.get(same)
    return _remember(same, _write_http(request)) if known is None else known


def _remember(same: tuple[object, ...], http: _Http) -> _Http:
    if len(http[0]) <= LONGEST_KNOWN_BYTES:
        if len(_KNOWN) >= MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[same] = http
    return http


def _write_http(request: PolicyRequest) -> _Http:
    headers, message = list_headers(request), request.first_message
    http = HttpRequest(method="POST", protocol="HTTP/2", path=request.request.path, host=headers[":authority"])
    http.scheme, http.id = headers[":scheme"], headers.get(REQUEST_ID, "")
    if message is not None:
        http.raw_body, http.size = message.frame, len(message.frame)
        headers[PARTIAL_BODY] = "false" if message.complete else "true"
    http.headers.update(headers)
    return http.SerializeToString(), REQUEST_ID in headers


def find_principal(request: PolicyRequest) -> str:
    """The name in the client's certificate: a URI, a DNS name or the subject; empty where it showed none."""
    certificate = request.request.certificate
    if certificate is None:
        return ""
    return next(iter((*certificate.uris, *certificate.names)), certificate.subject)


def list_headers(request: PolicyRequest) -> dict[str, str]:
    """The RPC's headers as one HTTP/2 request has them, values of equal keys joined by commas, cookies by
    semicolons (RFC 9113, 8.2.3).

    What the gateway vouches for (`x-forwarded-*`) is as pods get it, not as the client sent it. `x-request-id` is the
    client's, where pods get it; else there is none.
    """
    client = request.request
    scheme = "https" if client.port.tls else "http"
    headers = {":authority": _text(client.authority), ":method": "POST", ":path": client.path, ":scheme": scheme}
    for key, value in request.metadata:
        text = _encode(value) if isinstance(value, bytes) else value if value.isascii() else _text(value)
        headers[key] = f"{headers[key]}{'; ' if key == 'cookie' else ','}{text}" if key in headers else text
    peer = client.peer
    if peer.hop:
        before = headers.get(FORWARDED_FOR)
        headers[FORWARDED_FOR] = f"{before},{peer.hop}" if before else peer.hop
    if not (peer.keeps_proto and FORWARDED_PROTO in headers):
        headers[FORWARDED_PROTO] = scheme
    headers.pop(FORWARDED_CERTIFICATE, None)
    if peer.certificate:
        headers[FORWARDED_CERTIFICATE] = peer.certificate
    headers.pop(PARTIAL_BODY, None)
    given = headers.pop(REQUEST_ID, None)
    if given is not None and peer.keeps_id:
        headers[REQUEST_ID] = _text(str(request.get(REQUEST_ID)))  # the first of several, as pods get it
    return headers


def _encode(value: bytes) -> str:
    """As in HTTP/2: base64 without padding."""
    return b64encode(value).rstrip(b"=").decode()


def _text(value: str) -> str:
    """What protobuf can send: a client may put any bytes in a header."""
    return value.encode("ascii", "replace").decode()
