"""Counts clients' connections, and requests on them that are no RPCs. For engines that own the connections."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

from grpcgw.telemetry.report import ClientReport


class CloseCause(StrEnum):
    """Why a connection ended, as `grpcgw_client_connections_closed_total` counts it."""

    CLIENT = "client"
    """The client closed it, or the network broke it."""
    GATEWAY = "gateway"
    """The gateway sent GOAWAY, for idleness, age or drain, and the last RPC ended."""
    CUT_OFF = "cut-off"
    """The gateway closed it with RPCs, at the end of the drain time or of the grace of an old connection."""
    SILENT = "silent"
    """The client did not acknowledge the settings or answer a ping."""
    PROTOCOL_ERROR = "protocol-error"
    """The client broke HTTP/2 or TLS, or exceeded a limit on the connection."""
    NOT_SERVED = "not-served"
    """The port does not serve what the first bytes were: clear text, TLS, a PROXY header, no protocol that is known."""
    TLS_HANDSHAKE = "tls-handshake"
    """The handshake failed; `grpcgw_tls_handshake_failures_total` has the causes."""
    TOO_SLOW = "too-slow"
    """The PROXY header or the TLS handshake was not complete in time."""
    HTTP1 = "http1"
    """The connection spoke HTTP/1.1 and got its last answer, or was quiet."""
    WORKER_DIED = "worker-died"


class ClientCounters:
    """For one thread; `report` may be called from another."""

    def __init__(self) -> None:
        self._accepted: Counter[int] = Counter()
        self._closed: Counter[tuple[int, CloseCause]] = Counter()
        self.malformed_requests = 0
        self.http_requests: Counter[int] = Counter()
        """By the status of the answer."""

    def add_port(self, port: int) -> None:
        """Report it also while it has no connection."""
        self._accepted[port] += 0

    def accept(self, port: int) -> None:
        self._accepted[port] += 1

    def close(self, port: int, cause: CloseCause) -> None:
        """Once for each connection that was accepted."""
        self._closed[port, cause] += 1

    def report(self) -> ClientReport:
        by_cause: Counter[str] = Counter()
        # `dict` copies in one step. What is closed first: else a connection might be closed that is not accepted.
        closed = dict(self._closed)
        accepted = dict(self._accepted)
        ended: Counter[int] = Counter()
        for (port, cause), count in closed.items():
            by_cause[cause.value] += count
            ended[port] += count
        return ClientReport(
            {port: count - ended[port] for port, count in accepted.items()},
            accepted,
            dict(by_cause),
            self.malformed_requests,
            dict(self.http_requests),
        )
