"""New clusters are warmed: their snapshot waits for pods that are on their way, and never for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from discovery.resolvers.test_kubernetes_endpoints import a_service, a_slice
from session.gateway import cluster

from grpcgw.control.cluster_watches import ClusterWatches
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import Cluster, ResolverKind, ServiceRef
from tests.scenarios import run

WARM = Cluster("new", ResolverKind.KUBERNETES_ENDPOINT, "resolver", ServiceRef("grpcserver", "there", 50051))


class Bench:
    def __init__(self) -> None:
        self.store = ObjectStore()
        self.published: list[str] = []
        self.watches = ClusterWatches(self.store, lambda name, _: self.published.append(name), lambda: True)

    def watch(self, *clusters: Cluster) -> asyncio.Task[None]:
        return asyncio.create_task(self.watches.watch({each.name: each for each in clusters}))


@asynccontextmanager
async def serving(*clusters: Cluster) -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.watch(*clusters)
    yield bench


async def pass_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_the_first_snapshot_does_not_wait() -> None:
    async def scenario() -> None:
        bench = Bench()
        first = bench.watch(cluster("old"))
        await pass_turns()
        assert first.done()
        assert not bench.watches.endpoints["old"].endpoints

    run(scenario())


def test_a_new_cluster_is_ready_once_its_service_and_its_pods_are_known() -> None:
    async def scenario() -> None:
        async with serving(cluster("old")) as bench:
            warming = bench.watch(WARM)
            await pass_turns()
            bench.store.apply("services", a_service())
            await pass_turns()
            assert not warming.done(), "there is no pod yet"
            bench.store.apply("slices", a_slice(["10.0.0.1"]))
            await warming
            assert bench.watches.endpoints["new"].endpoints

    run(scenario())


def test_a_cluster_that_dns_resolves_is_waited_for_as_well() -> None:
    async def scenario() -> None:
        async with serving(cluster("old")) as bench:
            dns = Cluster(
                "dns", ResolverKind.KUBERNETES_SERVICE, "resolver", ServiceRef("10.0.0.1", "", 8000, "10.0.0.1")
            )
            resolving = asyncio.create_task(bench.watches.run())
            await bench.watch(dns)
            assert bench.watches.endpoints["dns"].endpoints
            resolving.cancel()
            await asyncio.wait((resolving,))

    run(scenario())


def test_a_cluster_whose_pods_are_known_and_one_that_is_not_new_hold_nothing_up() -> None:
    async def scenario() -> None:
        async with serving(cluster("old")) as bench:
            bench.store.apply("services", a_service())
            bench.store.apply("slices", a_slice(["10.0.0.1"]))
            second = bench.watch(cluster("old"), WARM)
            await pass_turns()
            assert second.done()

    run(scenario())


def test_a_cluster_that_never_gets_a_pod_is_not_waited_for_without_end() -> None:
    async def scenario() -> None:
        async with serving(cluster("old")) as bench:
            await bench.watch(WARM)
            assert not bench.watches.endpoints["new"].endpoints

    run(scenario())


def test_an_older_snapshot_that_is_taken_does_not_end_the_watch_of_a_cluster_that_warms() -> None:
    async def scenario() -> None:
        async with serving(cluster("old")) as bench:
            warming = bench.watch(WARM)
            await pass_turns()
            bench.watches.keep_only({"old"})
            bench.store.apply("services", a_service())
            bench.store.apply("slices", a_slice(["10.0.0.1"]))
            await warming
            assert set(bench.watches.endpoints) == {"old", "new"}
            bench.watches.keep_only({"new"})
            assert set(bench.watches.endpoints) == {"new"}

    run(scenario())
