"""One worker slot: keeps one process running, delivers the configuration to it, and carries its counters on.

A process that dies is replaced with exponential back-off. Its successor gets everything there is, and the slot's
counters never fall.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace

from grpcgw.logs import DefectLog
from grpcgw.model.jwt import MissingKey
from grpcgw.telemetry.merge import carry_on, leave_behind
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.delivery import Delivery
from grpcgw.workers.messages import (
    FRAME,
    Behind,
    Collect,
    Configure,
    Drain,
    Listening,
    Report,
    WantKey,
    WorkerPlan,
    decode,
    encode,
)
from grpcgw.workers.port_status import PortStatus
from grpcgw.workers.worker_stderr import WorkerStderr, open_pipe, operator_sets_verbosity, worker_environment

log = logging.getLogger(__name__)

LOG_DESCRIPTOR = 2
"""Descriptor of the gateway's own log and of its workers'."""

REPORT_S = 0.5
"""How long to wait for a report; a worker that does not answer in time is shown with its last one."""
FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_S = 0.1, 5.0, 10.0
"""A dead worker is replaced after the first pause, doubled each time up to the longest, until one lived this long."""
DRAIN_GRACE_S = 5.0
"""How much longer than the drain time a worker may take to end before it is killed."""


class WorkerSlot:
    """The process that fills the slot now, former ones that still finish their RPCs, and the counters of all."""

    def __init__(
        self,
        number: int,
        plan: WorkerPlan,
        core: int | None,
        delivery: Delivery,
        ports: PortStatus,
        descriptors: tuple[int, ...],
    ) -> None:
        """`core`: the processor to run on; None: any. `descriptors`: the files that processes inherit."""
        self.number, self._descriptors = number, descriptors
        self._plan, self._core = plan, core
        self.delivery, self._ports = delivery, ports
        self._writer: asyncio.StreamWriter | None = None
        self._processes: set[asyncio.subprocess.Process] = set()
        self._numbers = itertools.count(1)
        self._awaited: dict[int, asyncio.Future[WorkerReport]] = {}
        """Reports asked for, by the number of the request."""
        self._former: WorkerReport | None = None
        """The counters of all processes that ended."""
        self._last: WorkerReport | None = None
        self._counted: WorkerReport | None = None
        """Becomes `_former` if the process dies now; it also has pods that left since its start."""
        self.draining = False
        self.restarts = 0
        self._want_key: Callable[[MissingKey], None] = lambda _: None
        """Set by `run`."""
        self._stderr = WorkerStderr(number)
        self._defects = DefectLog(log)

    async def run(self, want_key: Callable[[MissingKey], None]) -> None:
        """Keep one process running until drained. `want_key`: as of `Carrier.run`."""
        self._want_key = want_key
        pause_s = FIRST_PAUSE_S
        async with asyncio.TaskGroup() as processes:
            while not self.draining:
                began_s = asyncio.get_running_loop().time()
                with self._defects.contained("the connection to a worker failed:", str(self.number)):
                    await self._run_once(processes)
                if self.draining:
                    return
                if asyncio.get_running_loop().time() - began_s >= STABLE_S:
                    pause_s = FIRST_PAUSE_S
                log.warning("worker %d ended unexpectedly; it is replaced in %.1f s", self.number, pause_s)
                self._former, self._last = self._counted, None
                self.restarts += 1
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _run_once(self, processes: asyncio.TaskGroup) -> None:
        """Start a process and serve its socket until it closes; the process may then still finish its RPCs."""
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                try:
                    process = await self._spawn(theirs.fileno(), processes)
                except OSError as error:  # too many processes, no memory: may pass
                    log.error("worker %d cannot be started: %s", self.number, error)
                    return
            self._processes.add(process)
            processes.create_task(self._wait_for_exit(process), name=f"process of worker {self.number}")
            try:
                if not self.draining:
                    await self._converse(ours)
            finally:
                asyncio.get_running_loop().call_later(self._plan.settings.drain_time_s + DRAIN_GRACE_S, _kill, process)

    async def _spawn(self, descriptor: int, tasks: asyncio.TaskGroup) -> asyncio.subprocess.Process:
        if operator_sets_verbosity(os.environ):
            return await self._start(descriptor, LOG_DESCRIPTOR, None, os.environ)
        log_descriptor, (read_end, write_end) = os.dup(LOG_DESCRIPTOR), open_pipe()
        tasks.create_task(self._stderr.follow(read_end), name=f"stderr of worker {self.number}")
        try:
            environment = os.environ if self._plan.settings.engine.counts_handshakes else worker_environment(os.environ)
            return await self._start(descriptor, log_descriptor, write_end, environment)
        finally:
            os.close(log_descriptor)
            os.close(write_end)

    async def _start(
        self, descriptor: int, log_descriptor: int, stderr: int | None, environment: Mapping[str, str]
    ) -> asyncio.subprocess.Process:
        # In a process group of its own: Ctrl-C goes to the control process alone, which drains the workers.
        return await asyncio.create_subprocess_exec(
            *(sys.executable, *_path_flags(), "-m", "grpcgw.workers.worker", str(descriptor), str(log_descriptor)),
            pass_fds=(descriptor, log_descriptor, *self._descriptors),
            process_group=0,
            stderr=stderr,
            env=environment,
        )

    async def _wait_for_exit(self, process: asyncio.subprocess.Process) -> None:
        try:
            code = await process.wait()
            log.log(logging.INFO if self.draining else logging.WARNING, "worker %d ended: code %d", self.number, code)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            self._processes.discard(process)

    async def _converse(self, connection: socket.socket) -> None:
        """Send and receive until the process closes its end."""
        reader, writer = await asyncio.open_connection(sock=connection)
        self.delivery.start_over()
        writer.write(encode(Configure(self.number, self._plan, self._core)))
        self._writer = writer
        try:
            async with asyncio.TaskGroup() as tasks:
                sending = tasks.create_task(self._send(writer), name=f"messages to worker {self.number}")
                await self._receive(reader)
                sending.cancel()
        finally:
            self._writer = None
            self._ports.forget(self.number)
            writer.transport.abort()
            for awaited in self._awaited.values():
                awaited.cancel()
            self._awaited.clear()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):  # `_receive` sees it, too
            while True:
                writer.writelines(await self.delivery.next_messages())
                await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):  # the process ended
            while True:
                (length,) = FRAME.unpack(await reader.readexactly(FRAME.size))
                self._on_answer(decode(await reader.readexactly(length)))

    def _on_answer(self, message: object) -> None:
        match message:
            case Listening():
                self._ports.note(self.number, self.delivery.on_answer(message))
            case WantKey(missing):
                self._want_key(missing)
            case Behind():
                log.warning("worker %d lacks the base of a difference, and gets the whole configuration", self.number)
                self.delivery.start_over()
            case Report(number, report):
                awaited = self._awaited.pop(number, None)
                if awaited is not None and not awaited.done():
                    awaited.set_result(report)
            case _:
                raise TypeError(f"a worker does not send {message!r}")

    async def report(self) -> WorkerReport | None:
        """The worker's counters with its predecessors'; the last ones where it does not answer in time."""
        writer = self._writer
        if writer is not None and not self.draining and not writer.transport.get_write_buffer_size():
            number = next(self._numbers)
            awaited = self._awaited[number] = asyncio.get_running_loop().create_future()
            writer.write(encode(Collect(number)))
            await asyncio.wait((awaited,), timeout=REPORT_S)
            self._awaited.pop(number, None)
            if awaited.done() and not awaited.cancelled():
                self._last = replace(carry_on(awaited.result(), self._former), restarts=self.restarts)
                self._counted = leave_behind(self._last, self._counted)
        return self.last_report

    @property
    def last_report(self) -> WorkerReport | None:
        """None: no process has reported yet."""
        report = self._last or self._former
        if report is None:
            return None
        failures = self._stderr.handshake_failures + Counter(report.handshake_failures)
        return replace(report, handshake_failures=dict(failures))

    async def drain(self, limit_s: float) -> None:
        """Drain the process; returns when it ended, or was given up DRAIN_GRACE_S after `limit_s`."""
        self.draining = True
        if self._writer is not None:
            self._writer.write(encode(Drain(limit_s)))
        waits = [asyncio.ensure_future(process.wait()) for process in self._processes]
        if waits:
            _, late = await asyncio.wait(waits, timeout=limit_s + DRAIN_GRACE_S)
            for wait in late:
                wait.cancel()


def _path_flags() -> tuple[str, ...]:
    """A worker finds own policies where this process does: -m looks in the working directory, an installed command
    does not."""
    return () if sys.path[0] in ("", os.getcwd()) else ("-P",)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended, as it should
        process.kill()
