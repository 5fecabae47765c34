"""What the gateway writes back to the cluster: how each Mapping fares, by one gateway of two."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import Gateway, greet, running_gateway
from gateway.objects import mapping, put_greet
from tests.kube_api import KubeApi


def gateway_on(api: KubeApi, folder: Path) -> AbstractContextManager[Gateway]:
    kubeconfig = api.kubeconfig(folder / "kubeconfig")
    return running_gateway("--kubernetes", "--kubeconfig", str(kubeconfig), folder=folder)


def status_of_mapping(api: KubeApi, name: str = "grpcserver") -> dict[str, Any]:
    found = api.get("Mapping", "default", name)
    return (found or {}).get("status") or {}


def test_a_mapping_is_told_whether_it_runs_and_why_not(api: KubeApi, pods: list[Pod], tmp_path: Path) -> None:
    put_greet(api, [pod.port for pod in pods])
    api.put(mapping("broken", "/broken.S/", timeout_ms="soon"))
    with gateway_on(api, tmp_path) as gateway, gateway.channel() as channel:
        eventually(lambda: status_of_mapping(api).get("state") == "Running", gateway.log)
        eventually(lambda: status_of_mapping(api, "broken").get("state") == "Inactive", gateway.log)
        assert "timeout_ms" in status_of_mapping(api, "broken")["reason"]
        assert greet(channel)
        api.put(mapping("broken", "/broken.S/"))
        eventually(lambda: status_of_mapping(api, "broken").get("state") == "Running", gateway.log)
        assert "reason" not in status_of_mapping(api, "broken") or not status_of_mapping(api, "broken")["reason"]


def test_one_of_two_gateways_writes(api: KubeApi, pods: list[Pod], tmp_path: Path) -> None:
    put_greet(api, [pod.port for pod in pods])
    with gateway_on(api, tmp_path) as first:
        eventually(lambda: status_of_mapping(api).get("state") == "Running", first.log)
        (lease,) = api.all("Lease")
        with gateway_on(api, tmp_path) as second:
            api.put(mapping("late", "/late.S/"))
            eventually(lambda: status_of_mapping(api, "late").get("state") == "Running", second.log)
            eventually(lambda: len(second.diagnostics("route_info")) == 2, second.log)
            writes = [request for request in api.requests if request.verb == "patch" and "late" in request.path]
            assert len(writes) == 1
            (still,) = api.all("Lease")
            assert still["spec"]["holderIdentity"] == lease["spec"]["holderIdentity"]
