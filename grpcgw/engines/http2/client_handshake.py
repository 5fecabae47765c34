"""TLS with one client: reads its ClientHello, and begins with the contexts of the name in it. Without I/O."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.engines.http2.client_hello import NoClientHello, read_server_name
from grpcgw.engines.http2.tls_contexts import ServerContexts
from grpcgw.engines.http2.tls_layer import NO_TLS, UNUSABLE, TlsFailed, TlsLayer
from grpcgw.errors import UserError
from grpcgw.model.listener import ServerCertificate

DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"
INTERNAL_ERROR = b"\x15\x03\x03\x00\x02\x02\x50"
"""Records with a fatal alert (RFC 8446, 6)."""


class ClientHandshake:
    """Of one client. One thread at a time may use it."""

    def __init__(self, find_contexts: Callable[[], ServerContexts | None]) -> None:
        """`find_contexts`: those of the port now; None: it has none. Called when the ClientHello is complete and the
        handshake begins, so that a client that waited gets nothing that was replaced meanwhile."""
        self._find_contexts = find_contexts
        self._hello = b""
        self.tls: TlsLayer | None = None
        """None: the ClientHello is not complete."""
        self.shown: ServerCertificate | None = None

    def feed(self, data: bytes) -> bytes:
        """Bytes of the client in, bytes to send out. Raises TlsFailed."""
        if self.tls is not None:
            return self.tls.handshake(data)
        self._hello += data
        try:
            name = read_server_name(self._hello)
        except NoClientHello as error:
            raise TlsFailed(str(error), NO_TLS, DECODE_ERROR) from error
        if name is None:
            return b""
        tls = self.tls = self._begin(name.name)
        hello, self._hello = self._hello, b""
        return tls.handshake(hello)

    def _begin(self, name: str | None) -> TlsLayer:
        contexts = self._find_contexts()
        if contexts is None:
            raise TlsFailed("the port has no certificate", UNUSABLE, INTERNAL_ERROR)
        self.shown = contexts.certificate_for(name)
        try:
            return TlsLayer(contexts.for_name(name), server_side=True)
        except UserError as error:
            raise TlsFailed(str(error), UNUSABLE, INTERNAL_ERROR) from error
