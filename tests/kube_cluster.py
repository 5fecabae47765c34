"""A cluster for tests that need no misbehaviour: the emulator, or a real API server where one is at hand.

`KUBECONFIG=…` uses that cluster, in a throw-away namespace. `KUBEBUILDER_ASSETS=…` starts etcd and kube-apiserver from
that folder (as controller-runtime's setup-envtest downloads them). Both install deploy/crds.yaml if the kinds are
missing, and both are optional: without them only the emulator is used.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException

from grpcgw.ambassador.dialect_objects import API_GROUP
from grpcgw.discovery.sources.kubernetes_api import ClusterAccess
from tests.kube_api import KubeApi

CRDS = Path(__file__).parents[1] / "deploy" / "crds.yaml"
START_DEADLINE_S = 60

Body = dict[str, Any]


class Refused(Exception):
    """The API server does not let an object in, for what is in it."""


class Cluster(Protocol):
    access: ClusterAccess
    namespace: str
    """Empty at first, and the test's own."""

    def put(self, obj: Body) -> object:
        """Create or replace `obj`, in the namespace its metadata names. Raises Refused."""
        ...

    def delete(self, kind: str, namespace: str, name: str) -> None: ...


def kinds_of_cluster() -> list[str]:
    """Parameters for a fixture: the clusters there are."""
    return ["emulator"] + [name for name in ("KUBECONFIG", "KUBEBUILDER_ASSETS") if os.environ.get(name)]


@contextmanager
def open_cluster(name: str, folder: Path) -> Iterator[Cluster]:
    """The cluster called `name` (of `kinds_of_cluster`); `folder` is for its files."""
    with ExitStack() as stack:
        if name == "emulator":
            api = stack.enter_context(KubeApi())
            yield EmulatedCluster(api, ClusterAccess(kubeconfig=api.kubeconfig(folder / "kubeconfig")))
            return
        if name == "KUBECONFIG":
            path = Path(os.environ[name])
        else:
            path = stack.enter_context(control_plane(Path(os.environ[name]), folder))
        yield stack.enter_context(RealCluster(path))


@dataclass
class EmulatedCluster:
    api: KubeApi
    access: ClusterAccess
    namespace: str = "greet"

    def put(self, obj: Body) -> str:
        """By the schemas of the CRDs."""
        from tests.crd_schemas import refusals, schema_of  # here: every test imports this module, few need the judges

        if obj["apiVersion"].startswith(API_GROUP):
            refused = refusals(schema_of(obj["kind"], obj["apiVersion"].rpartition("/")[2]), obj)
            if refused:
                raise Refused(str(refused))
        return self.api.put(obj)

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.api.delete(kind, namespace, name)


class RealCluster:
    def __init__(self, kubeconfig: Path) -> None:
        self.access = ClusterAccess(kubeconfig=kubeconfig)
        self.namespace = f"grpcgw-test-{secrets.token_hex(4)}"
        self._client = dynamic.DynamicClient(config.new_client_from_config(str(kubeconfig)))
        self._api_versions: dict[str, str] = {}

    def __enter__(self) -> RealCluster:
        extensions = client.ApiextensionsV1Api(self._client.client)
        for crd in yaml.safe_load_all(CRDS.read_text()):
            try:
                extensions.create_custom_resource_definition(crd)
            except ApiException as refusal:
                if refusal.status != 409:  # installed already: left as it is
                    raise
        self.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        return self

    def __exit__(self, *_: object) -> None:
        client.CoreV1Api(self._client.client).delete_namespace(self.namespace)

    def put(self, obj: Body) -> object:
        self._api_versions[obj["kind"]] = obj["apiVersion"]
        resource = self._client.resources.get(api_version=obj["apiVersion"], kind=obj["kind"])
        metadata = obj["metadata"]
        try:
            return resource.server_side_apply(
                obj, name=metadata["name"], namespace=metadata.get("namespace"), field_manager="grpcgw-test"
            )
        except ApiException as refusal:
            if refusal.status in (400, 422, 500):  # 500: a type that server-side apply cannot even merge
                raise Refused(str(refusal)) from refusal
            raise

    def delete(self, kind: str, namespace: str, name: str) -> None:
        resource = self._client.resources.get(api_version=self._api_versions[kind], kind=kind)
        resource.delete(name, namespace)


@contextmanager
def control_plane(assets: Path, folder: Path) -> Iterator[Path]:
    """etcd and kube-apiserver on free ports of the loopback; gives the path of a kubeconfig for an administrator."""
    etcd_port, peer_port, api_port = (free_port() for _ in range(3))
    key, tokens, kubeconfig = folder / "sa.key", folder / "tokens.csv", folder / "kubeconfig"
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key.write_bytes(private.private_bytes(pem, pkcs8, plain))
    tokens.write_text("administrator,administrator,administrator,system:masters\n")
    server = f"https://127.0.0.1:{api_port}"
    cluster = {"server": server, "insecure-skip-tls-verify": True}
    document = {
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": "administrator"}}],
    }
    kubeconfig.write_text(yaml.safe_dump(document))
    etcd = [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://127.0.0.1:{etcd_port}",
        f"--advertise-client-urls=http://127.0.0.1:{etcd_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
    ]
    api_server = [
        f"--etcd-servers=http://127.0.0.1:{etcd_port}",
        f"--secure-port={api_port}",
        "--bind-address=127.0.0.1",
        f"--cert-dir={folder}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        f"--service-account-issuer={server}",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--disable-admission-plugins=ServiceAccount",
    ]
    with ExitStack() as stack:
        for command in ([str(assets / "etcd"), *etcd], [str(assets / "kube-apiserver"), *api_server]):
            process = stack.enter_context(subprocess.Popen(command, stderr=subprocess.DEVNULL))
            stack.callback(process.terminate)
        wait_until_up(kubeconfig)
        yield kubeconfig


def wait_until_up(kubeconfig: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_S
    core = client.CoreV1Api(config.new_client_from_config(str(kubeconfig)))
    while True:
        try:
            core.read_namespace("default")
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
