"""The worker in the control process gets snapshots and endpoint sets in the order in which they were published."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from dataplane.waiting import PATIENCE_S
from session.gateway import cluster, destination, route, snapshot

from grpcgw.control.factories import make_carriers
from grpcgw.model.endpoints import Endpoint, EndpointSet, PodState
from grpcgw.model.snapshot import Snapshot
from grpcgw.settings import Settings
from tests.scenarios import run

POD = EndpointSet((Endpoint("127.0.0.1", 9),))


def serving(number: int, name: str) -> Snapshot:
    served = snapshot(route(destination(cluster=name)), version=str(number))
    return replace(served, clusters={name: replace(cluster(), name=name)})


def test_a_cluster_that_is_dropped_and_comes_back_at_once_keeps_the_pods_it_came_back_with() -> None:
    async def scenario() -> None:
        (carrier,) = make_carriers(Settings(address="127.0.0.1", port=0, tls_port=0, workers=0))
        running = asyncio.create_task(carrier.run(lambda: None, lambda _: None))
        for number, name in enumerate("aba", 1):
            carrier.set_endpoints(name, POD)
            await carrier.apply(serving(number, name))
        async with asyncio.timeout(PATIENCE_S):
            while carrier.report().version != "3":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        (worker,) = carrier.report().workers
        (state,) = [pod.state for pod in worker.pods if pod.cluster == "a"]
        assert state is not PodState.DRAINING
        await carrier.drain(0.0)
        running.cancel()
        await asyncio.wait((running,))
        carrier.close()

    run(scenario())
