"""Ports of `grpcgw run --engine http2`: TLS and clear text on one, PROXY headers, health checks in HTTP/1.1."""

from __future__ import annotations

import contextlib
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from dataplane.authorities import Authority, Identity
from dataplane.waiting import PATIENCE_S, eventually
from engines.http2.port_clients import PREFACE, connect, read_all

from gateway.harness import HOST, Gateway, greet, running_gateway
from gateway.objects import Body, Directory, host, listener, secret
from grpcgw.engines.http2.http1 import READY_PATH
from grpcgw.listeners.data_ports import HeldPorts

SERVERS = Authority("servers")
NAME = "secure.example"


@pytest.fixture
def port() -> int:
    held = HeldPorts(HOST)
    number = held.hold(0)
    held.release()
    return number


def asking(body: Body, **more: object) -> Body:
    """`body` with more in its spec."""
    return {**body, "apiVersion": "getambassador.io/v3alpha1", "spec": {**body["spec"], **more}}


def put_secret(directory: Directory, name: str, hostname: str) -> Identity:
    identity = SERVERS.sign(hostname)
    directory.put(secret(name, identity.certificate, identity.key))
    return identity


def run(directory: Directory, folder: Path, workers: int = 0) -> contextlib.AbstractContextManager[Gateway]:
    return running_gateway("--config", str(directory.path), "--engine", "http2", folder=folder, workers=workers)


def is_served(port: int, credentials: grpc.ChannelCredentials | None = None, name: str = NAME) -> bool:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.default_authority", name)]
    target = f"{HOST}:{port}"
    if credentials is None:
        channel = grpc.insecure_channel(target, options)
    else:
        channel = grpc.secure_channel(target, credentials, [*options, ("grpc.ssl_target_name_override", name)])
    with contextlib.suppress(grpc.RpcError), channel:
        return bool(greet(channel))
    return False


def check_ready(port: int) -> int:
    """The HTTP status; 0: there is no answer."""
    url = f"http://{HOST}:{port}{READY_PATH.decode()}"
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=PATIENCE_S) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except OSError:
        return 0


def test_one_port_serves_clear_text_and_tls_with_authorities_per_host(
    directory: Directory, tmp_path: Path, port: int
) -> None:
    put_secret(directory, "own", NAME)
    directory.put(asking(host("own", NAME, "secure")))
    directory.put(asking(host("own", "plain.example", "plain"), requestPolicy={"insecure": {"action": "Route"}}))
    directory.put(listener("both", port, "HTTPS"))
    with run(directory, tmp_path, workers=2):
        eventually(lambda: is_served(port, SERVERS.client()))
        assert is_served(port, name="plain.example")
        assert not is_served(port)
        assert check_ready(port) == 200
        put_secret(directory, "renewed", NAME)
        directory.put(asking(host("renewed", NAME, "secure")))
        assert all(is_served(port, SERVERS.client()) for _ in range(10)), "a change stops nobody"


def test_with_use_proxy_proto_each_connection_begins_with_a_header(directory: Directory, tmp_path: Path) -> None:
    with run(directory, tmp_path) as gateway:
        assert check_ready(gateway.port) == 200
        directory.put(
            {
                "apiVersion": "getambassador.io/v3alpha1",
                "kind": "Module",
                "metadata": {"name": "ambassador", "namespace": "default"},
                "spec": {"config": {"use_proxy_proto": True}},
            }
        )
        eventually(lambda: check_ready(gateway.port) == 0)
        with connect(gateway.port, PREFACE) as connection:
            assert read_all(connection) == b""
        with connect(gateway.port, b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n", PREFACE) as connection:
            assert connection.recv(1)
        assert gateway.errors() == []


def test_failed_handshakes_are_counted_and_logged_once(directory: Directory, tmp_path: Path) -> None:
    with run(directory, tmp_path, workers=1) as gateway:
        for _ in range(3):
            with connect(gateway.tls_port, PREFACE) as connection:
                assert read_all(connection) == b""
        eventually(lambda: gateway.metric("tls_handshake_failures_total", cause="no-tls") == 3, gateway.log)
        assert gateway.log().count("TLS handshakes failed: no-tls") == 1
        assert gateway.diagnostics("workers")[0]["handshake_failures"] == {"no-tls": 3}
