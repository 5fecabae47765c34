"""Opens, changes and closes the ports of an engine as the Listeners change. Pure.

Each port is a server of its own, made by the engine, so that a change of one port does not touch the connections of
another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from grpcgw.errors import UserError
from grpcgw.model.listener import NO_DEMANDS, Listener, ServerCertificate, Transport


@dataclass(slots=True, eq=False)
class PortView:
    """The port by which an RPC came in, as its session sees it. `PortViews` has those of one port."""

    listener: str = ""
    tls: bool = False
    asks_clients: bool = False
    """Whether the port asks clients for certificates."""
    closing: bool = False
    """New RPCs are refused."""
    max_message_bytes: int = sys.maxsize
    """Limit of a client's message, uncompressed."""
    counts_for_others: bool = False
    """Of the gateway's own rate limit service: its RPCs are not routed."""


@dataclass(frozen=True, slots=True)
class PortViews:
    """The views of one port: an RPC's is chosen once per connection, because one port may take TLS and clear text."""

    tls: PortView
    clear_text: PortView

    def view_of(self, *, tls: bool) -> PortView:
        """For RPCs of a connection over TLS, or in clear text."""
        return self.tls if tls else self.clear_text

    def set_closing(self, closing: bool) -> None:
        """Whether new RPCs are refused, on connections of either kind."""
        self.tls.closing = self.clear_text.closing = closing

    def limit_messages(self, max_bytes: int) -> None:
        """Limits a client's message, uncompressed. Engines call it when they open the port."""
        self.tls.max_message_bytes = self.clear_text.max_message_bytes = max_bytes


def make_views(listener: Listener) -> PortViews:
    secure = PortView(listener.name, tls=True, asks_clients=asks_clients(listener))
    return PortViews(secure, PortView(listener.name, counts_for_others=listener.counts_for_others))


SOME_PORT = PortView(asks_clients=True)
"""For an RPC whose engine does not know its port."""


@dataclass(frozen=True, slots=True)
class OpenPort:
    """A port on which an engine serves clients."""

    listener: str
    number: int
    transport: Transport


@dataclass(frozen=True, slots=True)
class PortFault:
    """Why the port of a Listener is not open, or not as the Listener asks for."""

    listener: str
    why: str


class Port(Protocol):
    """An open port of an engine."""

    @property
    def number(self) -> int: ...
    @property
    def fault(self) -> str:
        """Why it accepts no connections now; empty: it does."""
        ...

    @property
    def views(self) -> PortViews: ...

    def set_certificates(self, certificates: tuple[ServerCertificate, ...]) -> None:
        """Use these for new handshakes; open connections are not touched."""
        ...

    def close(self) -> None:
        """Accept no connections any more and send GOAWAY to clients; running RPCs may finish within the drain time."""
        ...


class Ports:
    """The open ports of one engine, by the name of their Listener. Call its methods from one thread at a time."""

    def __init__(self, open_port: Callable[[Listener, PortViews], Port]) -> None:
        """`open_port` raises UserError where it cannot."""
        self._open_port = open_port
        self._open: dict[str, tuple[Listener, Port]] = {}

    def numbers(self) -> tuple[int, ...]:
        """Numbers of the open ports, in the order of the last `update`."""
        return tuple(port.number for port in self.list_open())

    def list_open(self) -> tuple[OpenPort, ...]:
        """The ports as they are: one that could not be changed is still the old one."""
        return tuple(
            OpenPort(had.name, port.number, had.transport) for had, port in self._open.values() if not port.fault
        )

    def faults(self) -> tuple[PortFault, ...]:
        """Faults of ports that were opened and accept no connections now."""
        return tuple(PortFault(had.name, port.fault) for had, port in self._open.values() if port.fault)

    def retire(self, wanted: Iterable[Listener]) -> None:
        """Refuse new RPCs on all other ports. Call it before a snapshot takes effect that has no rules for them."""
        kept = {listener.name for listener in wanted}
        for name, (_, port) in self._open.items():
            if name not in kept:
                port.views.set_closing(True)

    def update(self, wanted: Iterable[Listener]) -> tuple[PortFault, ...]:
        """Open, change and close ports so that `wanted` are open and no others. Returns which could not, and why."""
        before, self._open = self._open, {}
        faults = []
        for listener in wanted:
            known = before.pop(listener.name, None)
            try:
                self._open[listener.name] = listener, self._open_or_change(listener, known)
            except UserError as fault:
                faults.append(PortFault(listener.name, str(fault)))
                if known is not None:
                    self._keep_or_close(listener, *known)
        for _, port in before.values():
            port.close()
        return tuple(faults)

    def _open_or_change(self, listener: Listener, known: tuple[Listener, Port] | None) -> Port:
        if known is None:
            return self._open_port(listener, make_views(listener))
        before, port = known
        if _fixed(before) != _fixed(listener):
            opened = self._open_port(listener, make_views(listener))
            port.close()
            return opened
        if before.certificates != listener.certificates:
            port.set_certificates(listener.certificates)
        port.views.set_closing(False)  # a snapshot without it was refused
        return port

    def _keep_or_close(self, listener: Listener, before: Listener, port: Port) -> None:
        """The port could not be changed: close the old one if it lacks a check that the Listener now asks for."""
        if _checks(before) == _checks(listener) and _demands(listener) <= _demands(before):
            port.views.set_closing(False)
            self._open[listener.name] = before, port
        else:
            port.close()


def asks_clients(listener: Listener) -> bool:
    """Whether some clients are asked for a certificate."""
    return any(certificate.client_ca for certificate in listener.certificates)


def _demands(listener: Listener) -> set[tuple[str, object]]:
    """What is demanded of clients, by the names they call."""
    return {(host, one.demands) for one in listener.certificates for host in one.hosts if one.demands != NO_DEMANDS}


def _checks(listener: Listener) -> tuple[object, ...]:
    """What each connection must be."""
    required = any(certificate.requires_client for certificate in listener.certificates)
    return listener.transport, listener.proxy_protocol, asks_clients(listener), required


def _fixed(listener: Listener) -> tuple[object, ...]:
    """What is fixed when a port is opened: if it changes, the port is opened again and the old one closed."""
    limits = listener.max_concurrent_streams, listener.idle_timeout_ms, listener.max_message_bytes
    return listener.port, *_checks(listener), *limits
