"""Messages between the control process and a worker: pickled values, framed, on a socket pair.

Both ends are the same program of the same version, parent and child; nobody else has the socket.
"""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from grpcgw.listeners.open_ports import OpenPort, PortFault
from grpcgw.model.balancing import Balancing, LoadBalancer
from grpcgw.model.difference import Difference
from grpcgw.model.edits import HeaderAdd, HeaderEdits
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.listener import Listener
from grpcgw.model.match import PathMatch
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route import Destination, Route, WeightedCluster
from grpcgw.settings import Settings
from grpcgw.telemetry.report import PodReport, WorkerReport
from grpcgw.workers import gc_tuning
from grpcgw.workers.shared_turns import TurnKey

FRAME = struct.Struct("!I")
"""Length of the pickled message that follows, in bytes."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Settings of a worker process; the same for all workers."""

    settings: Settings
    first_turn: int = 0
    """Where worker 0 starts its own round-robin positions; each further worker starts one later."""
    limits: int | None = None
    """Descriptor of what all workers count together (`shared_limits`); None: each counts by itself."""


# --- from the control process


@dataclass(frozen=True, slots=True)
class Configure:
    """The first message to a new worker process."""

    worker: int
    plan: WorkerPlan
    core: int | None
    """Processor to run on; None: any."""


@dataclass(frozen=True, slots=True)
class ApplySnapshot:
    """Serve a snapshot from the next RPC on. Answered by `Listening` or `Behind`."""

    difference: Difference
    """From the snapshot sent before; from EMPTY_SNAPSHOT to a new worker."""
    listeners: tuple[Listener, ...]
    """The ports to open, and no others: the snapshot's Listeners without those whose port another program has, or the
    ports of the command line."""
    turns: Mapping[TurnKey, int] = field(default_factory=dict)
    """Descriptors of the shared round-robin positions (`SharedTurns`)."""


@dataclass(frozen=True, slots=True)
class SetEndpoints:
    cluster: str
    endpoints: EndpointSet


@dataclass(frozen=True, slots=True)
class Collect:
    """Answered by a `Report` with the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Let running RPCs finish for at most `limit_s`, then end. The end of the process is the answer."""

    limit_s: float


# --- from a worker


@dataclass(frozen=True, slots=True)
class Refused:
    """A snapshot that cannot be served, which is a defect."""

    why: str
    mapping: ObjectKey | None = None
    """The object to blame, where it is known."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Which ports are open and which snapshot is served."""

    ports: tuple[OpenPort, ...]
    """Those that are open."""
    faults: tuple[PortFault, ...] = ()
    """Why others are not; the next `ApplySnapshot` tries them again."""
    refused: Refused | None = None
    """Why the newest snapshot is not served; the one before is, if there was one."""
    version: str = field(default="", compare=False)
    """Of the snapshot that is served. Not compared: an answer with the same ports is equal."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The worker lacks the base of a difference: it needs the whole snapshot."""


@dataclass(frozen=True, slots=True)
class Report:
    number: int
    report: WorkerReport


@dataclass(frozen=True, slots=True)
class WantKey:
    """A token has a key that is not known."""

    missing: MissingKey


_FREQUENT = (Route, PathMatch, Destination, WeightedCluster, Balancing, LoadBalancer, HeaderEdits, HeaderAdd, PodReport)
"""Those of which a snapshot or a report has thousands: at least two fields each, all of them in the constructor."""


Command = Configure | ApplySnapshot | SetEndpoints | Collect | Drain
Answer = Listening | Behind | Report | WantKey


def encode(message: Command | Answer) -> bytes:
    stream = io.BytesIO()
    pickler = pickle.Pickler(stream, protocol=pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = _REDUCERS
    pickler.dump(message)
    body = stream.getvalue()
    return FRAME.pack(len(body)) + body


_Reduced = tuple[type, tuple[object, ...]]


def _reduce(kind: type) -> Callable[[Any], _Reduced]:
    """Pickles a dataclass as its constructor and its fields: a third of the cost of how frozen slotted ones pickle
    themselves."""
    read = attrgetter(*(one.name for one in fields(kind)))
    return lambda value: (kind, read(value))


_REDUCERS: dict[type, Callable[[Any], Any]] = {**copyreg.dispatch_table, **{kind: _reduce(kind) for kind in _FREQUENT}}


def decode(body: bytes) -> object:
    """The message of a frame, without its length."""
    with gc_tuning.paused():
        return pickle.loads(body)
