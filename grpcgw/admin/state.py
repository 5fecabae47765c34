"""`GatewayState`: the running gateway at one moment, immutable; and `StateProvider`, which takes it.

The admin package never reaches into the gateway; it asks a `StateProvider` and renders the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from grpcgw.admin.recent import Totals
from grpcgw.discovery.sources.key_sets import KeySetStatus
from grpcgw.discovery.store import SourceStatus
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.objects import Problem
from grpcgw.model.snapshot import EMPTY_SNAPSHOT, Snapshot
from grpcgw.telemetry.report import WorkerReport


@dataclass(frozen=True, slots=True)
class ListenerState:
    """A data port: `address` is `host:port`, `protocol` is `h2c`, `tls`, or both."""

    address: str
    protocol: str
    detail: str = ""
    """For TLS: the certificates' names, or `self-signed`."""


@dataclass(frozen=True, slots=True)
class GatewayState:
    """All times are seconds since the epoch; 0.0 means never."""

    now_s: float
    started_at_s: float
    hostname: str
    ambassador_id: str
    ambassador_namespace: str
    """Where the gateway itself runs."""
    namespace: str
    """Namespace scope; empty: all namespaces."""
    ready: bool
    """The first complete configuration is served on a port at least, and the gateway is not draining."""
    draining: bool
    snapshot: Snapshot = EMPTY_SNAPSHOT
    configured_at_s: float = 0.0
    """When `snapshot` went live."""
    compile_ms: float = 0.0
    problems: tuple[Problem, ...] = ()
    endpoints: Mapping[str, EndpointSet] = field(default_factory=dict)
    """By cluster name; a cluster without an entry is not resolved yet."""
    sources: tuple[SourceStatus, ...] = ()
    key_sets: tuple[KeySetStatus, ...] = ()
    workers: tuple[WorkerReport, ...] = ()
    listeners: tuple[ListenerState, ...] = ()
    configuration_errors_total: int = 0
    """Compilations that found at least one error, since the start."""
    worker_restarts_total: int = 0
    recent: Totals = field(default_factory=dict)
    """RPCs of the last minute, by Mapping."""


class OneAtATime:
    """Takes one state at a time, however many requests wait: each state costs every worker a report.

    A request gets a state that was begun after the request.
    """

    def __init__(self, provider: StateProvider) -> None:
        self._provider = provider
        self._taking = asyncio.Lock()
        self._next: asyncio.Task[GatewayState] | None = None

    async def state(self) -> GatewayState:
        if self._next is None:
            self._next = asyncio.create_task(self._take(), name="state for the admin port")
        return await asyncio.shield(self._next)

    async def _take(self) -> GatewayState:
        async with self._taking:
            self._next = None  # a later request needs a newer state
            return await self._provider.state()


class StateProvider(Protocol):
    async def state(self) -> GatewayState:
        """The current state. Requests the workers' counters and waits at most half a second for them."""
        ...
