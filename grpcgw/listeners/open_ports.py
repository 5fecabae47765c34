"""The ports of a data plane: which are open, and what becomes of them when the configuration changes. Pure.

Each port is a server of its own, made by the engine, so that one opens, changes or goes without a connection of
another noticing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from grpcgw.errors import UserError
from grpcgw.model.listener import Listener, ServerCertificate, Transport


@dataclass(slots=True, eq=False)
class PortView:
    """What a session knows of the port that its RPC came in by."""

    listener: str = ""
    tls: bool = False
    asks_clients: bool = False
    """For their certificates."""
    closing: bool = False
    """New RPCs are refused."""
    max_message_bytes: int = sys.maxsize
    """Of a client's message, uncompressed. Engines set it when they open the port."""


SOME_PORT = PortView(asks_clients=True)
"""Of an RPC whose engine knows nothing of its port."""


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port on which clients are served, for those who do not serve them."""

    listener: str
    number: int
    transport: Transport


@dataclass(frozen=True, slots=True)
class PortFault:
    """What was wanted of a Listener's port and could not be done."""

    listener: str
    why: str


class Port(Protocol):
    """An open port of an engine."""

    @property
    def number(self) -> int: ...
    @property
    def fault(self) -> str:
        """Why it takes no connections just now; empty: it does."""
        ...

    @property
    def view(self) -> PortView: ...

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        """Serve new handshakes with these; connections that stand are not touched."""
        ...

    def close(self) -> None:
        """Take no connections any more and say goodbye to clients; running RPCs go on within the drain time."""
        ...


class Ports:
    """Called by one thread at a time."""

    def __init__(self, open_port: Callable[[Listener, PortView], Port]) -> None:
        """`open_port` raises UserError where it cannot."""
        self._open_port = open_port
        self._open: dict[str, tuple[Listener, Port]] = {}

    def numbers(self) -> tuple[int, ...]:
        """Of the open ports, in the order in which they were asked for."""
        return tuple(port.number for port in self.list_open())

    def list_open(self) -> tuple[OpenPort, ...]:
        """As they are, not as they were wanted: a port that could not be changed is the old one."""
        return tuple(
            OpenPort(had.name, port.number, had.transport) for had, port in self._open.values() if not port.fault
        )

    def faults(self) -> tuple[PortFault, ...]:
        """Of ports that were opened, and take no connections just now."""
        return tuple(PortFault(had.name, port.fault) for had, port in self._open.values() if port.fault)

    def retire(self, wanted: Iterable[Listener]) -> None:
        """Refuse new RPCs on all ports but `wanted`: called before a configuration that no longer speaks of them."""
        kept = {listener.name for listener in wanted}
        for name, (_, port) in self._open.items():
            port.view.closing |= name not in kept

    def update(self, wanted: Iterable[Listener]) -> tuple[PortFault, ...]:
        """Open, change and close ports until `wanted` are open and no others. Returns what could not be done."""
        before, self._open = self._open, {}
        faults = []
        for listener in wanted:
            known = before.pop(listener.name, None)
            try:
                self._open[listener.name] = listener, self._bring_about(listener, known)
            except UserError as fault:
                faults.append(PortFault(listener.name, str(fault)))
                if known is not None:
                    self._keep_or_close(listener, *known)
        for _, port in before.values():
            port.close()
        return tuple(faults)

    def _bring_about(self, listener: Listener, known: tuple[Listener, Port] | None) -> Port:
        view = PortView(listener.name, listener.transport is Transport.TLS, asks_clients(listener))
        if known is None:
            return self._open_port(listener, view)
        before, port = known
        if _fixed(before) != _fixed(listener):
            opened = self._open_port(listener, view)
            port.close()
            return opened
        if before.certificates != listener.certificates:
            port.set_certificates(listener.certificates)
        return port

    def _keep_or_close(self, listener: Listener, before: Listener, port: Port) -> None:
        """What was wanted could not be opened: nobody may come in by the old port past a check that is wanted now."""
        if (before.transport, asks_clients(before)) == (listener.transport, asks_clients(listener)):
            self._open[listener.name] = before, port
        else:
            port.close()


def asks_clients(listener: Listener) -> bool:
    """Whether clients must show a certificate."""
    return any(certificate.client_ca for certificate in listener.certificates)


def _fixed(listener: Listener) -> tuple[object, ...]:
    """What grpc core settles when it opens a port: where it changes, the port is opened anew."""
    limits = listener.max_concurrent_streams, listener.idle_timeout_ms, listener.max_message_bytes
    return listener.port, listener.transport, asks_clients(listener), *limits
