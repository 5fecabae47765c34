"""API keys as users run them: keys in a Secret that is read from the API server, and changes under load."""

from __future__ import annotations

import base64
import itertools
import threading
from pathlib import Path

import grpc
from dataplane.waiting import PATIENCE_S, eventually

from examples.greet.server import Pod
from gateway.harness import Gateway, running_gateway
from gateway.objects import Body, put_greet
from greet import greet_pb2, greet_pb2_grpc
from tests.kube_api import KubeApi


def keys(**values: str) -> Body:
    data = {name: base64.b64encode(value.encode()).decode() for name, value in values.items()}
    metadata = {"name": "api-keys", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


def custom(kind: str, name: str, spec: Body) -> Body:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "getambassador.io/v2", "kind": kind, "metadata": metadata, "spec": spec}


FILTER = custom("Filter", "api-keys", {"APIKey": {"keys": [{"secretName": "api-keys"}]}})
POLICY = custom("FilterPolicy", "all", {"rules": [{"host": "*", "path": "*", "filters": [{"name": "api-keys"}]}]})


def code_with(channel: grpc.Channel, key: str) -> grpc.StatusCode:
    stub = greet_pb2_grpc.GrpcServiceStub(channel)
    try:
        stub.Greet(greet_pb2.GreetRequest(input="test"), timeout=PATIENCE_S, metadata=(("x-api-key", key),))
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


class Caller(threading.Thread):
    """Calls one after the other, always with a key that is valid."""

    def __init__(self, gateway: Gateway, key: str) -> None:
        super().__init__()
        self.key = key
        self.codes: list[grpc.StatusCode] = []
        self._gateway, self._over = gateway, threading.Event()

    def run(self) -> None:
        with self._gateway.channel() as channel:
            while not self._over.is_set():
                self.codes.append(code_with(channel, self.key))

    def end(self) -> None:
        self._over.set()
        self.join()


def test_keys_are_rotated_in_their_secret_and_no_valid_call_fails(
    api: KubeApi, pods: list[Pod], tmp_path: Path
) -> None:
    put_greet(api, [pod.port for pod in pods])
    for obj in (FILTER, POLICY, keys(ann="key-1")):
        api.put(obj)
    arguments = ("--kubernetes", "--kubeconfig", str(api.kubeconfig(tmp_path / "kubeconfig")))
    with running_gateway(*arguments, folder=tmp_path, workers=1) as gateway, gateway.channel() as channel:
        assert gateway.errors() == []
        assert code_with(channel, "wrong") is grpc.StatusCode.UNAUTHENTICATED
        caller = Caller(gateway, "key-1")
        caller.start()
        for old, new in itertools.pairwise(["key-1", "key-2", "key-3"]):
            api.put(keys(ann=old, ann_new=new))
            eventually(lambda: code_with(channel, new) is grpc.StatusCode.OK, gateway.log)  # noqa: B023 - ends in the round
            caller.key = new
            calls = len(caller.codes) + 2
            eventually(lambda: len(caller.codes) >= calls, "calls go on")  # noqa: B023
            api.put(keys(ann=new))
            eventually(lambda: code_with(channel, old) is grpc.StatusCode.UNAUTHENTICATED, gateway.log)  # noqa: B023
        caller.end()
        assert set(caller.codes) == {grpc.StatusCode.OK}
        api.delete("Secret", "default", "api-keys")
        eventually(lambda: code_with(channel, "key-3") is grpc.StatusCode.UNAVAILABLE, gateway.log)
        told = "\n".join(gateway.errors()) + gateway.log()
        assert "Secret api-keys.default does not exist" in told
        assert "key-3" not in told
