"""Carrier: takes snapshots and endpoint sets from the control process, and reports what it serves.

Carriers are worker processes, one worker in this process, and a program that embeds the gateway; more may be added.
Control publishes to a list of carriers and knows none of them by its type.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.listener import Transport
from grpcgw.model.objects import ObjectKey
from grpcgw.model.snapshot import Snapshot
from grpcgw.policy.catalogue import CATALOGUE
from grpcgw.telemetry.report import WorkerReport


@dataclass(frozen=True, slots=True)
class ServedPort:
    """A port on which the carrier serves clients."""

    listener: str
    """Name of the Listener, or of the flag that asked for the port."""
    address: str
    number: int
    transport: Transport
    certificates: tuple[str, ...] = ()
    """For TLS: names of the certificates, for the operator."""

    def __str__(self) -> str:
        """`host:port`, as in a URL."""
        return f"[{self.address}]:{self.number}" if ":" in self.address else f"{self.address}:{self.number}"


@dataclass(frozen=True, slots=True)
class RefusedSnapshot:
    """The carrier, or a part of it, cannot serve the newest snapshot because of a defect, and serves the one before."""

    by: str
    """The part, for the operator: `worker 0, worker 1`."""
    why: str
    key: ObjectKey | None = None
    """The object to blame, where it is known."""


@dataclass(frozen=True, slots=True)
class UncarriedRoute:
    """A route that this carrier cannot serve as it is configured. Other carriers may."""

    key: ObjectKey | None
    """The object that configures it; None: it is every route."""
    why: str


@dataclass(frozen=True, slots=True)
class CarrierReport:
    """What a carrier serves."""

    version: str = ""
    """Of the snapshot that all its parts serve; empty: none yet, or they differ."""
    started: bool = False
    """Every part has answered its first snapshot. Stays true."""
    ready: bool = False
    """A complete configuration is served and clients can connect."""
    ports: tuple[ServedPort, ...] = ()
    """The open ports, by number; empty where clients come in by another program's ports."""
    port_faults: tuple[PortFault, ...] = ()
    """Listeners whose port is not open, or not as they ask for, with the cause."""
    refused: tuple[RefusedSnapshot, ...] = ()
    uncarried: tuple[UncarriedRoute, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    """Counters of its workers, cumulative."""
    restarts: int = 0
    """How many workers were replaced since the start."""


def find_unbuilt(snapshot: Snapshot) -> tuple[UncarriedRoute, ...]:
    """Routes that no worker can serve because a policy of theirs cannot be built: their RPCs are refused."""
    shared = [UncarriedRoute(None, why) for why in CATALOGUE.find_shared_faults(snapshot.policies)]
    return (*shared, *(UncarriedRoute(key, why) for key, why in CATALOGUE.find_faults(snapshot.routes).items()))


class Carrier(Protocol):
    """All methods run in the event loop of the control process.

    `close` must be called once; between construction and `close`, `run` runs until it is cancelled. Control contains
    what the methods raise, so that it reaches no other carrier. What `run` and `apply` raise is a problem of this
    carrier; what the others raise is in the log. An exception in `run` ends no RPC.
    """

    @property
    def name(self) -> str:
        """What problems and logs call it; unique among the carriers of a gateway."""
        ...

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        """Serve until cancelled. Calls `changed` whenever `report` says something new about versions, ports or faults;
        new counters alone are no change. Calls `want_key` when a token has a key that is not known, so that its
        key set is fetched. May be called again after it raised."""
        ...

    async def apply(self, snapshot: Snapshot) -> None:
        """Serve `snapshot` soon; returns when it is on its way. Control calls it once at a time, always with the newest
        snapshot, and skips snapshots that were replaced. Known endpoint sets of new clusters come before it. Raises
        `routing.binding.CannotServe` where an object of the snapshot cannot be served.
        """
        ...

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """Use `endpoints` for `cluster` from now on. Must not block. The cluster may be one of the next snapshot."""
        ...

    def report(self) -> CarrierReport:
        """What is known now; counters may be a second old. Must not block."""
        ...

    async def collect(self) -> CarrierReport:
        """As `report`, with fresh counters; takes half a second at most."""
        ...

    async def drain(self, limit_s: float) -> None:
        """Refuse new RPCs, let running ones finish for at most `limit_s`, then end them. Called once, while `run` is
        running."""
        ...

    def close(self) -> None:
        """Release ports and files, after `run` ended or in place of it."""
        ...
