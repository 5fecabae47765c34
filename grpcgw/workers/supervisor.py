"""Keeps the data plane's workers alive and told: starts them, replays the configuration to each, replaces the dead.

Lives in the control process's event loop. What a worker does is `worker`'s business; this module only talks to it.
With no worker processes the one worker runs in this process, behind the same interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import sys
from dataclasses import dataclass, replace
from typing import Protocol

from grpcgw.config.endpoint import EndpointSet
from grpcgw.config.snapshot import Snapshot
from grpcgw.errors import UserError
from grpcgw.telemetry.merge import carry_on
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.messages import (
    FRAME,
    ApplySnapshot,
    Collect,
    Command,
    Configure,
    Drain,
    Listening,
    Report,
    SetEndpoints,
    Unable,
    WorkerPlan,
    decode,
    encode,
)
from grpcgw.workers.worker import Worker

log = logging.getLogger(__name__)

REPORT_S = 0.5
"""How long a report is waited for; a worker that does not answer is shown with its last one."""
RESTART_FIRST_S, RESTART_MOST_S, STABLE_S = 0.1, 5.0, 10.0
"""A dead worker is replaced after the first pause, doubled each time up to the most, until one lived this long."""
KEEP_REPORTS_S = 1.0
"""How often reports are taken even if nobody asks, so that a worker that dies leaves its numbers behind."""
DRAIN_GRACE_S = 5.0
"""How much longer than the drain time a worker may take to end before it is killed."""


class DataPlane(Protocol):
    """The workers, however many and wherever they run."""

    @property
    def restarts(self) -> int:
        """How many workers were replaced since the start."""
        ...

    async def run(self) -> None:
        """Start and keep going until cancelled. Raises UserError where no worker can ever serve."""
        ...

    def apply(self, snapshot: Snapshot) -> None: ...
    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None: ...
    async def listening(self) -> tuple[int, ...]:
        """The open ports, once every worker serves the first snapshot."""
        ...

    async def reports(self) -> tuple[WorkerReport, ...]: ...
    async def drain(self, limit_s: float) -> None:
        """Drain and end all workers; returns when the last is gone. Called once, while `run` still runs."""
        ...


@dataclass(slots=True)
class _Told:
    """What every worker must know; a new one is told all of it, pods first, so that no route waits for its pods."""

    snapshot: Snapshot | None = None
    endpoints: dict[str, EndpointSet] | None = None

    def messages(self) -> list[Command]:
        pods: list[Command] = [SetEndpoints(name, found) for name, found in (self.endpoints or {}).items()]
        return [*pods, ApplySnapshot(self.snapshot)] if self.snapshot is not None else pods

    def apply(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.endpoints = {name: e for name, e in (self.endpoints or {}).items() if name in snapshot.clusters}

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self.endpoints = {**(self.endpoints or {}), cluster: endpoints}


class _Child:
    """One worker's place: the process that fills it now, and what its predecessors counted."""

    def __init__(self, number: int, plan: WorkerPlan, core: int | None, told: _Told) -> None:
        self.number = number
        self._plan, self._core, self._told = plan, core, told
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[WorkerReport]] = {}
        self._former: WorkerReport | None = None
        self._last: WorkerReport | None = None
        self.listening: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self.draining = False
        self.restarts = 0

    async def run(self) -> None:
        """Keep one process alive until drained."""
        pause_s = RESTART_FIRST_S
        while not self.draining:
            began_s = asyncio.get_running_loop().time()
            code = await self._run_once()
            if self.draining:
                return
            if asyncio.get_running_loop().time() - began_s >= STABLE_S:
                pause_s = RESTART_FIRST_S
            log.warning("worker %d ended (exit code %s); replaced in %.1f s", self.number, code, pause_s)
            self._former, self._last = self._last, None
            self.restarts += 1
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, RESTART_MOST_S)

    async def _run_once(self) -> int:
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "grpcgw.workers.worker", str(theirs.fileno()), pass_fds=(theirs.fileno(),)
            )
        self._process = process
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
            self._writer = writer
            for command in (Configure(self.number, self._plan, self._core), *self._told.messages()):
                self.send(command)
            await self._listen(reader)
            return await process.wait()
        finally:
            self._hang_up()
            if process.returncode is None:
                process.kill()
                await process.wait()

    def _hang_up(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for asked in self._asked.values():
            asked.cancel()
        self._asked.clear()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the worker's end: its exit code tells
            while True:
                (length,) = FRAME.unpack(await reader.readexactly(FRAME.size))
                self._on_answer(decode(await reader.readexactly(length)))

    def _on_answer(self, message: object) -> None:
        match message:
            case Listening(ports):
                if not self.listening.done():
                    self.listening.set_result(ports)
            case Unable(text):
                raise UserError(text)
            case Report(number, report):
                asked = self._asked.pop(number, None)
                if asked is not None and not asked.done():
                    asked.set_result(report)
            case _:
                raise TypeError(f"a worker does not say {message!r}")

    def send(self, command: Command) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(encode(command))

    async def report(self) -> WorkerReport | None:
        """The worker's numbers with its predecessors'; its last ones where it does not answer in time."""
        if self._writer is not None:
            number = next(self._numbers)
            asked = self._asked[number] = asyncio.get_running_loop().create_future()
            self.send(Collect(number))
            await asyncio.wait((asked,), timeout=REPORT_S)
            self._asked.pop(number, None)
            if asked.done() and not asked.cancelled():
                self._last = carry_on(asked.result(), self._former)
        return self._last or (replace(self._former, pid=0) if self._former else None)

    async def drain(self, limit_s: float) -> None:
        self.draining = True
        self.send(Drain(limit_s))
        process = self._process
        if process is not None and process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(limit_s + DRAIN_GRACE_S):
                    await process.wait()


class WorkerProcesses:
    """`count` workers, each a process. With one for each of the `cores`, each runs on its own.

    A thread that stays on its core hands the interpreter lock over for less. Fewer workers than cores are left to the
    system: other gateways on the node would choose the same cores.
    """

    def __init__(self, plan: WorkerPlan, count: int, cores: list[int]) -> None:
        self._told = _Told()
        self._children = [
            _Child(number, plan, cores[number] if count == len(cores) else None, self._told) for number in range(count)
        ]

    @property
    def restarts(self) -> int:
        return sum(child.restarts for child in self._children)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for child in self._children:
                tasks.create_task(child.run(), name=f"worker {child.number}")
            tasks.create_task(self._keep_reports(), name="worker reports")

    def apply(self, snapshot: Snapshot) -> None:
        self._told.apply(snapshot)
        self._tell(ApplySnapshot(snapshot))

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._told.set_endpoints(cluster, endpoints)
        self._tell(SetEndpoints(cluster, endpoints))

    async def listening(self) -> tuple[int, ...]:
        ports = await asyncio.gather(*(asyncio.shield(child.listening) for child in self._children))
        return ports[0]

    async def reports(self) -> tuple[WorkerReport, ...]:
        reports = await asyncio.gather(*(child.report() for child in self._children))
        return tuple(report for report in reports if report is not None)

    async def drain(self, limit_s: float) -> None:
        await asyncio.gather(*(child.drain(limit_s) for child in self._children))

    def _tell(self, command: Command) -> None:
        for child in self._children:
            child.send(command)

    async def _keep_reports(self) -> None:
        while True:
            await asyncio.sleep(KEEP_REPORTS_S)
            await self.reports()


class WorkerHere:
    """The one worker inside the control process (`--workers 0`): tests and embedding."""

    restarts = 0

    def __init__(self, plan: WorkerPlan) -> None:
        self._worker = Worker(0, plan)
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue()
        self._listening: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        self._drained = False

    async def run(self) -> None:
        try:
            while True:
                snapshot = await self._snapshots.get()
                # In a thread: opening the ports waits for the first connections.
                ports = await asyncio.to_thread(self._worker.apply, snapshot)
                if not self._listening.done():
                    self._listening.set_result(ports)
        finally:
            if not self._drained:
                self._worker.drain(0.0)

    def apply(self, snapshot: Snapshot) -> None:
        self._snapshots.put_nowait(snapshot)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._worker.set_endpoints(SetEndpoints(cluster, endpoints))

    async def listening(self) -> tuple[int, ...]:
        return await asyncio.shield(self._listening)

    async def reports(self) -> tuple[WorkerReport, ...]:
        return (self._worker.report(),)

    async def drain(self, limit_s: float) -> None:
        self._drained = True
        await asyncio.to_thread(self._worker.drain, limit_s)
