"""What the gateway writes back to the cluster: how each Mapping fares, by one gateway of two."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dataplane.waiting import eventually

from examples.greet.server import Pod
from gateway.harness import Gateway, greet, running_gateway
from gateway.objects import endpoint_slice, mapping, put_greet, resolver, service
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


def test_a_mapping_that_leads_nowhere_is_inactive_until_it_leads_somewhere(
    api: KubeApi, pods: list[Pod], tmp_path: Path
) -> None:
    external = service("external") | {"spec": {"type": "ExternalName", "externalName": "greet.example.com"}}
    by_name = endpoint_slice(50051, service="named") | {"addressType": "FQDN"}
    reasons = {"late": "no Service late in", "external": "is an ExternalName", "named": "addresses are no IP addresses"}
    for obj in (resolver(), external, service("named"), by_name):
        api.put(obj)
    for name in reasons:
        api.put(mapping(name, f"/{name}.S/" if name != "late" else "/greet.GrpcService/", name))
    with gateway_on(api, tmp_path) as gateway, gateway.channel() as channel:
        for name, reason in reasons.items():
            eventually(lambda: status_of_mapping(api, name).get("state") == "Inactive", gateway.log)  # noqa: B023
            assert reason in status_of_mapping(api, name)["reason"]
        eventually(lambda: {one["regarding"]["name"] for one in api.all("Event")} == set(reasons), gateway.log)
        assert len(gateway.errors()) == len(reasons)
        for obj in (service("late"), *(endpoint_slice(pod.port, service="late") for pod in pods)):
            api.put(obj)
        eventually(lambda: status_of_mapping(api, "late").get("state") == "Running", gateway.log)
        assert greet(channel)


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
