"""Authorities as Ambassador's users keep them: in Secrets of any type, read from the API server as they are named."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import grpc
from dataplane.authorities import Authority, Identity
from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import HOST, Gateway, greet, running_gateway
from gateway.objects import Body, put_greet, secret, tls_context
from tests.kube_api import KubeApi


def opaque(name: str, authority: Authority) -> Body:
    """As `kubectl create secret generic NAME --from-file=ca.crt` makes it."""
    data = {"ca.crt": base64.b64encode(authority.pem).decode()}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


def mutual(ca: str, name: str, hostname: str = "*") -> Body:
    obj = tls_context("cert", name)
    obj["spec"] |= {"hosts": [hostname], "ca_secret": ca, "cert_required": True}
    return obj


def is_served(gateway: Gateway, servers: Authority, client: Identity | None) -> bool:
    """Over a connection of its own."""
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    channel = grpc.secure_channel(f"{HOST}:{gateway.tls_port}", servers.client(client), options)
    with contextlib.suppress(grpc.RpcError), channel:
        return bool(greet(channel))
    return False


def test_clients_are_asked_for_certificates_by_an_opaque_secret_which_is_followed(
    api: KubeApi, pods: list[Pod], tmp_path: Path
) -> None:
    servers, first, second = Authority("servers"), Authority("first"), Authority("second")
    own = servers.sign("localhost")
    old, new = first.sign("old"), second.sign("new")
    put_greet(api, [pod.port for pod in pods])
    api.refuse(403, "Secret", name="forbidden")
    for obj in (
        secret("cert", own.certificate, own.key),
        opaque("ca", first),
        mutual("ca", "open"),
        mutual("forbidden", "shut", "shut.example.com"),
    ):
        api.put(obj)
    arguments = ("--kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig")))
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway:
        assert is_served(gateway, servers, old)
        assert not is_served(gateway, servers, None)
        assert not is_served(gateway, servers, new)
        told = "\n".join(gateway.errors())
        assert "Secret forbidden.default" in told
        assert '"list" on secrets in namespace default' in told
        assert "TLSContext shut.default" in told

        api.put(opaque("ca", second))
        eventually(lambda: is_served(gateway, servers, new), gateway.log)
        assert not is_served(gateway, servers, old)

        api.accept()
        api.put(opaque("forbidden", second))
        eventually(lambda: gateway.errors() == [], lambda: str(gateway.errors()))
