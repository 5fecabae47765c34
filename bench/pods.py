"""Pods behind the proxies, and the configuration that names them: files of a directory, or objects of a cluster.

Which pod answers is in its reply; `check_answers` holds a proxy to what is measured: status OK, the whole reply, and
strict turns. Nothing is timed that has not passed it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import yaml

from bench.backend import METHOD, make_reply, make_request
from bench.certificate import CertificateFiles
from bench.children import running
from grpcgw.cli.demo_processes import HOST
from grpcgw.cli.demo_verdict import took_strict_turns
from grpcgw.errors import UserError
from grpcgw.model.metadata import Metadata

NAMESPACE = "bench"
CHECKED_CALLS = 64
"""Minimum; rounded up so that every pod gets the same number."""
CONNECT_DEADLINE_S = 60.0
"""To all pods of a gateway that has just started, a thousand at most."""

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
    """Cheap pods (`bench.backend`). All names have the same length, so all replies do."""
    names = [f"pod-{number:03}" for number in range(count)]
    with running([sys.executable, "-m", "bench.backend", *names], says=True) as process:
        assert process.stdout is not None
        ports = process.stdout.readline().split()
        if len(ports) != count:
            raise UserError(f"of {count} pods {len(ports)} started; see above")
        yield tuple(Pod(name, int(port)) for name, port in zip(names, ports, strict=True))


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


def describe_full_mapping(name: str, service: str, prefix: str = "/greet.GrpcService/") -> Body:
    """A Mapping with every field set that costs an RPC or compilation time; it matches the same RPCs as the plain one.

    Not set are `shadow` and `tls`, which cost a second RPC and encryption, and what excludes another field.
    """
    body = describe_mapping(name, service, prefix)
    del body["spec"]["rewrite"]
    body["spec"] |= {
        "grpc": True,
        "precedence": 1,
        "weight": 100,
        "hostname": "127.0.0.*",
        "case_sensitive": True,
        "headers": {"user-agent": True},
        "regex_headers": {"user-agent": ".*(h2load|grpc).*"},
        "regex_rewrite": {"pattern": "^/[^/]*/(.*)$", "substitution": r"/greet.GrpcService/\1"},
        "host_rewrite": "greet.internal",
        "add_request_headers": {
            "x-gateway": {"value": "grpcgw", "append": False},
            "x-client": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        },
        "remove_request_headers": ["x-secret"],
        "add_response_headers": {"x-served-by": "grpcgw"},
        "remove_response_headers": ["x-internal"],
        "timeout_ms": 60_000,
        "idle_timeout_ms": 300_000,
        "connect_timeout_ms": 3_000,
        "cluster_idle_timeout_ms": 600_000,
        "cluster_max_connection_lifetime_ms": 3_600_000,
        "keepalive": {"time": 100, "interval": 10, "probes": 9},
        "priority": "default",
        "retry_policy": {"retry_on": ["unavailable"], "num_retries": 2, "per_try_timeout": "10s"},
        "circuit_breakers": [{"max_connections": 1000, "max_pending_requests": 1000, "max_requests": 1000}],
        "outlier_detection": {"consecutive_failures": 5, "success_rate_stdev_factor": 1900},
        "stats_name": name,
        "enable_ipv4": True,
        "enable_ipv6": False,
    }
    return body


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


def describe_tls_context(files: CertificateFiles) -> Body:
    return {
        "apiVersion": "getambassador.io/v2",
        "kind": "TLSContext",
        "metadata": {"name": "bench", "namespace": NAMESPACE},
        "spec": {"hosts": ["*"], "cert_chain_file": str(files.chain), "private_key_file": str(files.key)},
    }


def write_configuration(
    folder: Path, pods: Sequence[Pod], mapping: Body | None = None, others: Sequence[Body] = ()
) -> None:
    """One Mapping, the plain one unless given, of one service, `pods` behind it; and `others`."""
    objects = [describe_resolver(), mapping or describe_mapping("greet", "greet"), describe_service("greet")]
    write_objects(folder / "bench.yaml", [*objects, describe_endpoints("greet", pods), *others])


# ---- answers


def wait_for_answers(
    what: str, port: int, pods: Sequence[Pod], authority: bytes = b"", metadata: Metadata = ()
) -> None:
    """Call until `check_answers` is content: a proxy that has just started may still be connecting to pods."""
    limit_s = time.monotonic() + CONNECT_DEADLINE_S
    while True:
        try:
            return check_answers(what, port, pods, authority, metadata)
        except UserError:
            if time.monotonic() > limit_s:
                raise


def check_answers(what: str, port: int, pods: Sequence[Pod], authority: bytes = b"", metadata: Metadata = ()) -> None:
    """Raise UserError unless real calls through `port` are answered OK, whole, and by `pods` in strict turn.

    `authority`: verifies the proxy's certificate (PEM); empty: calls are in clear text.
    """
    calls = -(-CHECKED_CALLS // len(pods)) * len(pods)
    names = {make_reply(pod.name): pod.name for pod in pods}
    try:
        with open_channel(port, authority) as channel:
            call = channel.unary_unary(METHOD)
            replies = [call(make_request(), timeout=5, metadata=metadata) for _ in range(calls)]
    except grpc.RpcError as error:
        raise UserError(f"{what}: {error.code().name}: {error.details()}") from error
    answered = [names.get(reply, repr(reply)) for reply in replies]
    if not took_strict_turns(answered, [pod.name for pod in pods]):
        raise UserError(f"{what}: the pods did not take strict turns: {' '.join(answered[:8])} …")


def open_channel(port: int, authority: bytes) -> grpc.Channel:
    target = f"{HOST}:{port}"
    if not authority:
        return grpc.insecure_channel(target)
    return grpc.secure_channel(target, grpc.ssl_channel_credentials(authority))
