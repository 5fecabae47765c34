"""Embedding: the gateway inside another program's `grpc.aio` server and event loop (docs/embedding.md).

Its handler serves the methods that the program's own do not. Control publishes to one carrier without processes and
ports of its own.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Self

import grpc

from grpcgw.carriers.carrier import CarrierReport, UncarriedRoute, find_unbuilt
from grpcgw.control.control import Control
from grpcgw.engines.generic_handler.lasting_server import LastingServer, MakeServer
from grpcgw.engines.generic_handler.loop_proxy import LoopProxy
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import EngineName, Settings
from grpcgw.workers.shared_turns import FIRST_TURNS
from grpcgw.workers.worker import SETTLE_S, make_report

CHECK_SERVERS_S = 0.2
"""How often to check whether the servers of `keep_serving` are alive."""


class Gateway:
    """An asynchronous context manager: while it is entered, it follows the configuration and connects to pods."""

    def __init__(self, settings: Settings) -> None:
        """Ignores what `settings` say about data ports, workers and the engine. Opens the admin port."""
        self._settings = replace(settings, port=None, tls_port=None, workers=0, engine=EngineName.GENERIC_HANDLER)
        self._proxy = LoopProxy(settings.max_metadata_bytes, random.randrange(FIRST_TURNS), settings.drain_time_s)

    async def __aenter__(self) -> Self:
        """Returns when the first complete configuration is served. Raises UserError for what the user can fix."""
        self._carrier = EmbeddedCarrier(self._proxy)
        self._control = Control(self._settings, [self._carrier])
        self._running = asyncio.create_task(self._run(), name="grpcgw")
        serving = asyncio.create_task(self._control.listening(), name="grpcgw start")
        try:
            await asyncio.wait((self._running, serving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # `__aexit__` is not called
            self._control.shut_down()
            await self._running
            raise
        finally:
            serving.cancel()
        if self._running.done():
            await self._running  # raises the cause
        return self

    async def _run(self) -> None:
        try:
            await self._control.run()
        finally:
            await self._carrier.drain(0.0)
            await self._proxy.stop()

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
        """For `server.add_generic_rpc_handlers`. It takes every method, so add it after all others."""
        return self._proxy.handler()

    @asynccontextmanager
    async def keep_serving(self, make: MakeServer, grace_s: float) -> AsyncIterator[None]:
        """Run a server while this is entered, and replace it whenever it dies.

        A grpc.aio server dies when a client sends a path that is not UTF-8. `make` returns a started server with
        `handler()`, on the same ports each time; what it raises at first is raised here. `grace_s`: how long RPCs may
        still run at the end, and on a server that died. Without a live server the gateway is not ready.
        """
        server = LastingServer("this program", make, grace_s)
        await server.start()
        self._carrier.servers.append(server)
        try:
            yield
        finally:
            self._carrier.servers.remove(server)
            await server.stop(grace_s)


class EmbeddedCarrier:
    """A `Carrier` in the event loop of the program; clients come in by the program's own ports."""

    name = "embedded gateway"

    def __init__(self, proxy: LoopProxy) -> None:
        """The caller stops `proxy` after `run` has ended."""
        self._proxy = proxy
        self._configured = asyncio.Event()
        self._uncarried: tuple[UncarriedRoute, ...] = ()
        self._started = False
        self._started_at_s = time.time()
        self.servers: list[LastingServer] = []

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        """As `Carrier.run`."""
        self._proxy.serving.policy_services.key_requests.connect(want_key, asyncio.sleep)
        await self._configured.wait()
        if not self._started:
            await self._proxy.start(SETTLE_S)
            self._started = True
        changed()
        faults = self._faults()
        while True:
            await asyncio.sleep(CHECK_SERVERS_S)
            before, faults = faults, self._faults()
            if faults != before:
                changed()

    async def apply(self, snapshot: Snapshot) -> None:
        """As `Carrier.apply`."""
        self._proxy.serving.apply(snapshot, time.monotonic())
        self._uncarried = find_unbuilt(snapshot)
        self._configured.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """As `Carrier.set_endpoints`."""
        self._proxy.serving.set_endpoints(cluster, endpoints, time.monotonic())

    def report(self) -> CarrierReport:
        """As `Carrier.report`."""
        faults = self._faults()
        return CarrierReport(
            version=self._proxy.serving.snapshot.version if self._configured.is_set() else "",
            started=self._started,
            ready=self._started and not faults,
            port_faults=faults,
            uncarried=self._uncarried,
            workers=(make_report(0, "embedded", self._proxy.serving, self._started_at_s),),
        )

    def _faults(self) -> tuple[PortFault, ...]:
        return tuple(
            PortFault("the server", f"{server.fault}; it is started again") for server in self.servers if server.fault
        )

    async def collect(self) -> CarrierReport:
        """As `Carrier.collect`."""
        return self.report()

    async def drain(self, limit_s: float) -> None:
        """As `Carrier.drain`."""
        self._proxy.refuse()
        await self._proxy.finish(limit_s)

    def close(self) -> None:
        """As `Carrier.close`: the ports are the program's."""
