"""Watches the endpoints of every cluster in use, and publishes each new set. Warms new clusters, as Envoy does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Container, Iterable, Mapping

from grpcgw.control.empty_endpoints import GRACE_S, EmptySetDelay
from grpcgw.discovery.resolvers.resolver import Resolver
from grpcgw.discovery.resolvers.resolver_catalogue import RESOLVERS
from grpcgw.discovery.store import ObjectStore
from grpcgw.logs import DefectLog
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.endpoints import EndpointSet

log = logging.getLogger(__name__)

CHECK_S = 0.02
"""How often to check whether a delayed set is due, or a new cluster has pods, while there is one to wait for."""


class ClusterWatches:
    """One watch per cluster, and the endpoint set it last published."""

    def __init__(
        self, store: ObjectStore, publish: Callable[[str, EndpointSet], None], change_pending: Callable[[], bool]
    ) -> None:
        """`publish` gets a cluster's name and its newest set. `change_pending`: whether a configuration change is not
        yet with the carriers."""
        self._resolvers: dict[ResolverKind, Resolver] = {kind: make(store) for kind, make in RESOLVERS.items()}
        self._publish, self._change_pending = publish, change_pending
        self._delay = EmptySetDelay()
        self._defects = DefectLog(log)
        self._delayed = asyncio.Event()
        self._checked_s = 0.0
        """Clock of the delay: counts checks, so that a process with little processor time, which reads the watches of
        other kinds late as well, waits longer."""
        self._newest: Container[str] = ()
        """Clusters of the newest snapshot, which may not be published yet."""
        self._watches: dict[str, Callable[[], None]] = {}
        """By cluster: ends its watch."""
        self.endpoints: dict[str, EndpointSet] = {}
        """By cluster: the set last published; a cluster without an entry is not resolved yet."""

    async def run(self) -> None:
        """Run the resolvers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for kind, resolver in self._resolvers.items():
                tasks.create_task(resolver.run(), name=f"resolver {kind}")
            tasks.create_task(self._publish_delayed(), name="delayed endpoints")

    async def watch(self, clusters: Mapping[str, Cluster]) -> None:
        """Watch what is new in `clusters`, and warm it. Call it before their snapshot is published: most sets are known
        at once."""
        is_first, self._newest = not self._watches, clusters
        new = [name for name in clusters if name not in self._watches]
        for name in new:
            self._watches[name] = self._watch(clusters[name])
        if not is_first:
            await self._warm(new)

    async def _warm(self, clusters: Iterable[str]) -> None:
        """Wait until each cluster has a pod, for GRACE_S at most: a Mapping may be reported before the Service that it
        changes to, and DNS and Consul take a moment to answer."""
        for _ in range(round(GRACE_S / CHECK_S)):
            if all(name in self.endpoints and self.endpoints[name].endpoints for name in clusters):
                return
            await asyncio.sleep(CHECK_S)

    def _watch(self, cluster: Cluster) -> Callable[[], None]:
        publish = self._publisher(cluster.name)
        try:
            return self._resolvers[cluster.resolver].watch(cluster, publish)
        except Exception as error:  # a defect with one cluster must not keep the others from being watched
            self._defects.note("cannot watch the endpoints of cluster", cluster.name)
            publish(
                EndpointSet(
                    error=f"its endpoints cannot be watched, which is a defect of grpcgw: please report it ({error!r})"
                )
            )
            return _nothing

    def keep_only(self, used: Container[str]) -> None:
        """End the watches of all other clusters, after no carrier serves routes to them any more. Those of the newest
        snapshot stay."""
        for name in [name for name in self._watches if name not in used and name not in self._newest]:
            self._watches.pop(name)()
            self._delay.forget(name)
            self.endpoints.pop(name, None)

    def _publisher(self, cluster: str) -> Callable[[EndpointSet], None]:
        def publish(endpoints: EndpointSet) -> None:
            if self._delay.admit(cluster, endpoints, self._checked_s):
                self._publish_now(cluster, endpoints)
            else:
                self._delayed.set()

        return publish

    def _publish_now(self, cluster: str, endpoints: EndpointSet) -> None:
        self.endpoints[cluster] = endpoints
        with self._defects.contained("cannot publish the endpoints of cluster", cluster):
            self._publish(cluster, endpoints)

    async def _publish_delayed(self) -> None:
        while True:
            await self._delayed.wait()
            self._delayed.clear()
            while self._delay:
                await asyncio.sleep(CHECK_S)
                self._checked_s += CHECK_S
                for cluster, endpoints in self._delay.take_due(self._checked_s, self._change_pending()).items():
                    self._publish_now(cluster, endpoints)


def _nothing() -> None:
    """Ends a watch that could not start."""
