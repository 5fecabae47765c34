"""A carrier that only the tests have: it serves nobody, and keeps what control publishes to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from grpcgw.carriers.carrier import CarrierReport
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.jwt import MissingKey
from grpcgw.model.snapshot import Snapshot

Event = tuple[str, EndpointSet] | Snapshot


@dataclass(eq=False)
class RecordingCarrier:
    """A `Carrier`. Set `said` to what it reports beside version and readiness, and call `changed` then."""

    name: str = "recorder"
    events: list[Event] = field(default_factory=list)
    """Endpoint sets with their cluster, and snapshots, in the order in which they came."""
    said: CarrierReport = field(default_factory=CarrierReport)
    version: str = ""
    closed: int = 0
    drained_s: float | None = None

    def __post_init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None

    async def run(self, changed: Callable[[], None], want_key: Callable[[MissingKey], None]) -> None:
        self.changed, self.want_key = changed, want_key
        await asyncio.Event().wait()

    async def apply(self, snapshot: Snapshot) -> None:
        self.events.append(snapshot)
        self.version = snapshot.version
        self.changed()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        self.events.append((cluster, endpoints))

    def report(self) -> CarrierReport:
        said = self.said
        served = bool(self.version)
        return CarrierReport(
            self.version, served, served, said.ports, said.port_faults, said.refused, said.uncarried, said.workers
        )

    async def collect(self) -> CarrierReport:
        return self.report()

    async def drain(self, limit_s: float) -> None:
        self.drained_s = limit_s

    def close(self) -> None:
        self.closed += 1

    def snapshots(self) -> list[Snapshot]:
        return [event for event in self.events if isinstance(event, Snapshot)]

    def endpoints(self) -> list[tuple[str, EndpointSet]]:
        return [event for event in self.events if not isinstance(event, Snapshot)]
