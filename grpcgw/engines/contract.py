"""The contract of engines, and the options that all of them take.

An engine owns sockets and drives sessions; the rules of RPCs are in `session`, the routes in `Serving`.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from grpcgw.listeners.open_ports import Ports
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import Snapshot
from grpcgw.session.serving import Serving
from grpcgw.settings import DEFAULT_MAX_MESSAGE_BYTES

QUIET_CORE = "NONE"

REFUSING_S = 0.1
"""Time during which a draining gateway refuses new RPCs itself: after GOAWAY to clients, grpc core ends those that
arrive as CANCELLED, which no client retries."""

ASK_CLIENTS_MS, CLIENT_ANSWERS_MS = 20_000, 60_000
"""Keepalive of silent client connections: a ping after the first time, an answer within the second."""


def quiet_core() -> None:
    """For a process of the gateway's own, before grpc is first used: core would write a line per malformed request,
    of which a bad client can send any number. A program that embeds the gateway keeps its log."""
    os.environ.setdefault("GRPC_VERBOSITY", QUIET_CORE)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Address of a worker's ports, and limits of one client connection."""

    address: str
    max_concurrent_streams: int
    """Default of ports without a value of their own."""
    max_metadata_bytes: int
    max_connection_age_s: float | None = None
    """Client connections get GOAWAY at this age, give or take a tenth; None: never."""
    max_connection_age_grace_s: float | None = None
    """RPCs still running on such a connection are cut off after this time; None: never."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Limit of a client's message, uncompressed, on ports without a limit of their own."""
    busy_poll_s: float = 0.0
    """How long to poll for the next event after one; only the http2 engine does."""

    def target(self, port: int, address: str = "") -> str:
        """`host:port` to listen on. `address`: of a port that has its own."""
        host = address or self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Engine(Protocol):
    """One worker's data plane. `start`, then changes through `serving` and `ports`, then `drain` and `stop`, each once.

    All but `serving` is for one thread at a time.
    """

    @property
    def name(self) -> str: ...
    @property
    def serving(self) -> Serving: ...
    @property
    def ports(self) -> Ports:
        """Opened after `start`: RPCs so find their turns from the first one on, instead of the pod that happened to
        connect first."""
        ...

    @property
    def active(self) -> Collection[object]:
        """The RPCs that the engine has not let go of."""
        ...

    def start(self, settle_s: float) -> None:
        """Keep connections to the pods from now on; returns when each is tried, at the latest after `settle_s`."""
        ...

    def drain(self, limit_s: float) -> None:
        """Refuse new RPCs and send GOAWAY to clients; returns when the last RPC ended, at the latest after `limit_s`
        when the rest was ended with UNAVAILABLE."""
        ...

    def stop(self) -> None:
        """Close everything. Blocks until no thread and no socket is left."""
        ...


def max_message_bytes(options: ServerOptions, listener: Listener) -> int:
    """Of a client's message on a port."""
    return listener.max_message_bytes or options.max_message_bytes


def sweep_interval_s(snapshot: Snapshot) -> float:
    """Interval of sweeps over running RPCs: a tenth of the shortest idle timeout, between 20 ms and 1 s."""
    idle_ms = [d.idle_timeout_ms for route in snapshot.routes for d in route.destinations if d.idle_timeout_ms]
    return min(1.0, max(0.02, min(idle_ms, default=10_000) / 10_000))
