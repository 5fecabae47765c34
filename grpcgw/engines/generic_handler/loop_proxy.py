"""The proxy of one event loop: a `grpc.GenericRpcHandler` whose RPCs it forwards, with the housekeeping of its pods.

The engine runs one in a loop and thread of its own; embedded, it runs in the loop of another `grpc.aio` server.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any

import grpc
import grpc.aio

from grpcgw.engines.contract import sweep_interval_s
from grpcgw.engines.generic_handler.client_rpc import ClientRpc
from grpcgw.engines.generic_handler.coroutine_loop import CoroutineLoop
from grpcgw.engines.generic_handler.pod_connection import PodConnection
from grpcgw.engines.late_http_client import LateHttpClient
from grpcgw.listeners.open_ports import SOME_PORT, PortView
from grpcgw.logs import DefectLog
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.metadata import Metadata
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Connection, close_connections

log = logging.getLogger(__name__)

REFRESH_S, LOOK_S = 0.05, 0.005
_SOME_TLS_PORT = PortView(tls=True, asks_clients=True)


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio publishes no types
    """Takes every method: the snapshot decides what is served."""

    def __init__(self, engine: LoopProxy, port: PortView | None) -> None:
        self._engine, self._port = engine, port

    def service(self, details: Any) -> Any:
        async def behaviour(_: Any, context: Any) -> None:
            port = self._port or self._engine.see_port(context)
            await self._engine.serve(port, details.method, tuple(details.invocation_metadata), context)

        return grpc.stream_stream_rpc_method_handler(behaviour)


class LoopProxy:
    """RPCs of one event loop, the one that `start` runs in; everything but `serving` belongs to that loop."""

    def __init__(
        self,
        max_metadata_bytes: int,
        first_turn: int = 0,
        drain_time_s: float = 30.0,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self.serving = Serving(self._connect, first_turn, drain_time_s, max_metadata_bytes, catalogue)
        self._http = self.serving.http = LateHttpClient()
        self.coroutines = CoroutineLoop(self._http.close)
        self.active: set[ClientRpc] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._house: asyncio.Task[None] | None = None

    def handler(self, port: PortView | None = None) -> grpc.GenericRpcHandler:
        """For a `grpc.aio` server that runs in this loop. Without `port`, RPCs arrive on another program's port."""
        return _Handler(self, port)

    async def start(self, settle_s: float) -> None:
        """Keep connections to the pods from now on; returns when each is tried, at the latest after `settle_s`.

        May be called again after it raised.
        """
        if self._house is None:
            self._house = asyncio.get_running_loop().create_task(self._keep_house(), name="housekeeping")
        limit_s = time.monotonic() + settle_s
        while time.monotonic() < limit_s:
            self._refresh(time.monotonic())
            if self.serving.clusters.settled():
                return
            await asyncio.sleep(LOOK_S)

    def refuse(self) -> None:
        """Take no new RPCs from now on."""
        self.serving.begin_drain(time.monotonic())
        for rpc in self.active.copy():
            rpc.sweep()

    async def finish(self, limit_s: float, port: PortView | None = None) -> None:
        """Wait until the last RPC (of `port`) is over, at most `limit_s`; then end the rest with UNAVAILABLE."""
        limit = time.monotonic() + limit_s
        while self._running(port) and time.monotonic() < limit:  # noqa: ASYNC110 - rare: no event for every RPC
            await asyncio.sleep(REFRESH_S)
        for rpc in self._running(port):
            rpc.end_for_drain()

    def _running(self, port: PortView | None) -> list[ClientRpc]:
        return [rpc for rpc in self.active if port is None or rpc.port is port]

    async def stop(self) -> None:
        """Close every connection; returns when nothing runs any more."""
        if self._house is not None:
            self._house.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._house
        await asyncio.to_thread(self.coroutines.stop)
        close_connections(self.serving.clusters.pods())
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- for RPCs and connections

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run `work`, and keep it from being collected while it runs. It must contain its own exceptions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def see_port(self, context: Any) -> PortView:
        """The port of an RPC that arrived on another program's port."""
        return _SOME_TLS_PORT if context.auth_context().get("transport_security_type") == [b"ssl"] else SOME_PORT

    async def serve(self, port: PortView, path: str, metadata: Metadata, context: Any) -> None:
        rpc = ClientRpc(self, port, path, metadata, context)
        self.active.add(rpc)
        try:
            await rpc.serve()
        finally:
            self.active.discard(rpc)

    def _connect(self, address: str, settings: ConnectionSettings) -> Connection:
        return PodConnection(address, self._max_metadata_bytes, settings, self.spawn)

    async def _keep_house(self) -> None:
        defects = DefectLog(log)
        next_sweep_s = 0.0
        while True:
            now_s = time.monotonic()
            pause_s = REFRESH_S
            try:
                if now_s >= next_sweep_s:
                    next_sweep_s = now_s + sweep_interval_s(self.serving.snapshot)
                    for rpc in self.active.copy():
                        rpc.sweep()
                pause_s = min(self._refresh(now_s), max(0.0, next_sweep_s - now_s))
            except Exception:  # without it dead pods stay and no RPC is ended in time: it must go on
                defects.note("housekeeping failed")
            await asyncio.sleep(pause_s)

    def _refresh(self, now_s: float) -> float:
        """How soon to do it again, in seconds."""
        close_connections(self.serving.refresh(now_s))
        return REFRESH_S if self.serving.clusters.settled() else LOOK_S
