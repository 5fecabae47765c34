"""The Kubernetes objects of the tests, as the API server or a YAML file has them, and a directory that holds them."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import yaml

from grpcgw.listeners.self_signed import make_self_signed

Body = dict[str, Any]

NAMESPACE = "grpcserver"
RESOLVER = "grpcserver-endpoint-resolver"


def mapping(
    name: str = "grpcserver", prefix: str = "/greet.GrpcService/", service: str = "grpcserver", **more: Any
) -> Body:
    spec = {"prefix": prefix, "service": f"{service}.{NAMESPACE}:50051", "resolver": RESOLVER, **more}
    return _custom("Mapping", name, spec)


def resolver(name: str = RESOLVER) -> Body:
    return _custom("KubernetesEndpointResolver", name, {})


def tls_context(secret: str, name: str = "tls") -> Body:
    return _custom("TLSContext", name, {"hosts": ["*"], "secret": secret})


def tls_context_of_files(folder: Path) -> Body:
    """Of `tls.crt` and `tls.key` in `folder`."""
    files = {"cert_chain_file": str(folder / "tls.crt"), "private_key_file": str(folder / "tls.key")}
    return _custom("TLSContext", "tls", {"hosts": ["*"], **files})


def host(secret: str, hostname: str, name: str = "host") -> Body:
    return _custom("Host", name, {"hostname": hostname, "tlsSecret": {"name": secret}})


def listener(name: str, port: int, protocol: str = "HTTP") -> Body:
    obj = _custom("Listener", name, {"port": port, "protocol": protocol, "securityModel": "XFP"})
    return {**obj, "apiVersion": "getambassador.io/v3alpha1"}


def _custom(kind: str, name: str, spec: Body) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "getambassador.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


def service(name: str = "grpcserver") -> Body:
    ports = [{"name": "grpc", "port": 50051, "targetPort": "grpc"}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": _in_namespace(name), "spec": {"ports": ports}}


def endpoint_slice(port: int, ready: bool = True, terminating: bool = False, service: str = "grpcserver") -> Body:
    """A slice of one pod, since here pods are told apart by their ports; it is named after the port."""
    metadata = _in_namespace(f"{service}-{port}") | {"labels": {"kubernetes.io/service-name": service}}
    conditions = {"ready": ready, "serving": ready or terminating, "terminating": terminating}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": conditions}],
        "ports": [{"name": "grpc", "port": port, "protocol": "TCP"}],
    }


def endpoints(ports: Iterable[int], service: str = "grpcserver") -> Body:
    """One subset for each pod, as their ports differ here."""
    named = ({"name": "grpc", "port": port, "protocol": "TCP"} for port in ports)
    subsets = [{"addresses": [{"ip": "127.0.0.1"}], "ports": [port]} for port in named]
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": _in_namespace(service), "subsets": subsets}


def secret(name: str, chain: bytes, key: bytes) -> Body:
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data}


def make_key_pair(hostname: str) -> tuple[bytes, bytes]:
    """Chain and private key for `hostname`; the chain is its own authority."""
    made = make_self_signed(hostname, datetime.datetime.now(datetime.UTC))
    return made.certificate_chain, made.private_key


def _in_namespace(name: str) -> Body:
    return {"name": name, "namespace": NAMESPACE}


class Objects(Protocol):
    """Where a test puts its objects: a directory, or the emulated API server."""

    def put(self, obj: Body) -> object: ...
    def delete(self, kind: str, namespace: str, name: str) -> None: ...


class Directory:
    """A file per object."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()

    def put(self, obj: Body) -> None:
        self.file(obj["kind"], obj["metadata"]["namespace"], obj["metadata"]["name"]).write_text(yaml.safe_dump(obj))

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.file(kind, namespace, name).unlink()

    def file(self, kind: str, namespace: str, name: str) -> Path:
        return self.path / f"{kind}-{namespace}-{name}.yaml".lower()


def put_greet(objects: Objects, ports: Iterable[int]) -> None:
    """The greet scenario: Mapping, resolver, Service, and its pods."""
    for obj in (resolver(), mapping(), service(), *map(endpoint_slice, ports)):
        objects.put(obj)


def remove_pod(objects: Objects, port: int) -> None:
    objects.delete("EndpointSlice", NAMESPACE, f"grpcserver-{port}")
