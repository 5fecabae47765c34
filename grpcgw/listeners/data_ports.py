"""The data ports: which there are by now, settled once for all workers, and held while they serve.

Workers share a port by SO_REUSEPORT. So would a second gateway, by mistake, if nobody looked first.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from grpcgw.ambassador.compile.hosts import is_open
from grpcgw.errors import UserError
from grpcgw.listeners.open_ports import OpenPort, PortFault
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.model.objects import KubeObject, ObjectKey, Problem, Severity
from grpcgw.model.snapshot import Snapshot
from grpcgw.workers.messages import Listening, Refused

NOTHING_OPEN = Problem(
    Severity.ERROR,
    "no data port is asked for, so no call is served: set --port or --tls-port, or add a Listener that can be served",
    "--port, --tls-port",
)


class DataPorts:
    """Those of the command line, or of Listeners where the configuration has some (docs/decisions)."""

    def __init__(self, address: str, port: int | None, tls_port: int | None, self_signed: ServerCertificate) -> None:
        """Port 0 takes a free one, None none; they stay ours while Listeners serve. `self_signed` is for TLS ports
        without a certificate. Raises UserError where one is taken or the address is not ours."""
        if port is not None and port == tls_port != 0:
            raise UserError(f"port {port} is asked for twice, for clear text and for TLS; choose another port")
        self._held = HeldPorts(address)
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
        except UserError:
            self._held.release()
            raise
        self.taken: dict[str, str] = {}
        """Why a Listener's port cannot be had, by the Listener's name."""
        self._some_wanted = True

    def settle(self, snapshot: Snapshot) -> Snapshot:
        """With the ports that are to be opened as its Listeners; what cannot be had is left out, and in `taken`."""
        wanted = self._of_flags(snapshot) if snapshot.listeners is None else snapshot.listeners
        self.taken = {}
        self._some_wanted = bool(wanted or snapshot.hosts)
        had = tuple(
            replace(self._certify(listener), idle_timeout_ms=snapshot.client_idle_timeout_ms)
            for listener in wanted
            if self._try(listener)
        )
        self._held.release(keep={listener.port for listener in (*self._flags, *had)})
        return replace(snapshot, listeners=had)

    def _of_flags(self, snapshot: Snapshot) -> tuple[Listener, ...]:
        # They serve the names of which no Host speaks as well.
        hosts = snapshot.hosts
        if hosts and hosts[-1].host is not None:
            hosts = (*hosts, HostPolicy(None))
        served = (replace(flag, hosts=hosts, certificates=snapshot.certificates) for flag in self._flags)
        return tuple(flag for flag in served if is_open(flag.transport, hosts, snapshot.certificates))

    def _try(self, listener: Listener) -> bool:
        try:
            self._held.hold(listener.port)
        except UserError as error:
            self.taken[listener.name] = str(error)
        return listener.name not in self.taken

    def _certify(self, listener: Listener) -> Listener:
        if listener.transport is Transport.CLEAR:
            return replace(listener, certificates=())
        return listener if listener.certificates else replace(listener, certificates=(self._self_signed,))

    def problems(self, objects: Mapping[ObjectKey, KubeObject]) -> tuple[Problem, ...]:
        """What `settle` found: ports that are taken, or none at all. `objects` say where Listeners are written."""
        taken = tuple(
            _blame(name, f"{why}, or free it: it is tried again", objects) for name, why in self.taken.items()
        )
        return taken if self._some_wanted else (*taken, NOTHING_OPEN)

    def release(self) -> None:
        self._held.release()


def find_worker_problems(
    heard: Mapping[int, Listening], objects: Mapping[ObjectKey, KubeObject]
) -> tuple[Problem, ...]:
    """Of the ports that some workers could not open, or not change, and of configurations they could not serve."""
    workers: dict[PortFault, list[str]] = {}
    refused: dict[Refused, list[str]] = {}
    for number, said in sorted(heard.items()):
        for fault in said.faults:
            workers.setdefault(fault, []).append(f"worker {number}")
        if said.refused is not None:
            refused.setdefault(said.refused, []).append(f"worker {number}")
    return (
        *(_explain_refusal(why, ", ".join(numbers), objects) for why, numbers in refused.items()),
        *(
            _blame(fault.listener, f"{', '.join(numbers)}: {fault.why}; it is tried again", objects)
            for fault, numbers in workers.items()
        ),
    )


def _explain_refusal(refused: Refused, workers: str, objects: Mapping[ObjectKey, KubeObject]) -> Problem:
    obj = objects.get(refused.mapping) if refused.mapping is not None else None
    message = (
        f"{workers}: the configuration cannot be served, which is a defect of grpcgw, to be reported ({refused.why}); "
        "what was served before serves on"
    )
    return Problem(Severity.ERROR, message, "grpcgw" if obj is None else obj.source.locate(), refused.mapping)


def find_open(heard: Iterable[Listening]) -> tuple[OpenPort, ...]:
    """The ports at least one worker serves clients on, by number."""
    return tuple(sorted({port for said in heard for port in said.ports}, key=lambda port: (port.number, port.listener)))


def _blame(listener: str, message: str, objects: Mapping[ObjectKey, KubeObject]) -> Problem:
    """`listener` is the name of a Listener, or a flag."""
    by_name = {str(key): obj for key, obj in objects.items() if key.kind == "Listener"}
    obj = by_name.get(listener)
    if obj is None:
        return Problem(Severity.ERROR, message, listener)
    return Problem(Severity.ERROR, message, obj.source.locate(("spec", "port")), obj.key, "spec.port")


class HeldPorts:
    """Ports that are bound and do not listen: no connection ever comes here, and nobody else gets them."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._sockets: dict[int, socket.socket] = {}

    def hold(self, port: int) -> int:
        """The port's number, which 0 has taken a free one for. Raises UserError where it is taken or the address is
        not ours."""
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
        for number in self._sockets.keys() - set(keep):
            self._sockets.pop(number).close()


def _bind(address: str, port: int, share: bool) -> socket.socket:
    bound = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        # Both options mind sockets that are bound; connections of a former gateway that linger are no obstacle.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if share else socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
