"""The gateway inside somebody else's `grpc.aio` server, in their event loop: its handler serves what theirs do not.

Wires the control process's parts to a data plane without processes or ports of its own. docs/embedding.md shows it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc

from grpcgw.control.control import Control
from grpcgw.engines.generic_handler.lasting_server import LastingServer, MakeServer
from grpcgw.engines.generic_handler.loop_proxy import LoopProxy
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import EngineName, Settings
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.messages import Listening
from grpcgw.workers.shared_turns import FIRST_TURNS
from grpcgw.workers.supervisor import HeardPorts
from grpcgw.workers.worker import SETTLE_S, make_report

LOOK_S = 0.2
"""How often it is looked whether the servers of `keep_serving` live."""


class Gateway:
    """An asynchronous context manager: configuration is followed and pods are connected to while it is entered."""

    def __init__(self, settings: Settings) -> None:
        """What `settings` say about data ports and workers has no meaning here; the admin port is opened."""
        self._settings = replace(settings, port=None, tls_port=None, workers=0, engine=EngineName.GENERIC_HANDLER)
        self._proxy = LoopProxy(settings.max_metadata_bytes, random.randrange(FIRST_TURNS), settings.drain_time_s)

    async def __aenter__(self) -> Self:
        """Returns when the first complete configuration is served. Raises UserError for what the user can mend."""
        self._data_plane = _ThisLoop(self._proxy)
        self._control = Control(self._settings, self._data_plane)
        self._running = asyncio.create_task(self._control.run(), name="grpcgw")
        serving = asyncio.create_task(self._control.listening(), name="grpcgw start")
        try:
            await asyncio.wait((self._running, serving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            serving.cancel()
        if self._running.done():
            await self._running  # raises why
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Refuse new RPCs, let the others finish within the drain time."""
        self._control.shut_down()
        await self._running

    @property
    def admin_port(self) -> int:
        return self._control.admin_port

    def handler(self) -> grpc.GenericRpcHandler:
        """For `server.add_generic_rpc_handlers`. It takes every method, so it belongs behind all others."""
        return self._proxy.handler()

    @asynccontextmanager
    async def keep_serving(self, make: MakeServer, grace_s: float) -> AsyncIterator[None]:
        """Have a server while this is entered, and another whenever one dies.

        A server of grpc.aio ends for good when a client sends a path that is not UTF-8. `make` returns one that is
        started, with `handler()` and on the same ports each time. `grace_s`: how long RPCs may run on at the end, and
        on a server that died. While there is none the gateway is not ready.
        """
        server = LastingServer("this program", make, grace_s)
        await server.start()
        self._data_plane.servers.append(server)
        try:
            yield
        finally:
            self._data_plane.servers.remove(server)
            await server.stop(grace_s)


class _ThisLoop:
    """The data plane (`workers.supervisor.DataPlane`) in the event loop that runs everything."""

    opens_ports = False
    restarts = 0

    def __init__(self, proxy: LoopProxy) -> None:
        self._proxy = proxy
        self._configured = asyncio.Event()
        self._serving = asyncio.Event()
        self._started_at_s = time.time()
        self.ports = HeardPorts()
        self.servers: list[LastingServer] = []

    async def run(self) -> None:
        try:
            await self._configured.wait()
            await self._proxy.start(SETTLE_S)
            self._serving.set()
            while True:
                await asyncio.sleep(LOOK_S)
                faults = tuple(PortFault("the server", server.fault) for server in self.servers if server.fault)
                self.ports.note(0, Listening((), faults))
        finally:
            await self.drain(0.0)
            await self._proxy.stop()

    async def apply(self, snapshot: Snapshot) -> None:
        self._proxy.serving.apply(snapshot, time.monotonic())
        self._configured.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._proxy.serving.set_endpoints(cluster, endpoints, time.monotonic())

    async def listening(self) -> tuple[int, ...]:
        await self._serving.wait()
        return ()

    async def reports(self) -> tuple[WorkerReport, ...]:
        return self.last_reports()

    def last_reports(self) -> tuple[WorkerReport, ...]:
        return (make_report(0, "embedded", self._proxy.serving, self._started_at_s),)

    async def drain(self, limit_s: float) -> None:
        self._proxy.refuse()
        await self._proxy.finish(limit_s)
