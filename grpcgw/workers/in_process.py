"""The carrier of `grpcgw run --workers 0`: one worker inside the control process."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from grpcgw.carriers.carrier import CarrierReport
from grpcgw.listeners.data_ports import DataPorts
from grpcgw.logs import DefectLog
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import Snapshot
from grpcgw.workers.messages import SetEndpoints, WorkerPlan
from grpcgw.workers.port_status import RETRY_PORTS_S, PortStatus
from grpcgw.workers.worker import Worker

log = logging.getLogger(__name__)

PlannedSnapshot = tuple[Snapshot, tuple[Listener, ...]]
"""A snapshot and the ports to open for it."""

CHECK_PORTS_S = 1.0
"""How often to look whether a port closed by itself."""


class InProcessWorker:
    """One worker with an engine in this process (a `Carrier`)."""

    name = "workers"

    def __init__(self, plan: WorkerPlan, data_ports: DataPorts, retry_ports_s: float = RETRY_PORTS_S) -> None:
        """Takes `data_ports` over and closes them."""
        self._worker = Worker(0, plan)
        self._ports = PortStatus(data_ports, 1)
        self._retry_ports_s = retry_ports_s
        self._updates: asyncio.Queue[PlannedSnapshot] = asyncio.Queue()
        # Opening ports and draining block; one thread for both keeps them apart.
        self._thread = ThreadPoolExecutor(1, "grpcgw worker")
        self._drained = False

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        """As `Carrier.run`."""
        self._ports.on_change = changed
        loop, defects = asyncio.get_running_loop(), DefectLog(log)
        self._worker.ask_for_keys_by(lambda missing: loop.call_soon_threadsafe(want_key, missing))
        retrying = asyncio.create_task(self._retry_ports(), name="retry of ports")
        try:
            while True:
                update = await self._next_update()
                if self._drained:  # its engine has stopped
                    return
                work = self._worker.listening if update is None else partial(self._worker.try_to_apply, *update)
                with defects.contained("the worker cannot serve a configuration"):
                    self._ports.note(0, await loop.run_in_executor(self._thread, work))
                if update is not None:
                    self._updates.task_done()
        finally:
            retrying.cancel()

    async def _next_update(self) -> PlannedSnapshot | None:
        """The next snapshot; None where none comes for a while and it is time to look at the ports."""
        if not self._ports.started:
            return await self._updates.get()
        try:
            # Not `asyncio.wait_for`: before Python 3.12 it loses a cancellation that comes together with the update.
            async with asyncio.timeout(CHECK_PORTS_S):
                return await self._updates.get()
        except TimeoutError:
            return None

    async def _retry_ports(self) -> None:
        """Try again to open ports that were taken, and to serve what the worker refused."""
        defects = DefectLog(log)
        while True:
            await asyncio.sleep(self._retry_ports_s)
            with defects.contained("ports cannot be tried again"):
                again = self._ports.plan_again()
                if again is not None:
                    self._updates.put_nowait(again)

    async def apply(self, snapshot: Snapshot) -> None:
        """As `Carrier.apply`. Returns once the worker has handled it: it takes endpoint sets at once, so a set for the
        next snapshot would come before this one, which drops sets of clusters that it does not have."""
        self._updates.put_nowait((snapshot, self._ports.plan(snapshot)))
        await self._updates.join()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """As `Carrier.set_endpoints`."""
        self._worker.set_endpoints(SetEndpoints(cluster, endpoints))

    def report(self) -> CarrierReport:
        """As `Carrier.report`."""
        return self._ports.report((self._worker.report(),), restarts=0)

    async def collect(self) -> CarrierReport:
        """As `Carrier.collect`."""
        return self.report()

    async def drain(self, limit_s: float) -> None:
        """As `Carrier.drain`."""
        self._drained = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._worker.drain, limit_s)

    def close(self) -> None:
        """As `Carrier.close`. Blocks until the worker's thread has ended."""
        if not self._drained:
            self._drained = True
            self._thread.submit(self._worker.drain, 0.0)
        self._thread.shutdown()
        self._ports.close()
