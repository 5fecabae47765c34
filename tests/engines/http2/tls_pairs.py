"""A TLS client and a TLS server without sockets between them."""

from __future__ import annotations

import ssl
from contextlib import suppress

from grpcgw.engines.http2.tls_layer import TlsLayer


def client_context(authority: bytes = b"") -> ssl.SSLContext:
    """Without `authority` it accepts every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authority:
        context.load_verify_locations(cadata=authority.decode())
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context


def connect(
    client: ssl.SSLContext, server: ssl.SSLContext, name: str = "localhost", chunk: int = 1_000_000
) -> tuple[TlsLayer, TlsLayer]:
    """Client and server after their handshake, of which `chunk` bytes at a time arrive. Raises TlsFailed."""
    near, far = TlsLayer(client, False, name), TlsLayer(server, True)
    to_far, to_near = near.handshake(b""), b""
    while not (near.established and far.established):
        assert to_far or to_near, "nobody has anything to say"
        if to_far:
            part, to_far = to_far[:chunk], to_far[chunk:]
            to_near += far.receive(part) if far.established else far.handshake(part)
        if to_near:
            part, to_near = to_near[:chunk], to_near[chunk:]
            to_far += near.receive(part) if near.established else near.handshake(part)
    while to_near:
        part, to_near = to_near[:chunk], to_near[chunk:]
        assert near.receive(part) == b""
    return near, far


def visit(client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLObject:
    """A client after its handshake, which may resume a session, and with the tickets that the server sent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    near, far = (
        client.wrap_bio(incoming, outgoing, server_hostname="localhost", session=session),
        TlsLayer(server, True),
    )
    done = False
    while not (done and far.established):
        with suppress(ssl.SSLWantReadError):
            near.do_handshake()
            done = True
        if sent := outgoing.read():
            incoming.write(far.handshake(sent))
    with suppress(ssl.SSLWantReadError):
        near.read()  # tickets of TLS 1.3 follow the handshake
    return near


def client_hello() -> bytes:
    """The first bytes of a client that calls `localhost`."""
    return TlsLayer(client_context(), False, "localhost").handshake(b"")
