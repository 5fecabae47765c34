"""The carrier of `grpcgw run --workers N`: worker processes that share the data ports."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import replace

from grpcgw.carriers.carrier import CarrierReport
from grpcgw.listeners.data_ports import DataPorts
from grpcgw.logs import DefectLog
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.workers.delivery import Delivery
from grpcgw.workers.messages import WorkerPlan
from grpcgw.workers.outbox import Outbox, make_update
from grpcgw.workers.port_status import RETRY_PORTS_S, PortStatus
from grpcgw.workers.shared_limits import make_table_file
from grpcgw.workers.shared_turns import MOST_SHARED, SharedTurns
from grpcgw.workers.slot import WorkerSlot

log = logging.getLogger(__name__)

COLLECT_EVERY_S = 1.0
"""Interval of collecting counters without a request, so that a worker that dies leaves its counters behind."""
PODS_PER_S = 1000
"""A report lists every pod, at some 10 us each: of workers with more pods it is collected less often."""


class WorkerProcesses:
    """`count` worker processes (a `Carrier`). With one for each of the `cores`, each runs on its own.

    A thread that stays on its core hands the interpreter lock over for less. With fewer workers than cores the system
    chooses: other gateways on the node would choose the same cores.
    """

    name = "workers"

    def __init__(
        self,
        plan: WorkerPlan,
        count: int,
        cores: list[int],
        data_ports: DataPorts,
        retry_ports_s: float = RETRY_PORTS_S,
    ) -> None:
        """Takes `data_ports` over and closes them."""
        self._everything = Outbox()
        self._newest = EMPTY_SNAPSHOT
        self._applying = asyncio.Lock()
        self._retry_ports_s = retry_ports_s
        self._turns = SharedTurns(MOST_SHARED if count > 1 else 0)
        self._limits = make_table_file() if count > 1 else None
        plan = replace(plan, limits=self._limits)
        inherited = self._turns.descriptors if self._limits is None else (*self._turns.descriptors, self._limits)
        self._ports = PortStatus(data_ports, count)
        self._slots = [
            WorkerSlot(
                *(number, plan, cores[number] if count == len(cores) else None),
                *(Delivery(self._everything), self._ports, inherited),
            )
            for number in range(count)
        ]

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        """As `Carrier.run`."""
        self._ports.on_change = changed
        async with asyncio.TaskGroup() as tasks:
            for slot in self._slots:
                tasks.create_task(slot.run(want_key), name=f"worker {slot.number}")
            tasks.create_task(self._collect_regularly(), name="worker reports")
            tasks.create_task(self._retry_ports(), name="retry of ports")

    async def apply(self, snapshot: Snapshot) -> None:
        """As `Carrier.apply`."""
        async with self._applying:
            await self._send(snapshot, self._ports.plan(snapshot))

    async def _send(self, snapshot: Snapshot, listeners: tuple[Listener, ...]) -> None:
        turns = await asyncio.to_thread(self._turns.assign, snapshot)
        update = await asyncio.to_thread(make_update, self._newest, snapshot, listeners, turns)
        self._newest = snapshot
        self._everything.apply(update)
        for slot in self._slots:
            slot.delivery.apply(update)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """As `Carrier.set_endpoints`."""
        self._everything.set_endpoints(cluster, endpoints)
        for slot in self._slots:
            slot.delivery.set_endpoints(cluster, endpoints)

    def report(self) -> CarrierReport:
        """As `Carrier.report`."""
        known = tuple(slot.last_report for slot in self._slots if slot.last_report is not None)
        return self._ports.report(known, sum(slot.restarts for slot in self._slots))

    async def collect(self) -> CarrierReport:
        """As `Carrier.collect`."""
        await asyncio.gather(*(slot.report() for slot in self._slots))
        return self.report()

    async def drain(self, limit_s: float) -> None:
        """As `Carrier.drain`."""
        await asyncio.gather(*(slot.drain(limit_s) for slot in self._slots))

    def close(self) -> None:
        """As `Carrier.close`."""
        self._turns.close()
        if self._limits is not None:
            os.close(self._limits)
            self._limits = None
        self._ports.close()

    async def _collect_regularly(self) -> None:
        defects = DefectLog(log)
        while True:
            await asyncio.sleep(max(COLLECT_EVERY_S, self._count_pods() / PODS_PER_S))
            with defects.contained("the counters of workers cannot be collected"):
                await self.collect()

    def _count_pods(self) -> int:
        """Of the worker with the most."""
        reports = (slot.last_report for slot in self._slots)
        return max((len(report.pods) for report in reports if report is not None), default=0)

    async def _retry_ports(self) -> None:
        """Try again to open ports that were taken, and to serve what a worker refused."""
        defects = DefectLog(log)
        while True:
            await asyncio.sleep(self._retry_ports_s)
            with defects.contained("ports cannot be tried again"):
                async with self._applying:
                    again = self._ports.plan_again()
                    if again is not None:
                        await self._send(*again)
