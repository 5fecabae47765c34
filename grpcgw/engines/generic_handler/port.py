"""A port of the generic-handler engine: a `grpc.aio` server of its own, in the engine's loop."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import grpc.aio

from grpcgw.engines.contract import ServerOptions, max_message_bytes
from grpcgw.engines.generic_handler.core_arguments import server_arguments
from grpcgw.engines.generic_handler.lasting_server import LastingServer
from grpcgw.engines.generic_handler.server_credentials import FreshCertificates, make_server_credentials
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import PortViews
from grpcgw.model.listener import Listener, ServerCertificate, Transport


class HandlerPort:
    """`start` and `stop` belong to the loop, everything else to the thread that changes ports."""

    def __init__(
        self,
        options: ServerOptions,
        listener: Listener,
        views: PortViews,
        handler: grpc.GenericRpcHandler,
        note_closing: Callable[[HandlerPort], None],
        drain_time_s: float,
    ) -> None:
        self.views = views
        self.view = views.view_of(tls=listener.transport.takes_tls)
        views.limit_messages(max_message_bytes(options, listener))
        self.number = listener.port
        """Once it is started, also where any free one was asked for."""
        self._options, self._listener, self._handler = options, listener, handler
        self._note_closing = note_closing
        self._fresh = FreshCertificates(listener.certificates)
        self._server = LastingServer(listener.name, self._make, drain_time_s)

    @property
    def fault(self) -> str:
        return self._server.fault

    async def start(self) -> None:
        """Raises UserError if the port cannot be opened."""
        await self._server.start()

    async def _make(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=server_arguments(self._options, self._listener))
        server.add_generic_rpc_handlers((self._handler,))
        try:
            self.number = self._open(server, self._options.target(self.number, self._listener.address))
        except UserError:
            # A server that never started keeps its memory for ever, and ports are tried again and again.
            await server.start()
            await server.stop(None)
            raise
        await server.start()
        return server

    def _open(self, server: grpc.aio.Server, target: str) -> int:
        try:
            if self._listener.transport is Transport.TLS:
                return int(server.add_secure_port(target, make_server_credentials(self._fresh)))
            return int(server.add_insecure_port(target))
        except RuntimeError as error:
            raise UserError(f"cannot listen on {target}: the address is in use or not this machine's") from error

    async def stop(self, limit_s: float) -> None:
        """Send GOAWAY to clients; returns when the last RPC is over, after `limit_s` at most. Again: sooner."""
        await self._server.stop(limit_s)

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        self._fresh.set(certificates)

    def close(self) -> None:
        self.views.set_closing(True)
        self._note_closing(self)
