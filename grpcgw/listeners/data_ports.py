"""The data ports of the command line or the Listeners: chosen once for all workers, and held bound; beside them, the
port of the rate limit service.

Workers share a port by SO_REUSEPORT. Without a check, a second gateway would share it too, by mistake.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection
from dataclasses import replace

from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import PortFault
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport, should_open
from grpcgw.model.snapshot import Snapshot

NO_PORTS = PortFault(
    "--port, --tls-port",
    "no data port is asked for, so no call is served: set --port or --tls-port, or add a Listener that can be served",
)


class DataPorts:
    """Those of the command line, or of the Listeners where the configuration has some (decision 006)."""

    def __init__(
        self,
        address: str,
        port: int | None,
        tls_port: int | None,
        self_signed: ServerCertificate,
        limit_service: tuple[str, int] | None = None,
    ) -> None:
        """Port 0 takes a free one, None opens none. The ports of the command line stay held while Listeners serve.

        `self_signed` is for TLS ports without a certificate. `limit_service`: address and port of the rate limit
        service, which is open whatever Listeners there are; None: there is none. Raises UserError if a port is taken,
        both are the same, or an address is not of this machine.
        """
        if port is not None and port == tls_port != 0:
            raise UserError(f"port {port} is asked for twice, for clear text and for TLS; choose another port")
        self.address = address
        self._held = HeldPorts(address)
        self._held_service = HeldPorts(limit_service[0]) if limit_service else None
        self._service: tuple[Listener, ...] = ()
        self._self_signed = self_signed
        try:
            self._flags = tuple(
                Listener(flag, self._held.hold(number), transport, SecurityModel.XFP)
                for flag, number, transport in (
                    ("--port", port, Transport.CLEAR),
                    ("--tls-port", tls_port, Transport.TLS),
                )
                if number is not None
            )
            if limit_service is not None and self._held_service is not None:
                self._service = (make_limit_listener(limit_service[0], self._held_service.hold(limit_service[1])),)
        except UserError:
            self.release()
            raise
        self.faults: tuple[PortFault, ...] = ()
        """Why ports of the last `bind` cannot be opened."""

    def bind(self, snapshot: Snapshot) -> tuple[Listener, ...]:
        """Hold the ports that `snapshot` asks for. Returns those to open; `faults` has the others."""
        wanted = self._of_flags(snapshot) if snapshot.listeners is None else snapshot.listeners
        taken: list[PortFault] = []
        bound = tuple(
            replace(
                self._certify(listener),
                idle_timeout_ms=snapshot.client_idle_timeout_ms,
                proxy_protocol=listener.proxy_protocol or snapshot.clients.proxy_protocol,
            )
            for listener in wanted
            if self._hold(listener, taken)
        )
        self._held.release(keep={listener.port for listener in (*self._flags, *bound)})
        self.faults = (*taken, *(() if wanted or snapshot.hosts or self._service else (NO_PORTS,)))
        idle_ms = snapshot.client_idle_timeout_ms
        return (*bound, *(replace(one, idle_timeout_ms=idle_ms) for one in self._service))

    def _of_flags(self, snapshot: Snapshot) -> tuple[Listener, ...]:
        # They also serve names that no Host has.
        hosts = snapshot.hosts
        if hosts and hosts[-1].host is not None:
            hosts = (*hosts, HostPolicy(None))
        served = (replace(flag, hosts=hosts, certificates=snapshot.certificates) for flag in self._flags)
        return tuple(flag for flag in served if should_open(flag.transport, hosts, snapshot.certificates))

    def _hold(self, listener: Listener, taken: list[PortFault]) -> bool:
        try:
            self._held.hold(listener.port)
        except UserError as error:
            taken.append(PortFault(listener.name, f"{error}, or free it: it is tried again"))
            return False
        return True

    def _certify(self, listener: Listener) -> Listener:
        if listener.transport is Transport.CLEAR:
            return replace(listener, certificates=())
        return listener if listener.certificates else replace(listener, certificates=(self._self_signed,))

    def release(self) -> None:
        """Release all ports."""
        self._held.release()
        if self._held_service is not None:
            self._held_service.release()


LIMIT_SERVICE = "rate limit service"
"""Name of its Listener."""


def make_limit_listener(address: str, port: int) -> Listener:
    """Of the gateway's own rate limit service, in clear text."""
    return Listener(
        LIMIT_SERVICE,
        port,
        Transport.CLEAR,
        SecurityModel.XFP,
        address=address,
        counts_for_others=True,
    )


class HeldPorts:
    """Ports that are bound and do not listen: they get no connection, and no other program gets them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sockets: dict[int, socket.socket] = {}

    def hold(self, port: int) -> int:
        """Returns the port's number; 0 takes a free port. Raises UserError if it is taken, or the address is not of
        this machine."""
        if port in self._sockets:
            return port
        try:
            with contextlib.closing(_bind(self._address, port, share=False)) as alone:
                number: int = alone.getsockname()[1]
            self._sockets[number] = _bind(self._address, number, share=True)
        except OSError as error:
            hint = "choose another --address" if error.errno == errno.EADDRNOTAVAIL else "choose another port"
            raise UserError(f"cannot listen on {self._address}:{port}: {error.strerror}; {hint}") from error
        return number

    def release(self, keep: Collection[int] = ()) -> None:
        """Release all ports but `keep`."""
        for number in self._sockets.keys() - set(keep):
            self._sockets.pop(number).close()


def _bind(address: str, port: int, share: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # With both options a port is free although connections of a former gateway linger; bound sockets do conflict.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
