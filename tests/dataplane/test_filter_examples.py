"""The examples of Filters are good as they stand, and do what they say."""

from __future__ import annotations

import re
from pathlib import Path

from dataplane.lab import Gateway, Lab
from dataplane.pods import Pod
from grpcgw.control.dialects import compile_snapshot
from grpcgw.model.codes import Code
from grpcgw.model.route_source import CompileOptions
from tests.parsing import parse_objects

EXAMPLES = Path(__file__).parents[2] / "examples" / "filters"
GREET = "/greet.GrpcService/Greet"


def example(lab: Lab, name: str) -> tuple[Gateway, Pod]:
    """The gateway of an example, and the pod of its Mapping."""
    objects, faults = parse_objects((EXAMPLES / name).read_text(), name)
    compiled = compile_snapshot(objects, {}, CompileOptions())
    assert [*faults, *map(str, compiled.problems)] == []
    (cluster,) = compiled.snapshot.clusters
    pod = lab.pod("greet", {GREET: lambda requests, _: iter(list(requests))})
    gateway = lab.gateway(configuration=compiled.snapshot, clusters={cluster: (pod,)})
    gateway.wait_for_ready_pods(1)
    return gateway, pod


def test_api_keys(lab: Lab) -> None:
    gateway, pod = example(lab, "api-keys.yaml")
    client = lab.raw_client(gateway)
    assert client.call(GREET).status == Code.UNAUTHENTICATED
    assert client.call(GREET, ("x-api-key", "key-of-eve")).status == Code.UNAUTHENTICATED
    assert not pod.calls
    assert client.call(GREET, ("x-api-key", "key-of-billing")).status == Code.OK
    assert client.call("/grpc.health.v1.Health/Check").status != Code.UNAUTHENTICATED


def test_tokens(lab: Lab) -> None:
    (token,) = re.findall(r"^#   TOKEN=(\S+)$", (EXAMPLES / "jwt.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    gateway, pod = example(lab, "jwt.yaml")
    client = lab.raw_client(gateway)
    assert client.call(GREET).status == Code.UNAUTHENTICATED
    assert client.call(GREET, ("authorization", f"Bearer {token}x")).status == Code.UNAUTHENTICATED
    assert client.call("/greet.GrpcService/GreetEach", ("authorization", f"Bearer {token}")).status == (
        Code.PERMISSION_DENIED
    )
    assert not pod.calls
    assert client.call(GREET, ("authorization", f"Bearer {token}"), ("x-user", "eve")).status == Code.OK
    (seen,) = pod.calls
    assert seen.values("x-user") == ["ann"]


def test_authorization(lab: Lab) -> None:
    text = (EXAMPLES / "authorization.yaml").read_text(encoding="utf-8")
    (found,) = re.findall(r"^#   TOKEN=(\S+)$", text, re.MULTILINE)
    gateway, pod = example(lab, "authorization.yaml")
    client = lab.raw_client(gateway)
    token = ("authorization", f"Bearer {found}")
    each = "/greet.GrpcService/GreetEach"
    assert client.call(GREET).status == Code.UNAUTHENTICATED
    assert client.call(each, token).status == Code.PERMISSION_DENIED
    assert client.call(each, token, ("x-tenant", "eve")).status == Code.PERMISSION_DENIED
    assert client.call("/greet.GrpcService/Delete", token).status == Code.PERMISSION_DENIED
    assert not pod.calls
    assert client.call(GREET, token).status == Code.OK
    assert client.call(each, token, ("x-tenant", "ann")).status == Code.UNIMPLEMENTED, (
        "the pod, which has none, was asked"
    )
