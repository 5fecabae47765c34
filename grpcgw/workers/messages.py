"""What the control process and a worker say to each other, and how it is framed: pickled values on a socket pair.

Both ends are the same program of the same version, parent and child; nothing else ever reaches this socket.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field

from grpcgw.listeners.open_ports import OpenPort, PortFault
from grpcgw.model.difference import Difference
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.objects import ObjectKey
from grpcgw.settings import Settings
from grpcgw.telemetry.report import WorkerReport
from grpcgw.workers import gc_tuning
from grpcgw.workers.shared_turns import TurnKey

FRAME = struct.Struct("!I")
"""Length of the pickled message that follows, in bytes."""


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """How a worker is to run; the same for all of them."""

    settings: Settings
    first_turn: int = 0
    """Where workers begin with turns they do not share, each one further than the one before."""


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
    """Serve this from the next RPC on, by its Listeners' ports alone. Answered by `Listening` or `Behind`."""

    difference: Difference
    """To the snapshot told before; the whole, to a worker that was told none."""
    turns: Mapping[TurnKey, int] = field(default_factory=dict)
    """The descriptors of the turns to share (`SharedTurns`)."""


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
    """Finish what runs, for at most `limit_s`, then end; the end of the process is the answer."""

    limit_s: float


# --- from a worker


@dataclass(frozen=True, slots=True)
class Refused:
    why: str
    mapping: ObjectKey | None = None
    """The object to blame, where it is known."""


@dataclass(frozen=True, slots=True)
class Listening:
    ports: tuple[OpenPort, ...]
    """Those in fact open."""
    faults: tuple[PortFault, ...] = ()
    """Why others are not; they are tried again with the next `ApplySnapshot`."""
    refused: Refused | None = None
    """Why the newest snapshot is not served, which is a defect; the one before is, if there was one."""
    version: str = field(default="", compare=False)
    """Of the snapshot that is served."""


@dataclass(frozen=True, slots=True)
class Behind:
    """The worker has not the snapshot that a difference begins with: it needs the whole."""


@dataclass(frozen=True, slots=True)
class Report:
    number: int
    report: WorkerReport


Command = Configure | ApplySnapshot | SetEndpoints | Collect | Drain
Answer = Listening | Behind | Report


def encode(message: Command | Answer) -> bytes:
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return FRAME.pack(len(body)) + body


def decode(body: bytes) -> object:
    """The message of a frame, without its length."""
    with gc_tuning.paused():
        return pickle.loads(body)
