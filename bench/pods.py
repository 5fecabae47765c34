"""Pods to proxy to, and the configuration that names them: as files of a directory, or as objects of a cluster.

Which pod answers is in its reply; `check_answers` holds a proxy to what is measured: status OK, the whole reply, and
strict turns. Nothing is timed that has not passed it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml

from bench.backend import METHOD, make_reply, make_request
from bench.children import running, wait_for_port
from grpcgw.demo import HOST, free_port, took_strict_turns
from grpcgw.errors import UserError

NAMESPACE = "bench"
CHECKED_CALLS = 64
"""At least; rounded up so that every pod has its turns."""

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    name: str
    port: int

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"


@contextmanager
def running_pods(count: int) -> Iterator[tuple[Pod, ...]]:
    """Pods that cost little (`bench.backend`). All names have the same length, and so have all replies."""
    pods = tuple(Pod(f"pod-{number:02}", free_port(0)) for number in range(count))
    command = [sys.executable, "-m", "bench.backend", *(f"{pod.name}:{pod.port}" for pod in pods)]
    with running(command) as process:
        for pod in pods:
            wait_for_port(pod.port, process, pod.name)
        yield pods


# ---- configuration


def describe_service(service: str) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "grpc", "port": 50051, "targetPort": "grpc"}]},
    }


def describe_endpoints(service: str, pods: Sequence[Pod]) -> Body:
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": service, "namespace": NAMESPACE},
        "subsets": [{"addresses": [{"ip": HOST}], "ports": [{"name": "grpc", "port": pod.port}]} for pod in pods],
    }


def describe_slice(service: str, pod: Pod) -> Body:
    """One pod: a slice has one port for all its addresses, and the pods of one machine differ by port."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{service}-{pod.name}",
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [HOST], "conditions": {"ready": True}}],
        "ports": [{"name": "grpc", "port": pod.port, "protocol": "TCP"}],
    }


def describe_mapping(name: str, service: str, prefix: str = "/greet.GrpcService/") -> Body:
    return {
        "apiVersion": "getambassador.io/v2",
        "kind": "Mapping",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "prefix": prefix,
            "rewrite": "/greet.GrpcService/",
            "service": f"{service}.{NAMESPACE}:50051",
            "resolver": "pods",
            "load_balancer": {"policy": "round_robin"},
        },
    }


def describe_resolver() -> Body:
    return {
        "apiVersion": "getambassador.io/v2",
        "kind": "KubernetesEndpointResolver",
        "metadata": {"name": "pods", "namespace": NAMESPACE},
    }


def write_objects(path: Path, objects: Sequence[Body]) -> None:
    """Saved as an editor does: written beside the file, then renamed over it."""
    beside = path.with_suffix(".new")
    beside.write_text(yaml.safe_dump_all(objects))
    beside.rename(path)


def write_configuration(folder: Path, pods: Sequence[Pod]) -> None:
    """One Mapping, one service, `pods` behind it."""
    objects = [describe_resolver(), describe_mapping("greet", "greet")]
    write_objects(folder / "bench.yaml", [*objects, describe_service("greet"), describe_endpoints("greet", pods)])


# ---- answers


def check_answers(what: str, port: int, pods: Sequence[Pod]) -> None:
    """Raise UserError unless real calls through `port` are answered OK, whole, and by `pods` in strict turn."""
    calls = -(-CHECKED_CALLS // len(pods)) * len(pods)
    names = {make_reply(pod.name): pod.name for pod in pods}
    try:
        with grpc.insecure_channel(f"{HOST}:{port}") as channel:
            call = channel.unary_unary(METHOD)
            replies = [call(make_request(), timeout=5) for _ in range(calls)]
    except grpc.RpcError as error:
        raise UserError(f"{what}: {error.code().name}: {error.details()}") from error
    answered = [names.get(reply, repr(reply)) for reply in replies]
    if not took_strict_turns(answered, [pod.name for pod in pods]):
        raise UserError(f"{what}: the pods did not take strict turns: {' '.join(answered[:8])} …")
