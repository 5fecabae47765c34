"""Ports of the workers: which to open, which are open, and why others are not."""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.carriers.carrier import CarrierReport, RefusedSnapshot, ServedPort, UncarriedRoute, find_unbuilt
from grpcgw.listeners.data_ports import DataPorts
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import Snapshot
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers.messages import Listening, Refused

RETRY_PORTS_S = 3.0
"""How often a port that could not be opened is tried again."""


class PortStatus:
    """Of one carrier with any number of workers."""

    def __init__(self, data_ports: DataPorts, workers: int) -> None:
        self._data_ports = data_ports
        self._not_started = set(range(workers))
        self._snapshot: Snapshot | None = None
        """Of the last `plan`."""
        self._uncarried: tuple[UncarriedRoute, ...] = ()
        """Routes of `_snapshot` whose policies the workers cannot build."""
        self._listeners: tuple[Listener, ...] = ()
        """What workers are to open, by the last `plan`."""
        self.by_worker: dict[int, Listening] = {}
        """The last answer of each worker that serves, by its number."""
        self.on_change: Callable[[], None] = _ignore
        """Called when something here changed."""

    def plan(self, snapshot: Snapshot) -> tuple[Listener, ...]:
        """Decide which ports to open for `snapshot`, and hold them."""
        faults = self._data_ports.faults
        if snapshot is not self._snapshot:
            self._uncarried = find_unbuilt(snapshot)
        self._snapshot, self._listeners = snapshot, self._data_ports.bind(snapshot)
        if self._data_ports.faults != faults:
            self.on_change()
        return self._listeners

    def plan_again(self) -> tuple[Snapshot, tuple[Listener, ...]] | None:
        """What to send to the workers again: the last snapshot, if a port is free now that was taken before, or a
        worker could not open a port or serve the snapshot. None: nothing."""
        if self._snapshot is None:
            return None
        before, listeners = self._listeners, self.plan(self._snapshot)
        if listeners == before and not any(answer.faults or answer.refused for answer in self.by_worker.values()):
            return None
        return self._snapshot, listeners

    def note(self, worker: int, answer: Listening) -> None:
        """Take an answer of a worker. The first one means that it has started."""
        before = self.by_worker.get(worker)
        self.by_worker[worker] = answer
        if before != answer or before.version != answer.version or worker in self._not_started:
            self._not_started.discard(worker)
            self.on_change()

    def forget(self, worker: int) -> None:
        """The worker ended: its ports are closed."""
        if self.by_worker.pop(worker, None) is not None:
            self.on_change()

    @property
    def started(self) -> bool:
        """Every worker has answered a snapshot. Stays true when one is replaced."""
        return not self._not_started

    def report(self, workers: tuple[WorkerReport, ...], restarts: int) -> CarrierReport:
        """`workers`: their counters. `restarts`: how many were replaced."""
        versions = {answer.version for answer in self.by_worker.values()}
        ports = self._served() if self.started else ()
        return CarrierReport(
            version=versions.pop() if len(versions) == 1 else "",
            started=self.started,
            ready=bool(ports),
            ports=ports,
            port_faults=(*self._data_ports.faults, *self._worker_faults()),
            refused=self._refusals(),
            uncarried=self._uncarried,
            workers=workers,
            restarts=restarts,
        )

    def _served(self) -> tuple[ServedPort, ...]:
        """The ports that at least one worker serves."""
        certificates = {one.name: tuple(each.name for each in one.certificates) for one in self._listeners}
        addresses = {one.name: one.address for one in self._listeners}
        return tuple(
            ServedPort(
                port.listener,
                addresses.get(port.listener) or self._data_ports.address,
                port.number,
                port.transport,
                certificates.get(port.listener, ()),
            )
            for port in sorted(
                {port for answer in self.by_worker.values() for port in answer.ports},
                key=lambda port: (port.number, port.listener),
            )
        )

    def _worker_faults(self) -> list[PortFault]:
        """Each fault once, with the workers that have it."""
        workers: dict[PortFault, list[str]] = {}
        for number, answer in sorted(self.by_worker.items()):
            for fault in answer.faults:
                workers.setdefault(fault, []).append(f"worker {number}")
        return [
            PortFault(fault.listener, f"{', '.join(names)}: {fault.why}; it is tried again")
            for fault, names in workers.items()
        ]

    def _refusals(self) -> tuple[RefusedSnapshot, ...]:
        workers: dict[Refused, list[str]] = {}
        for number, answer in sorted(self.by_worker.items()):
            if answer.refused is not None:
                workers.setdefault(answer.refused, []).append(f"worker {number}")
        return tuple(RefusedSnapshot(", ".join(names), why.why, why.mapping) for why, names in workers.items())

    def close(self) -> None:
        """Release the ports."""
        self._data_ports.release()


def _ignore() -> None:
    """Used until a callback is set."""
