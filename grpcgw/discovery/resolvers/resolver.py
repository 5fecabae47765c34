"""The contract of resolvers (service → pods). One resolver a file, see `resolver_catalogue`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from grpcgw.model.cluster import Cluster
from grpcgw.model.endpoints import EndpointSet

Publish = Callable[[EndpointSet], None]


class Resolver(Protocol):
    """Pushes whole endpoint sets. Owns its I/O; runs in the control process's event loop.

    An empty set is published, too, and so is a set with `error` when nothing better is known. A set equal to the last
    one of the same watch is not published again.
    """

    async def run(self) -> None:
        """Do the resolver's I/O until cancelled; afterwards no watch publishes. Watches may be added before `run`."""
        ...

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        """Publish the pods of `cluster` now (or as soon as they are known) and on every change.

        `publish` may be called before `watch` returns, never blocks and never raises. Returns what ends the watch;
        after that call `publish` is not called again.
        """
        ...
