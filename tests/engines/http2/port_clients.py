"""Clients of a port of the http2 engine, down to their first bytes; and ports as Ambassador's YAML configures them."""

from __future__ import annotations

import base64
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from dataplane.authorities import Authority, Identity
from dataplane.configured import compile_yaml
from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from dataplane.raw_client import RawClient
from dataplane.waiting import PATIENCE_S

from grpcgw.listeners.data_ports import HeldPorts
from grpcgw.model.listener import Listener
from grpcgw.model.objects import Severity

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def make_context(
    authority: Authority | None = None, identity: Identity | None = None, alpn: tuple[str, ...] = ("h2",)
) -> ssl.SSLContext:
    """Of a client that trusts `authority` (None: everybody), whatever the name, and shows `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if authority is None:
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(cadata=authority.pem.decode())
    if alpn:
        context.set_alpn_protocols(list(alpn))
    if identity is not None:
        with tempfile.NamedTemporaryFile() as file:
            file.write(identity.certificate + identity.key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


def connect(port: int, *first: bytes) -> socket.socket:
    """A connection that has sent its `first` bytes, each in a segment of its own."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in first:
        connection.sendall(part)
    return connection


def connect_tls(
    port: int,
    context: ssl.SSLContext | None = None,
    name: str | None = None,
    before: bytes = b"",
    session: ssl.SSLSession | None = None,
) -> ssl.SSLSocket:
    """After the handshake. `name`: for SNI. `before`: sent in clear text first. Raises OSError (SSLError is one)."""
    plain = connect(port, before)
    try:
        return (context or make_context()).wrap_socket(plain, server_hostname=name, session=session)
    except BaseException:
        plain.close()
        raise


def read_all(connection: socket.socket) -> bytes:
    """Until the gateway closes the connection."""
    parts = []
    while True:
        try:
            part = connection.recv(65_536)
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            part = b""
        if not part:
            return b"".join(parts)
        parts.append(part)


def read_answer(connection: socket.socket) -> tuple[int, str]:
    """Status and body of one HTTP/1.1 answer; a connection that ends before it is status 0."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1)
        if not part:
            return 0, ""
        data += part
    head = data.decode().lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return int(head.split(" ")[1]), body.decode()


@contextmanager
def calling(connection: socket.socket) -> Iterator[RawClient]:
    with RawClient(connection) as client:
        yield client


def call(connection: socket.socket, authority: str = "gateway.test", *headers: tuple[str, str]) -> str:
    """The pod's answer to a call over `connection`, which is then closed, or the reason of the gateway's refusal."""
    with calling(connection) as client:
        return call_again(client, authority, *headers)


def call_again(client: RawClient, authority: str = "gateway.test", *headers: tuple[str, str]) -> str:
    answer = client.call("Unary", *headers, messages=[b"x"], authority=authority)
    if answer.status == 0:
        return answer.data[5:].decode()
    return answer.header("x-grpcgw-reason") or f"code {answer.status}"


# --- Ambassador's YAML


def tls_secret(name: str, identity: Identity) -> str:
    return _secret(name, {"tls.crt": identity.certificate, "tls.key": identity.key}, "kubernetes.io/tls")


def ca_secret(name: str, authority: Authority, crl: bytes = b"") -> str:
    return _secret(name, {"ca.crt": authority.pem, **({"crl.pem": crl} if crl else {})})


def _secret(name: str, files: dict[str, bytes], kind: str = "Opaque") -> str:
    data = ", ".join(f"{key}: {base64.b64encode(value).decode()}" for key, value in files.items())
    return f"apiVersion: v1\nkind: Secret\ntype: {kind}\nmetadata: {{name: {name}}}\ndata: {{{data}}}"


MAPPING = "kind: Mapping\nmetadata: {name: test}\nspec: {hostname: '*', service: 'pods:50051'}"


def host(name: str, spec: str) -> str:
    return (
        f"apiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {{name: {name.replace('*', 'any')}}}\n"
        f"spec: {{hostname: '{name}', {spec}}}"
    )


def listener(name: str, protocol: str, more: str = "") -> str:
    number = 1000 + sum(name.encode())
    return (
        f"apiVersion: getambassador.io/v3alpha1\nkind: Listener\nmetadata: {{name: {name}}}\n"
        f"spec: {{port: {number}, protocol: {protocol}, securityModel: XFP,"
        f" hostBinding: {{namespace: {{from: ALL}}}}{more}}}"
    )


@dataclass
class Served:
    gateway: Gateway
    pod: Pod
    ports: dict[str, int]
    """By the name of the Listener."""

    def replace(self, *objects: str) -> None:
        """Apply another configuration, with the same Listeners."""
        listeners = _compile(objects, self.gateway)
        self.gateway.listen(*(replace(one, port=self.ports[_short(one)]) for one in listeners))


def serve(lab: Lab, *objects: str) -> Served:
    """A gateway with a pod, and the Listeners of `objects` on free ports. An error in `objects` fails the test."""
    pod, held = lab.pod("a"), HeldPorts("127.0.0.1")
    lab.defer(held.release)
    gateway = lab.gateway(pod, ports=())
    listeners = _compile(objects, gateway, pod)
    served = Served(gateway, pod, {_short(one): held.hold(0) for one in listeners})
    gateway.listen(*(replace(one, port=served.ports[_short(one)]) for one in listeners))
    return served


def _compile(objects: tuple[str, ...], gateway: Gateway, pod: Pod | None = None) -> tuple[Listener, ...]:
    compiled = compile_yaml("\n---\n".join((MAPPING, *objects)), "http2")
    assert not [str(problem) for problem in compiled.problems if problem.severity is Severity.ERROR]
    gateway.apply(compiled.snapshot)
    if pod is not None:
        gateway.set_pods(pod, cluster=next(iter(compiled.snapshot.clusters)))
    assert compiled.snapshot.listeners is not None
    return compiled.snapshot.listeners


def _short(one: Listener) -> str:
    return one.name.removeprefix("Listener ").partition(".")[0]
