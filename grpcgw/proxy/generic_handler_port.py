"""A port of the generic-handler engine: a `grpc.aio` server of its own, in the engine's loop."""

from __future__ import annotations

from collections.abc import Callable

import grpc
import grpc.aio

from grpcgw.config.snapshot import Listener, ServerCertificate, Transport
from grpcgw.errors import UserError
from grpcgw.proxy.engine import ServerOptions, server_arguments
from grpcgw.proxy.ports import PortView
from grpcgw.proxy.server_credentials import FreshCertificates, make_server_credentials


class HandlerPort:
    """`start` and `stop` belong to the loop, everything else to the thread that changes ports."""

    def __init__(self, listener: Listener, view: PortView, note_closing: Callable[[HandlerPort], None]) -> None:
        self.view = view
        self.number = 0
        """Once it is started."""
        self._listener = listener
        self._note_closing = note_closing
        self._fresh = FreshCertificates(listener.certificates)
        self._server: grpc.aio.Server | None = None

    async def start(self, options: ServerOptions, handler: grpc.GenericRpcHandler) -> None:
        """Raises UserError where the port cannot be opened."""
        self._server = grpc.aio.server(options=server_arguments(options, self._listener))
        self._server.add_generic_rpc_handlers((handler,))
        try:
            self.number = self._open(self._server, options.target(self._listener.port))
        except UserError:
            # A server that never started keeps its memory for ever, and ports are tried again and again.
            await self._server.start()
            await self._server.stop(None)
            raise
        await self._server.start()

    def _open(self, server: grpc.aio.Server, target: str) -> int:
        try:
            if self._listener.transport is Transport.TLS:
                return int(server.add_secure_port(target, make_server_credentials(self._fresh)))
            return int(server.add_insecure_port(target))
        except RuntimeError as error:
            raise UserError(f"cannot listen on {target}: the address is in use or not this machine's") from error

    async def stop(self, limit_s: float) -> None:
        """Say goodbye to clients; returns when the last RPC is over, after `limit_s` at the latest. Again: sooner."""
        assert self._server is not None
        await self._server.stop(limit_s)

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        self._fresh.set(certificates)

    def close(self) -> None:
        self.view.closing = True
        self._note_closing(self)
