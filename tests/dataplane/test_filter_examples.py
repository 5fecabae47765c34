"""The examples of Filters are good as they stand, and do what they say."""

from __future__ import annotations

import re

from dataplane.examples import EXAMPLES, GREET, example
from dataplane.lab import Lab
from grpcgw.model.codes import Code


def test_api_keys(lab: Lab) -> None:
    gateway, pod = example(lab, "filters/api-keys.yaml")
    client = lab.raw_client(gateway)
    assert client.call(GREET).status == Code.UNAUTHENTICATED
    assert client.call(GREET, ("x-api-key", "key-of-eve")).status == Code.UNAUTHENTICATED
    assert not pod.calls
    assert client.call(GREET, ("x-api-key", "key-of-billing")).status == Code.OK
    assert client.call("/grpc.health.v1.Health/Check").status != Code.UNAUTHENTICATED


def test_tokens(lab: Lab) -> None:
    (token,) = re.findall(
        r"^#   TOKEN=(\S+)$", (EXAMPLES / "filters/jwt.yaml").read_text(encoding="utf-8"), re.MULTILINE
    )
    gateway, pod = example(lab, "filters/jwt.yaml")
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
    text = (EXAMPLES / "filters/authorization.yaml").read_text(encoding="utf-8")
    (found,) = re.findall(r"^#   TOKEN=(\S+)$", text, re.MULTILINE)
    gateway, pod = example(lab, "filters/authorization.yaml")
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
