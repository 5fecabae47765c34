"""Measures how long running RPCs stop while 1,000 clients begin TLS at once.

`python -m bench.handshakes PORT COUNT [CERTIFICATE]` is the storm: connections that handshake all at once and are then
kept open to the end. CERTIFICATE: a PEM file with the certificate and key that its clients show.
"""

from __future__ import annotations

import datetime
import os
import resource
import selectors
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from bench.backend import METHOD, make_request
from bench.certificate import CertificateFiles
from bench.pods import describe_mapping, describe_tls_context, running_pods, wait_for_answers, write_configuration
from bench.proxies import running_gateway
from grpcgw.cli.demo_processes import HOST
from grpcgw.errors import UserError
from grpcgw.settings import EngineName

QUIET_S = 2.0
STORM_LIMIT_S = 60.0
LOWEST_PRIORITY = 19


@dataclass(frozen=True, slots=True)
class Storm:
    """What the client of running RPCs saw, which makes one call after another."""

    quiet_ms: float
    """Longest call before."""
    longest_ms: float
    """Longest call during the storm."""
    took_s: float
    """Until the last handshake."""


def measure_storm(count: int, engine: EngineName, use_rsa: bool, client_certificates: bool) -> Storm:
    """Raises UserError where a handshake fails."""
    with tempfile.TemporaryDirectory(prefix="grpcgw-bench-") as name, running_pods(2) as pods:
        folder = Path(name)
        files = write_pair(folder, use_rsa)
        context = describe_tls_context(files)
        if client_certificates:
            context["spec"] = {**context["spec"], "cacert_chain_file": str(files.chain), "cert_required": True}
        write_configuration(folder, pods, describe_mapping("greet", "greet"), (context,))
        with running_gateway(("--config", str(folder)), engine) as gateway:
            wait_for_answers(gateway.name, gateway.port, pods)
            shown = show(files, folder) if client_certificates else None
            with grpc.insecure_channel(f"{HOST}:{gateway.port}") as channel:
                quiet_s = longest_call(channel, None)
                with running_storm(gateway.tls_port, count, shown) as storm:
                    began_s = time.monotonic()
                    longest_s = longest_call(channel, storm)
                    return Storm(1000 * quiet_s, 1000 * longest_s, time.monotonic() - began_s)


def longest_call(channel: grpc.Channel, storm: subprocess.Popen[str] | None) -> float:
    """In seconds, of calls one after the other until the storm says that its last handshake is over."""
    call = channel.unary_unary(METHOD)
    call(make_request(), timeout=5)
    longest_s, limit_s = 0.0, time.monotonic() + (QUIET_S if storm is None else STORM_LIMIT_S)
    with selectors.DefaultSelector() as selector:
        if storm is not None and storm.stdout is not None:
            selector.register(storm.stdout, selectors.EVENT_READ)
        while time.monotonic() < limit_s:
            began_s = time.monotonic()
            call(make_request(), timeout=5)
            longest_s = max(longest_s, time.monotonic() - began_s)
            if storm is not None and selector.select(0):
                break
    return longest_s


@contextmanager
def running_storm(port: int, count: int, certificate: Path | None) -> Iterator[subprocess.Popen[str]]:
    """It yields the processor to everybody else, so that it cannot delay the client of running RPCs by itself."""
    command = [
        sys.executable,
        "-m",
        "bench.handshakes",
        str(port),
        str(count),
        *([str(certificate)] * bool(certificate)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as storm:
        assert storm.stdin is not None
        assert storm.stdout is not None
        try:
            yield storm
            storm.stdin.close()
            said = storm.stdout.read().strip()
        finally:
            storm.kill()
    if said != f"{count} done, 0 failed":
        raise UserError(f"storm of handshakes: {said or 'it ended early'}")


def write_pair(folder: Path, use_rsa: bool) -> CertificateFiles:
    """A self-signed certificate for localhost, and its key."""
    key = rsa.generate_private_key(65_537, 2048) if use_rsa else ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    signed = builder.add_extension(names, critical=False).sign(key, hashes.SHA256())
    files = CertificateFiles(folder / "tls.crt", folder / "tls.key")
    files.chain.write_bytes(signed.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def show(files: CertificateFiles, folder: Path) -> Path:
    """One file with certificate and key."""
    both = folder / "client.pem"
    both.write_bytes(files.chain.read_bytes() + files.key.read_bytes())
    return both


# ---- the storm itself


class StormClient:
    def __init__(self, port: int, context: ssl.SSLContext) -> None:
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex((HOST, port))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    def shake(self, data: bytes) -> bool:
        """Whether the handshake is over."""
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            if self._outgoing.pending:
                self.socket.sendall(self._outgoing.read())
        return True


def storm(port: int, count: int, context: ssl.SSLContext) -> None:
    clients = [StormClient(port, context) for _ in range(count)]
    done = failed = 0
    limit_s = time.monotonic() + STORM_LIMIT_S
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_WRITE, client)
        while done + failed < count and time.monotonic() < limit_s:
            for key, events in selector.select(1):
                try:
                    if events & selectors.EVENT_WRITE:
                        selector.modify(key.fileobj, selectors.EVENT_READ, key.data)
                        over = key.data.shake(b"")
                    else:
                        over = key.data.shake(receive(key.data.socket))
                except OSError:
                    failed += 1
                    selector.unregister(key.fileobj)
                    continue
                if over:
                    done += 1
                    selector.unregister(key.fileobj)
    print(f"{done} done, {count - done} failed", flush=True)
    sys.stdin.read()


def receive(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionResetError
    return data


def main(port: int, count: int, *certificate: str) -> None:
    os.nice(LOWEST_PRIORITY)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if certificate:
        context.load_cert_chain(certificate[0])
    storm(port, count, context)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
