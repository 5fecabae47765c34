"""AuthorizationPolicies as users run them: read from the API server, changed while calls come in."""

from __future__ import annotations

from pathlib import Path

import grpc
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.harness import running_gateway
from gateway.objects import Body, put_greet
from greet import greet_pb2, greet_pb2_grpc
from tests.kube_api import KubeApi


def policy(*rules: Body, action: str = "ALLOW") -> Body:
    metadata = {"name": "greet", "namespace": "default"}
    spec: Body = {"action": action, "rules": list(rules)}
    return {"apiVersion": "grpcgw.io/v1alpha1", "kind": "AuthorizationPolicy", "metadata": metadata, "spec": spec}


def code_with(channel: grpc.Channel, role: str) -> grpc.StatusCode:
    stub = greet_pb2_grpc.GrpcServiceStub(channel)
    try:
        stub.Greet(greet_pb2.GreetRequest(input="test"), timeout=PATIENCE_S, metadata=(("x-role", role),))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_a_policy_comes_changes_breaks_and_goes(api: KubeApi, pods: list[Pod], tmp_path: Path) -> None:
    put_greet(api, [pod.port for pod in pods])
    api.put(policy({"principals": [{"header": {"name": "X-Role", "value": "admin"}}]}))
    arguments = ("--kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig")))
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway, gateway.channel() as channel:
        assert gateway.errors() == []
        assert code_with(channel, "admin") is grpc.StatusCode.OK
        assert code_with(channel, "user") is grpc.StatusCode.PERMISSION_DENIED
        api.put(policy({"principals": [{"header": {"name": "x-role", "value": "user"}}]}))
        eventually(lambda: code_with(channel, "user") is grpc.StatusCode.OK, gateway.log)
        assert code_with(channel, "admin") is grpc.StatusCode.PERMISSION_DENIED
        api.put(policy({"condition": "("}))
        eventually(lambda: any("is no CEL expression" in error for error in gateway.errors()), gateway.log)
        assert code_with(channel, "user") is grpc.StatusCode.OK, "the last good version serves"
        assert code_with(channel, "admin") is grpc.StatusCode.PERMISSION_DENIED
        api.delete("AuthorizationPolicy", "default", "greet")
        eventually(lambda: code_with(channel, "admin") is grpc.StatusCode.OK, gateway.log)
