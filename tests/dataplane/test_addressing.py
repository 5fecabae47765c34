"""Which addresses of a service get RPCs: from the Mapping's YAML, by the real resolvers, to pods on both engines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from dataplane.configured import compile_yaml
from dataplane.lab import Lab
from grpcgw.discovery.resolvers.dns import DnsResolver
from grpcgw.discovery.resolvers.dns_lookup import DnsAnswer
from grpcgw.discovery.resolvers.kubernetes_endpoints import EndpointsResolver
from grpcgw.discovery.resolvers.resolver import Resolver
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import Addressing, Cluster
from grpcgw.model.endpoints import EndpointSet
from tests.parsing import parse_objects


class Everywhere:
    """Every name has these addresses."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def ask(self, hostname: str, addressing: Addressing) -> DnsAnswer:
        return DnsAnswer(self._addresses)

    async def aclose(self) -> None:
        """Nothing is held."""


def find(cluster: Cluster, make: Callable[[], Resolver]) -> EndpointSet:
    """What a resolver says first of a cluster."""

    async def main() -> EndpointSet:
        found: asyncio.Future[EndpointSet] = asyncio.get_running_loop().create_future()
        resolver = make()
        running = asyncio.create_task(resolver.run())
        await asyncio.sleep(0)
        resolver.watch(cluster, lambda endpoints: found.done() or found.set_result(endpoints))
        try:
            return await asyncio.wait_for(found, 20)
        finally:
            running.cancel()

    return asyncio.run(main())


def addresses_that_answer(lab: Lab, mapping: str, make: Callable[[], Resolver]) -> set[str]:
    """The hosts that the RPCs of a Mapping go to; one that cannot be called fails the test."""
    snapshot = compile_yaml(mapping, lab.engine).snapshot
    ((name, cluster),) = snapshot.clusters.items()
    gateway = lab.gateway(routes=[], clusters={})
    gateway.serving.apply(snapshot, time.monotonic())
    gateway.serving.set_endpoints(name, find(cluster, make), time.monotonic())
    call = lab.channel(gateway).unary_unary("/test.Pod/Unary")
    assert {call(b"") for _ in range(6)} == {b"a:"}
    return {report.address.rpartition(":")[0] for report in gateway.serving.clusters.pod_reports()}


@pytest.mark.parametrize(
    ("field", "addresses"),
    [
        ("", {"127.0.0.1", "127.0.0.2"}),
        ("dns_type: strict_dns", {"127.0.0.1", "127.0.0.2"}),
        ("dns_type: logical_dns", {"127.0.0.1"}),
        ("respect_dns_ttl: true", {"127.0.0.1", "127.0.0.3"}),
    ],
)
def test_addresses_of_a_name_are_used_as_dns_type_and_respect_dns_ttl_say(
    lab: Lab, field: str, addresses: set[str]
) -> None:
    port = lab.pod("a").endpoint.port
    mapping = f"{{name: m, service: 'api.test:{port}', resolver: kubernetes-service, {field}}}"

    def make() -> Resolver:
        return DnsResolver(lookup=Everywhere("127.0.0.1", "127.0.0.2"), ttl_lookup=Everywhere("127.0.0.1", "127.0.0.3"))

    assert addresses_that_answer(lab, mapping, make) == addresses


def slices(port: int) -> str:
    """A Service whose pods have IPv4 addresses in one slice and IPv6 addresses in another."""
    head = "apiVersion: discovery.k8s.io/v1, kind: EndpointSlice"
    body = f"ports: [{{port: {port}}}]"
    labels = "labels: {kubernetes.io/service-name: pods}"
    return f"""
{{apiVersion: v1, kind: Service, metadata: {{name: pods}}, spec: {{ports: [{{port: 80}}]}}}}
---
{{{head}, metadata: {{name: a, {labels}}}, addressType: IPv4, endpoints: [{{addresses: [127.0.0.1]}}], {body}}}
---
{{{head}, metadata: {{name: b, {labels}}}, addressType: IPv6, endpoints: [{{addresses: ["::1"]}}], {body}}}
"""


@pytest.mark.parametrize(("field", "addresses"), [("", {"127.0.0.1", "[::1]"}), ("enable_ipv6: false", {"127.0.0.1"})])
def test_pods_of_the_enabled_families_are_used(lab: Lab, field: str, addresses: set[str]) -> None:
    store = ObjectStore()
    objects, faults = parse_objects(slices(lab.pod("a").endpoint.port), "test.yaml")
    assert not faults
    store.replace("test", objects)
    mapping = f"{{name: m, service: pods, {field}}}"
    assert addresses_that_answer(lab, mapping, lambda: EndpointsResolver(store)) == addresses
