"""The generic-handler engine, on grpcio's public API: sessions driven by a `grpc.GenericRpcHandler` of `grpc.aio`.

Several times slower than the http2 engine, which it is the fall-back and the reference for. `loop_proxy` also embeds
grpcgw in another `grpc.aio` server. The public API does not show a handler the client's `:authority`
(docs/data-plane.md).
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Collection, Coroutine
from typing import Any

from grpcgw.engines.contract import REFUSING_S, ServerOptions
from grpcgw.engines.generic_handler.grpc_limits import why_unsupported
from grpcgw.engines.generic_handler.loop_proxy import LoopProxy
from grpcgw.engines.generic_handler.port import HandlerPort
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import Ports, PortViews
from grpcgw.model.listener import Listener
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.held_messages import HeldMessages

CUT_OFF_S = 1.0
"""Time for an RPC that was ended because its port closes to be over, before grpc cuts it off."""


class GenericHandlerEngine:
    """A `LoopProxy` with a loop, a thread and ports of its own."""

    name = "generic-handler"

    def __init__(
        self,
        options: ServerOptions,
        first_turn: int = 0,
        drain_time_s: float = 30.0,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._options, self._drain_time_s = options, drain_time_s
        self._proxy = LoopProxy(options.max_metadata_bytes, first_turn, drain_time_s, catalogue)
        self.serving = self._proxy.serving
        self.serving.held = HeldMessages(options.max_message_bytes)
        self.ports = Ports(self._open_port)
        self._closing_ports: set[HandlerPort] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpcgw loop", daemon=True)

    @property
    def active(self) -> Collection[object]:
        return self._proxy.active

    # --- called from outside the loop

    def start(self, settle_s: float) -> None:
        self._thread.start()
        self._run(self._proxy.start(settle_s))

    def drain(self, limit_s: float) -> None:
        self._run(self._refuse(min(REFUSING_S, limit_s)))
        self.ports.update(())
        self._run(self._drain(limit_s))

    def stop(self) -> None:
        if self._thread.is_alive():
            if not self.serving.draining:
                self.drain(0.0)
            self._run(self._proxy.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _open_port(self, listener: Listener, views: PortViews) -> HandlerPort:
        if why := why_unsupported(listener):
            raise UserError(why)
        handler = self._proxy.handler(views.view_of(tls=listener.transport.takes_tls))
        port = HandlerPort(self._options, listener, views, handler, self._note_closing, self._drain_time_s)
        self._run(port.start())
        return port

    def _note_closing(self, port: HandlerPort) -> None:
        self._loop.call_soon_threadsafe(self._begin_to_close, port)

    # --- in the loop

    def _begin_to_close(self, port: HandlerPort) -> None:
        self._closing_ports.add(port)
        self._proxy.spawn(self._see_out(port))

    async def _see_out(self, port: HandlerPort) -> None:
        await self._stop_port(port, self._drain_time_s)
        self._closing_ports.discard(port)

    async def _stop_port(self, port: HandlerPort, limit_s: float) -> None:
        # The server sends GOAWAY at once, and waits a little longer than the proxy does.
        await asyncio.gather(port.stop(limit_s + CUT_OFF_S), self._proxy.finish(limit_s, port.view))

    async def _refuse(self, pause_s: float) -> None:
        self._proxy.refuse()
        await asyncio.sleep(pause_s)

    async def _drain(self, limit_s: float) -> None:
        await asyncio.gather(*(self._stop_port(port, limit_s) for port in self._closing_ports))
