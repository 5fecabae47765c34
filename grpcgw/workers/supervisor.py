"""Keeps the data plane's workers alive and told: starts them, replays the configuration to each, replaces the dead.

Lives in the control process's event loop. What a worker does is `worker`'s business; this module only talks to it.
With no worker processes the one worker runs in this process, behind the same interface.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from grpcgw.logs import DefectLog
from grpcgw.model.difference import find_difference
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.telemetry.merge import carry_on, leave_behind
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.messages import (
    FRAME,
    ApplySnapshot,
    Behind,
    Collect,
    Configure,
    Drain,
    Listening,
    Refused,
    Report,
    SetEndpoints,
    WorkerPlan,
    decode,
    encode,
)
from grpcgw.workers.shared_turns import MOST_SHARED, SharedTurns, TurnKey
from grpcgw.workers.worker import Worker
from grpcgw.workers.worker_stderr import WorkerStderr, open_pipe, operator_sets_verbosity, worker_environment

log = logging.getLogger(__name__)

LOG_DESCRIPTOR = 2
"""Where the gateway's own log goes, that of its workers as well."""

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
    def opens_ports(self) -> bool:
        """False: RPCs come in by another program's ports."""
        ...

    @property
    def restarts(self) -> int:
        """How many workers were replaced since the start."""
        ...

    @property
    def ports(self) -> HeardPorts:
        """What the workers that serve say of their ports."""
        ...

    async def run(self) -> None:
        """Start and keep going until cancelled."""
        ...

    async def apply(self, snapshot: Snapshot) -> None:
        """Serve `snapshot` soon, by its Listeners' ports alone; returns when it is on its way."""
        ...

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None: ...
    async def listening(self) -> tuple[int, ...]:
        """The ports open then, once every worker serves the first snapshot."""
        ...

    async def reports(self) -> tuple[WorkerReport, ...]: ...
    def last_reports(self) -> tuple[WorkerReport, ...]:
        """Those known already, at most some KEEP_REPORTS_S old."""
        ...

    async def drain(self, limit_s: float) -> None:
        """Drain and end all workers; returns when the last is gone. Called once, while `run` still runs."""
        ...


@dataclass(frozen=True, slots=True)
class Update:
    """A snapshot, and the message that tells it to a worker that has `base`: encoded once for all of them."""

    base: Snapshot
    snapshot: Snapshot
    turns: Mapping[TurnKey, int]
    message: bytes


def make_update(base: Snapshot, snapshot: Snapshot, turns: Mapping[TurnKey, int]) -> Update:
    """Takes some tenths of a second where thousands of Mappings changed."""
    return Update(base, snapshot, turns, encode(ApplySnapshot(find_difference(base, snapshot), turns)))


class News:
    """What is still to be told, the newest of each thing however much happened: a slow listener costs no memory."""

    def __init__(self) -> None:
        self._update: Update | None = None
        self._endpoints: dict[str, EndpointSet] = {}

    def apply(self, update: Update) -> None:
        self._update = update
        for name in self._endpoints.keys() - update.snapshot.clusters.keys():
            del self._endpoints[name]

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._endpoints[cluster] = endpoints

    def copy(self) -> News:
        other = News()
        other._update, other._endpoints = self._update, self._endpoints.copy()
        return other

    def take(self) -> tuple[list[bytes], Update | None]:
        """Everything; nothing is left. The pods' messages go first, so that no route waits for its pods."""
        endpoints = [encode(SetEndpoints(name, found)) for name, found in self._endpoints.items()]
        update, self._update, self._endpoints = self._update, None, {}
        return endpoints, update


class HeardPorts:
    """What workers said of their ports."""

    def __init__(self) -> None:
        self.by_worker: dict[int, Listening] = {}
        """The last word of each that serves, by its number."""
        self.changed = asyncio.Event()
        """Set when that changes; who looks clears it."""

    def note(self, worker: int, said: Listening) -> None:
        if self.by_worker.get(worker) != said:
            self.by_worker[worker] = said
            self.changed.set()

    def forget(self, worker: int) -> None:
        if self.by_worker.pop(worker, None) is not None:
            self.changed.set()


class _Child:
    """One worker's place: the process that fills it now, those that still finish their RPCs, and what all counted."""

    def __init__(
        self,
        number: int,
        plan: WorkerPlan,
        core: int | None,
        told: News,
        ports: HeardPorts,
        descriptors: tuple[int, ...],
    ) -> None:
        """`descriptors`: which files the process inherits."""
        self.number, self._descriptors = number, descriptors
        self._ports = ports
        self._plan, self._core, self._told = plan, core, told
        self._news = News()
        self._news_came = asyncio.Event()
        self._held = EMPTY_SNAPSHOT
        """What the process has once it has obeyed everything it was told."""
        self._unanswered: dict[str, Update] = {}
        """By version: what was told and not answered yet."""
        self._served: Update | None = None
        """What was served last, by this process or one before."""
        self._refused: Refused | None = None
        """Why the newest snapshot is not served."""
        self._fell_back = False
        """The process was told what its predecessor served, instead."""
        self._writer: asyncio.StreamWriter | None = None
        self._processes: set[asyncio.subprocess.Process] = set()
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[WorkerReport]] = {}
        self._former: WorkerReport | None = None
        self._last: WorkerReport | None = None
        self._counted: WorkerReport | None = None
        """What is left should the process die now, with pods that have left meanwhile."""
        self.listening: asyncio.Future[Listening] = asyncio.get_running_loop().create_future()
        """The first answer to a snapshot."""
        self.draining = False
        self.restarts = 0
        self._stderr = WorkerStderr(number)
        self._defects = DefectLog(log)

    async def run(self) -> None:
        """Keep one process at work until drained."""
        pause_s = RESTART_FIRST_S
        async with asyncio.TaskGroup() as processes:
            while not self.draining:
                began_s = asyncio.get_running_loop().time()
                with self._defects.contained("a worker cannot be talked to, and is replaced:", str(self.number)):
                    await self._run_once(processes)
                if self.draining:
                    return
                if asyncio.get_running_loop().time() - began_s >= STABLE_S:
                    pause_s = RESTART_FIRST_S
                log.warning("worker %d left; another takes its place in %.1f s", self.number, pause_s)
                self._bequeath()
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, RESTART_MOST_S)

    def _bequeath(self) -> None:
        self._former, self._last = self._counted, None
        self.restarts += 1

    async def _run_once(self, processes: asyncio.TaskGroup) -> None:
        """Start a process and talk to it for as long as it listens; it may live on to finish its RPCs."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    process = await self._spawn(theirs.fileno(), processes)
                except OSError as error:  # too many processes, no memory: may pass
                    log.error("worker %d cannot be started: %s", self.number, error)
                    return
            self._processes.add(process)
            processes.create_task(self._see_out(process), name=f"process of worker {self.number}")
            try:
                if not self.draining:
                    await self._converse(ours)
            finally:
                asyncio.get_running_loop().call_later(self._plan.settings.drain_time_s + DRAIN_GRACE_S, _kill, process)

    async def _spawn(self, descriptor: int, tasks: asyncio.TaskGroup) -> asyncio.subprocess.Process:
        if operator_sets_verbosity(os.environ):
            return await self._start(descriptor, LOG_DESCRIPTOR, None, os.environ)
        shown, (ours, theirs) = os.dup(LOG_DESCRIPTOR), open_pipe()
        tasks.create_task(self._stderr.follow(ours), name=f"stderr of worker {self.number}")
        try:
            return await self._start(descriptor, shown, theirs, worker_environment(os.environ))
        finally:
            os.close(shown)
            os.close(theirs)

    async def _start(
        self, descriptor: int, shown: int, stderr: int | None, environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        """`shown`: where its log goes."""
        # In a process group of its own: Ctrl-C is meant for the control process, which drains the workers.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "grpcgw.workers.worker", str(descriptor), str(shown)),
            pass_fds=(descriptor, shown, *self._descriptors),
            process_group=0,
            stderr=stderr,
            env=environment,
        )

    async def _see_out(self, process: asyncio.subprocess.Process) -> None:
        try:
            code = await process.wait()
            log.log(logging.INFO if self.draining else logging.WARNING, "worker %d ended: code %d", self.number, code)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self._processes.discard(process)

    async def _converse(self, connection: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=connection)
        self._tell_all()
        writer.write(encode(Configure(self.number, self._plan, self._core)))
        self._writer = writer
        try:
            async with asyncio.TaskGroup() as tasks:
                telling = tasks.create_task(self._tell(writer), name=f"news for worker {self.number}")
                await self._listen(reader)
                telling.cancel()
        finally:
            self._writer = None
            self._ports.forget(self.number)
            writer.transport.abort()
            for asked in self._asked.values():
                asked.cancel()
            self._asked.clear()

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # `_listen` sees it, too
            while True:
                await self._news_came.wait()
                self._news_came.clear()
                messages, update = self._news.take()
                if update is not None:
                    messages.append(await self._message_of(update))
                writer.writelines(messages)
                await writer.drain()

    async def _message_of(self, update: Update) -> bytes:
        if update.base is not self._held:  # it was not told all that happened, or starts anew
            update = await asyncio.to_thread(make_update, self._held, update.snapshot, update.turns)
        self._held = update.snapshot
        self._unanswered[update.snapshot.version] = update
        return update.message

    def _tell_all(self) -> None:
        self._held, self._news = EMPTY_SNAPSHOT, self._told.copy()
        self._unanswered.clear()
        self._fell_back = False
        self._news_came.set()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the worker's end
            while True:
                (length,) = FRAME.unpack(await reader.readexactly(FRAME.size))
                self._on_answer(decode(await reader.readexactly(length)))

    def _on_answer(self, message: object) -> None:
        match message:
            case Listening():
                self._on_listening(message)
            case Behind():
                log.warning("worker %d lacks what a change begins with, and is told everything again", self.number)
                self._tell_all()
            case Report(number, report):
                asked = self._asked.pop(number, None)
                if asked is not None and not asked.done():
                    asked.set_result(report)
            case _:
                raise TypeError(f"a worker does not say {message!r}")

    def _on_listening(self, said: Listening) -> None:
        if said.version in self._unanswered:
            self._served = self._unanswered[said.version]
            self._unanswered.clear()
        if said.refused is not None:
            self._refused = said.refused
            self._fall_back(said.version)
        self._ports.note(self.number, replace(said, refused=self._refused))
        if not self.listening.done():
            self.listening.set_result(said)

    def _fall_back(self, version: str) -> None:
        """Tell a new process, which serves nothing, what its predecessor served."""
        first = version == EMPTY_SNAPSHOT.version and not self._fell_back
        if first and self._served is not None and not self._news_came.is_set():
            self._fell_back = True
            self._held = EMPTY_SNAPSHOT  # what the process has is none of the bases: it is encoded anew
            self._news.apply(replace(self._served, base=self._served.snapshot))
            self._news_came.set()

    def apply(self, update: Update) -> None:
        self._refused = None
        self._news.apply(update)
        self._news_came.set()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._news.set_endpoints(cluster, endpoints)
        self._news_came.set()

    async def report(self) -> WorkerReport | None:
        """The worker's numbers with its predecessors'; its last ones where it does not answer in time."""
        writer = self._writer
        if writer is not None and not self.draining and not writer.transport.get_write_buffer_size():
            number = next(self._numbers)
            asked = self._asked[number] = asyncio.get_running_loop().create_future()
            writer.write(encode(Collect(number)))
            await asyncio.wait((asked,), timeout=REPORT_S)
            self._asked.pop(number, None)
            if asked.done() and not asked.cancelled():
                self._last = replace(
                    carry_on(asked.result(), self._former),
                    restarts=self.restarts,
                    handshake_failures=dict(self._stderr.handshake_failures),
                )
                self._counted = leave_behind(self._last, self._counted)
        return self.last_report

    @property
    def last_report(self) -> WorkerReport | None:
        return self._last or self._former

    async def drain(self, limit_s: float) -> None:
        self.draining = True
        if self._writer is not None:
            self._writer.write(encode(Drain(limit_s)))
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes]
        if waits:
            _, late = await asyncio.wait(waits, timeout=limit_s + DRAIN_GRACE_S)
            for wait in late:
                wait.cancel()


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
        process.kill()


class WorkerProcesses:
    """`count` workers, each a process. With one for each of the `cores`, each runs on its own.

    A thread that stays on its core hands the interpreter lock over for less. Fewer workers than cores are left to the
    system: other gateways on the node would choose the same cores.
    """

    opens_ports = True

    def __init__(self, plan: WorkerPlan, count: int, cores: list[int]) -> None:
        self._told = News()
        self._newest = EMPTY_SNAPSHOT
        self.ports = HeardPorts()
        self._turns = SharedTurns(MOST_SHARED if count > 1 else 0)
        self._children = [
            _Child(
                *(number, plan, cores[number] if count == len(cores) else None),
                *(self._told, self.ports, self._turns.descriptors),
            )
            for number in range(count)
        ]

    @property
    def restarts(self) -> int:
        return sum(child.restarts for child in self._children)

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for child in self._children:
                    tasks.create_task(child.run(), name=f"worker {child.number}")
                tasks.create_task(self._keep_reports(), name="worker reports")
        finally:
            self._turns.close()

    async def apply(self, snapshot: Snapshot) -> None:
        turns = await asyncio.to_thread(self._turns.assign, snapshot)
        update = await asyncio.to_thread(make_update, self._newest, snapshot, turns)
        self._newest = snapshot
        self._told.apply(update)
        for child in self._children:
            child.apply(update)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._told.set_endpoints(cluster, endpoints)
        for child in self._children:
            child.set_endpoints(cluster, endpoints)

    async def listening(self) -> tuple[int, ...]:
        first, *_ = await asyncio.gather(*(asyncio.shield(child.listening) for child in self._children))
        return tuple(port.number for port in first.ports)

    async def reports(self) -> tuple[WorkerReport, ...]:
        reports = await asyncio.gather(*(child.report() for child in self._children))
        return tuple(report for report in reports if report is not None)

    async def drain(self, limit_s: float) -> None:
        await asyncio.gather(*(child.drain(limit_s) for child in self._children))

    def last_reports(self) -> tuple[WorkerReport, ...]:
        return tuple(child.last_report for child in self._children if child.last_report is not None)

    async def _keep_reports(self) -> None:
        defects = DefectLog(log)
        while True:
            await asyncio.sleep(KEEP_REPORTS_S)
            with defects.contained("reports cannot be kept"):
                await self.reports()


class WorkerHere:
    """The one worker inside the control process (`--workers 0`): tests and embedding."""

    opens_ports = True
    restarts = 0

    def __init__(self, plan: WorkerPlan) -> None:
        self._worker = Worker(0, plan)
        self._snapshots: asyncio.Queue[Snapshot] = asyncio.Queue()
        self.ports = HeardPorts()
        self._listening: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        # Opening ports and draining block; on one thread neither can meet the other half way.
        self._thread = ThreadPoolExecutor(1, "grpcgw worker")
        self._drained = False

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                said = await loop.run_in_executor(self._thread, await self._next_work())
                self.ports.note(0, said)
                if not self._listening.done():
                    self._listening.set_result(tuple(port.number for port in said.ports))
        finally:
            if not self._drained:
                self._thread.submit(self._worker.drain, 0.0)
            self._thread.shutdown()

    async def _next_work(self) -> Callable[[], Listening]:
        """To serve the next snapshot, or, where none comes for a while, to look at the ports."""
        if not self._listening.done():
            return partial(self._worker.try_to_apply, await self._snapshots.get())
        try:
            return partial(self._worker.try_to_apply, await asyncio.wait_for(self._snapshots.get(), KEEP_REPORTS_S))
        except TimeoutError:
            return self._worker.listening

    async def apply(self, snapshot: Snapshot) -> None:
        self._snapshots.put_nowait(snapshot)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self._worker.set_endpoints(SetEndpoints(cluster, endpoints))

    async def listening(self) -> tuple[int, ...]:
        return await asyncio.shield(self._listening)

    async def reports(self) -> tuple[WorkerReport, ...]:
        return self.last_reports()

    def last_reports(self) -> tuple[WorkerReport, ...]:
        return (self._worker.report(),)

    async def drain(self, limit_s: float) -> None:
        self._drained = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._worker.drain, limit_s)
