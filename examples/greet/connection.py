"""Shared by both clients: arguments, opening a connection, and finding its local port."""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import psutil
from cryptography import x509

DEADLINE_S = 10.0


@dataclass(frozen=True, slots=True)
class Arguments:
    host: str
    port: int
    tls: bool
    calls: int
    text: str


def parse_arguments(description: str, arguments: Sequence[str] | None) -> Arguments:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--target", default="localhost:8080", help="host:port of the gateway (%(default)s)")
    parser.add_argument("--tls", action="store_true", help="speak TLS and trust the certificate the gateway shows")
    parser.add_argument("--calls", type=int, default=10, help="number of calls (%(default)s)")
    parser.add_argument("--input", default="test", help="text to send (%(default)s)")
    options = parser.parse_args(arguments)
    host, _, port = options.target.rpartition(":")
    if not host or not port.isdecimal():
        parser.error(f"--target {options.target}: expected host:port, such as localhost:8080")
    return Arguments(host, int(port), options.tls, options.calls, options.input)


@dataclass(frozen=True, slots=True)
class Trust:
    """A certificate to accept, and a name it is valid for."""

    certificate_pem: bytes
    name: str


def fetch_trust(host: str, port: int) -> Trust:
    """The gateway's certificate, accepted whoever signed it: for a demonstration, not for an open network."""
    pem = ssl.get_server_certificate((host.strip("[]"), port), timeout=DEADLINE_S).encode()
    try:
        extensions = x509.load_pem_x509_certificate(pem).extensions
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if not names:
        raise ConnectionError(f"the certificate that {host}:{port} shows is for no host name")
    return Trust(pem, names[0].replace("*", "any"))


def open_channel(arguments: Arguments, trust: Trust | None) -> grpc.Channel:
    """A channel with a connection of its own: without the option, channels to one target share connections."""
    target = f"{arguments.host}:{arguments.port}"
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
    if trust is None:
        return grpc.insecure_channel(target, options)
    options.append(("grpc.ssl_target_name_override", trust.name))
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(trust.certificate_pem), options)


def local_ports(gateway_port: int) -> set[int]:
    """Local ports of this process's open connections to the gateway."""
    connections = psutil.Process().net_connections("tcp")
    return {c.laddr.port for c in connections if c.raddr and c.raddr.port == gateway_port and c.status == "ESTABLISHED"}


def describe_ports(ports: Sequence[int]) -> str:
    return "Client ports used: " + " ".join(map(str, ports))


def describe_error(error: grpc.RpcError | OSError) -> str:
    """One line: the status of a failed call, or why there is no connection."""
    if isinstance(error, grpc.Call):
        return f"call failed: {error.code().name}: {error.details()}"
    return f"no connection: {error}"
