"""Coalescing outbox: latest unsent snapshot and endpoints. A slow receiver costs no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grpcgw.model.difference import find_difference
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import Snapshot
from grpcgw.workers.messages import ApplySnapshot, SetEndpoints, encode
from grpcgw.workers.shared_turns import TurnKey

Listeners = tuple[Listener, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """A snapshot with the ports to open, and its message for workers that have `base`: encoded once for all of them."""

    base: Snapshot
    snapshot: Snapshot
    listeners: Listeners
    turns: Mapping[TurnKey, int]
    message: bytes


def make_update(base: Snapshot, snapshot: Snapshot, listeners: Listeners, turns: Mapping[TurnKey, int]) -> Update:
    """Takes some tenths of a second where thousands of Mappings changed."""
    message = encode(ApplySnapshot(find_difference(base, snapshot), listeners, turns))
    return Update(base, snapshot, listeners, turns, message)


class Outbox:
    """Of one receiver, or of all of them since the start."""

    def __init__(self) -> None:
        self._update: Update | None = None
        self._endpoints: dict[str, EndpointSet] = {}
        self._late: set[str] = set()
        """Clusters that lost their last pod after `_update` came, which may move their routes elsewhere."""

    def apply(self, update: Update) -> None:
        """Replaces an unsent snapshot, and drops endpoints of clusters that `update` no longer has."""
        self._update = update
        for name in self._endpoints.keys() - update.snapshot.clusters.keys():
            del self._endpoints[name]
        self._late &= self._endpoints.keys()

    def set_endpoints(self, cluster: str, endpoints: EndpointSet) -> None:
        """Replaces an unsent set of the cluster."""
        self._endpoints[cluster] = endpoints
        if endpoints.endpoints:
            self._late.discard(cluster)
        elif self._update is not None:
            self._late.add(cluster)

    def copy(self) -> Outbox:
        """An independent outbox with the same contents."""
        other = Outbox()
        other._update, other._endpoints = self._update, self._endpoints.copy()  # a new process has nothing to lose
        return other

    def take(self) -> tuple[list[bytes], Update | None, list[bytes]]:
        """Empties the outbox: the endpoints to send before the update, so that no route waits for its pods, the update,
        and the empty sets to send after it, so that no route loses its last pod before it moves."""
        before, after = list[bytes](), list[bytes]()
        for name, found in self._endpoints.items():
            (after if name in self._late else before).append(encode(SetEndpoints(name, found)))
        update, self._update, self._endpoints, self._late = self._update, None, {}, set()
        return before, update, after
