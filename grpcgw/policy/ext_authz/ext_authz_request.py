"""The question to an ext_authz service: `CheckRequest` of an RPC, with the fields that Envoy sets. Pure.

Differences from Envoy: the message is in `raw_body`, as it is no text; the address that the client connected to is left
out.
"""

from __future__ import annotations

from base64 import b64encode

from grpcgw.policy.client_certificates import FORWARDED_CERTIFICATE
from grpcgw.policy.contract import PolicyRequest
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckRequest
from grpcgw.policy.request import FORWARDED_FOR, FORWARDED_PROTO

PARTIAL_BODY = "x-envoy-auth-partial-body"


def encode_question(request: PolicyRequest, extensions: dict[str, str]) -> bytes:
    """A serialized CheckRequest. `extensions`: the Mapping's `auth_context_extensions`."""
    asked = CheckRequest()
    attributes, client = asked.attributes, request.request
    peer, at_s = client.peer, client.received_at_s
    address = attributes.source.address.socket_address
    address.address, address.port_value = peer.address, peer.port
    attributes.source.principal = find_principal(request)
    time, http = attributes.request.time, attributes.request.http
    time.seconds = int(at_s)
    time.nanos = int((at_s - int(at_s)) * 1e9)
    headers = list_headers(request)
    http.method, http.protocol = "POST", "HTTP/2"
    http.path, http.host, http.scheme = client.path, headers[":authority"], headers[":scheme"]
    http.id = headers.get("x-request-id", "")
    message = request.first_message
    if message is not None:
        http.raw_body, http.size = message.frame, len(message.frame)
        headers[PARTIAL_BODY] = "false" if message.complete else "true"
    http.headers.update(headers)
    if extensions:
        attributes.context_extensions.update(extensions)
    serialized: bytes = asked.SerializeToString()
    return serialized


def find_principal(request: PolicyRequest) -> str:
    """The name in the client's certificate: a URI, a DNS name or the subject; empty where it showed none."""
    certificate = request.request.certificate
    if certificate is None:
        return ""
    return next(iter((*certificate.uris, *certificate.names)), certificate.subject)


def list_headers(request: PolicyRequest) -> dict[str, str]:
    """The RPC's headers as one HTTP/2 request has them, values of equal keys joined by commas, cookies by
    semicolons (RFC 9113, 8.2.3).

    What the gateway vouches for (`x-forwarded-*`) is as pods get it, not as the client sent it.
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
    return headers


def _encode(value: bytes) -> str:
    """As in HTTP/2: base64 without padding."""
    return b64encode(value).rstrip(b"=").decode()


def _text(value: str) -> str:
    """What protobuf can send: a client may put any bytes in a header."""
    return value.encode("ascii", "replace").decode()
