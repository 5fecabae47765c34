"""The TLS port: which certificate it shows, and that a new one is shown without a restart."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import HOST, Gateway, greet, running_gateway
from gateway.objects import (
    Body,
    Directory,
    Objects,
    host,
    make_key_pair,
    put_greet,
    secret,
    tls_context,
    tls_context_of_files,
)
from grpcgw.listeners.self_signed import VALID_DAYS
from tests.kube_api import KubeApi


def shown(gateway: Gateway) -> bytes:
    """The certificate that a new connection gets."""
    return ssl.get_server_certificate((HOST, gateway.tls_port), timeout=30).strip().encode()


def named(gateway: Gateway) -> str:
    """What the diagnostics say of the TLS port."""
    (detail,) = (each["detail"] for each in gateway.diagnostics("listeners") if each["protocol"] == "tls")
    return str(detail)


def test_without_a_certificate_a_self_signed_one_for_localhost_is_shown(gateway: Gateway) -> None:
    trust = shown(gateway)
    names = x509.load_pem_x509_certificate(trust).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "localhost" in names.value.get_values_for_type(x509.DNSName)
    assert named(gateway) == "self-signed"
    with gateway.secure_channel(trust, "localhost") as channel:
        assert greet(channel)


def test_only_clients_that_speak_http2_are_served(gateway: Gateway) -> None:
    trust = shown(gateway).decode()
    context = ssl.create_default_context(cadata=trust)
    context.set_alpn_protocols(["h2"])
    with (
        ssl.create_connection((HOST, gateway.tls_port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.selected_alpn_protocol() == "h2"


@pytest.fixture(params=["directory", "kubernetes"])
def place(request: pytest.FixtureRequest, tmp_path: Path, api: KubeApi, pods: list[Pod]) -> tuple[Objects, list[str]]:
    """Where objects are put, and the arguments for a gateway that reads them."""
    objects: Objects
    if request.param == "directory":
        objects, arguments = Directory(tmp_path / "config"), ["--config", str(tmp_path / "config")]
    else:
        objects, arguments = api, ["--kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig"))]
    put_greet(objects, [pod.port for pod in pods])
    return objects, arguments


@pytest.mark.parametrize("named_by", ["TLSContext", "Host"])
def test_the_certificate_of_a_secret_is_replaced_without_restart(
    named_by: str, place: tuple[Objects, list[str]], tmp_path: Path
) -> None:
    objects, arguments = place
    first, second = make_key_pair("first.example"), make_key_pair("second.example")
    user: Body = tls_context("cert") if named_by == "TLSContext" else host("cert", "*")
    for obj in (secret("cert", *first), user):
        objects.put(obj)
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway:
        assert shown(gateway) == first[0].strip()
        with gateway.secure_channel(first[0], "first.example") as channel:
            assert greet(channel)
            objects.put(secret("cert", *second))
            eventually(lambda: shown(gateway) == second[0].strip(), gateway.log)
            assert greet(channel), "connections that stand are not touched"

            objects.put(secret("cert", b"no certificate", b"no key"))
            eventually(gateway.errors, "the broken Secret is told")
            assert "cert" in gateway.errors()[0]
            assert shown(gateway) == second[0].strip()
        with gateway.secure_channel(second[0], "second.example") as channel:
            assert greet(channel)
        assert named_by in named(gateway)
        left_s = gateway.metric("certificate_expiry_seconds", certificate=named(gateway), use="server")
        assert abs(left_s - VALID_DAYS * 86_400) < 3_600

        objects.delete(named_by, "default", user["metadata"]["name"])
        eventually(lambda: shown(gateway) not in (first[0].strip(), second[0].strip()), "self-signed again")
        assert named(gateway) == "self-signed"


def mount(volume: Path, version: str, chain: bytes, key: bytes) -> None:
    """Give a volume new content as a kubelet does: in a folder beside the former one, to which a link is turned."""
    (volume / version).mkdir(parents=True)
    (volume / version / "tls.crt").write_bytes(chain)
    (volume / version / "tls.key").write_bytes(key)
    (volume / "..new").symlink_to(version)
    (volume / "..new").rename(volume / "..data")
    for name in ("tls.crt", "tls.key"):
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(Path("..data", name))


def test_a_certificate_in_files_is_replaced_without_restart(place: tuple[Objects, list[str]], tmp_path: Path) -> None:
    objects, arguments = place
    volume = tmp_path / "volume"
    first, second = make_key_pair("first.example"), make_key_pair("second.example")
    mount(volume, "..1", *first)
    objects.put(tls_context_of_files(volume))
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway:
        assert shown(gateway) == first[0].strip(), "from the first connection on"
        with gateway.secure_channel(first[0], "first.example") as channel:
            assert greet(channel)
            mount(volume, "..2", *second)
            eventually(lambda: shown(gateway) == second[0].strip(), gateway.log)
            assert greet(channel), "connections that stand are not touched"
        with gateway.secure_channel(second[0], "second.example") as channel:
            assert greet(channel)

        mount(volume, "..3", b"root:hunter2", first[1])
        eventually(gateway.errors, "the broken file is told")
        (error,) = gateway.errors()
        assert f"{volume}/tls.crt cannot be read: it holds no PEM" in error
        assert "TLSContext tls.default" in error
        assert shown(gateway) == second[0].strip()
        everything = gateway.log() + gateway.get("/ambassador/v0/diag/?json=true")[1]
        for hidden in ("hunter2", *(key.decode().splitlines()[1] for _, key in (first, second))):
            assert hidden not in everything


CLEAR_TEXT = {"no-tls": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), "http": b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"}


@pytest.mark.parametrize("engine", ["http2", "generic-handler"])
def test_handshakes_that_fail_are_counted_by_cause_and_logged_once(
    engine: str, directory: Directory, tmp_path: Path
) -> None:
    arguments = ("--config", str(directory.path), "--engine", engine)
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway:
        for begin in CLEAR_TEXT.values():
            for _ in range(3):
                with socket.create_connection((HOST, gateway.tls_port)) as clear, contextlib.suppress(ConnectionError):
                    clear.sendall(begin)
                    while clear.recv(1024):
                        pass
        eventually(lambda: gateway.metric("tls_handshake_failures_total") == 6, gateway.log)
        for cause in CLEAR_TEXT:
            assert gateway.metric("tls_handshake_failures_total", cause=cause) == 3
            assert gateway.log().count(f"TLS handshakes failed: {cause}") == 1
        assert gateway.diagnostics("workers")[0]["handshake_failures"] == {"no-tls": 3, "http": 3}
        if engine == "http2":
            assert gateway.metric("client_connections_closed_total", cause="not-served") == 6


def test_a_grpc_client_that_does_not_trust_the_certificate_is_counted(directory: Directory, tmp_path: Path) -> None:
    arguments = ("--config", str(directory.path), "--engine", "http2")
    with running_gateway(*arguments, folder=tmp_path) as gateway:
        with (
            gateway.secure_channel(make_key_pair("localhost")[0], "localhost") as channel,
            pytest.raises(grpc.RpcError),
        ):
            greet(channel)
        eventually(lambda: gateway.metric("tls_handshake_failures_total", cause="client-left"), gateway.log)
        assert gateway.metric("client_connections_closed_total", cause="tls-handshake") >= 1


def test_what_a_worker_counted_of_handshakes_outlives_it(directory: Directory, tmp_path: Path) -> None:
    arguments = ("--config", str(directory.path), "--engine", "http2")
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway:

        def fail_once() -> None:
            with socket.create_connection((HOST, gateway.tls_port)) as clear:
                clear.sendall(CLEAR_TEXT["no-tls"])
                assert clear.recv(1024) == b""

        fail_once()
        assert gateway.metric("tls_handshake_failures_total", cause="no-tls") == 1
        (pid,) = gateway.worker_pids()
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: gateway.worker_pids() not in ([pid], [0]) and gateway.is_ready(), gateway.log)
        assert gateway.metric("tls_handshake_failures_total", cause="no-tls") == 1
        fail_once()
        assert gateway.metric("tls_handshake_failures_total", cause="no-tls") == 2
        assert gateway.metric("client_connections_closed_total") == 2


def test_a_client_that_trusts_another_certificate_is_refused(gateway: Gateway) -> None:
    with gateway.secure_channel(make_key_pair("localhost")[0], "localhost") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            greet(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
