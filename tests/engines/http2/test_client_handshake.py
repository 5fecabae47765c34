"""TLS with one client, without I/O."""

from __future__ import annotations

import pytest
from dataplane.authorities import Authority

from engines.http2.tls_pairs import client_hello
from grpcgw.engines.http2.client_handshake import ClientHandshake
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import TlsFailed


def test_a_handshake_takes_the_certificates_of_the_time_when_it_begins() -> None:
    """A client may wait in the queue; what it is shown, and what it must show, is of now."""
    before, after = (Authority().certificate("localhost") for _ in range(2))
    contexts = ServerContexts((before,))
    handshake = ClientHandshake(lambda: contexts)
    hello = client_hello()
    assert handshake.feed(hello[:50]) == b""
    contexts = ServerContexts((after,), contexts)
    assert handshake.feed(hello[50:])
    assert handshake.shown is after


def test_without_a_certificate_a_handshake_is_refused() -> None:
    with pytest.raises(TlsFailed, match="no certificate"):
        ClientHandshake(lambda: None).feed(client_hello())
