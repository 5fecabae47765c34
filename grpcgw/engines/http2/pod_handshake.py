"""TLS with one pod. Without I/O."""

from __future__ import annotations

from functools import lru_cache

from grpcgw.engines.http2.tls_contexts import make_client_context
from grpcgw.engines.http2.tls_layer import TlsLayer
from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls

_context_of = lru_cache(256)(make_client_context)
"""It takes milliseconds, and the pods of a cluster share it."""


class PodHandshake:
    """Of one connection. One thread at a time may use it."""

    def __init__(self, settings: UpstreamTls, server_name: str) -> None:
        self._settings, self._server_name = settings, server_name
        self.tls: TlsLayer | None = None
        """None: it has not begun."""

    def feed(self, data: bytes) -> bytes:
        """Bytes of the pod in, first none, bytes to send out. Raises TlsFailed, and UserError for settings that `ssl`
        does not take."""
        if self.tls is None:
            self.tls = self._begin()
        return self.tls.handshake(data)

    def _begin(self) -> TlsLayer:
        context = _context_of(self._settings)
        try:
            return TlsLayer(context, server_side=False, server_name=self._server_name)
        except ValueError as error:
            raise UserError(f"{self._server_name!r} is no name for TLS: {error}") from error
