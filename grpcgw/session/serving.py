"""What this worker serves now: the routing snapshot, the clusters and the counters, as engines and sessions read them.

Two things are hot-swapped, each by one reference assignment: the routing snapshot here (any configuration change) and
the picker of a load-balancing state (`upstream`: pods came, went, or changed their state). RPCs only read references.
No I/O; the time is an argument.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from grpcgw.listeners.open_ports import SOME_PORT, PortView
from grpcgw.model.clients import ClientRules
from grpcgw.model.endpoints import EndpointSet
from grpcgw.model.host_policy import Selectors
from grpcgw.model.listener import Listener
from grpcgw.model.metadata import Metadata
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.status import Reason
from grpcgw.policy.catalogue import CATALOGUE, Catalogue
from grpcgw.policy.client_rules import Reception, make_reception
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.policy.limits.limit_counting import LimitDomains
from grpcgw.policy.services import PolicyServices
from grpcgw.policy.verdicts import Deny
from grpcgw.routing.binding import MatchTables, RouteBinder
from grpcgw.routing.host_rules import Entry
from grpcgw.routing.routing_snapshot import NO_ROUTES, RoutingSnapshot
from grpcgw.routing.targets import Target, explain_nowhere
from grpcgw.session.policy_http import NO_HTTP, HttpTransport
from grpcgw.session.shadow_copy import Copies
from grpcgw.settings import DEFAULT_MAX_MESSAGE_BYTES, DEFAULT_MAX_METADATA_BYTES
from grpcgw.telemetry.access_log import RpcRecord
from grpcgw.telemetry.counters import Counters
from grpcgw.telemetry.report import ShadowReport
from grpcgw.upstream.cluster_set import ClusterSet, Connect
from grpcgw.upstream.descriptors import DescriptorIndex
from grpcgw.upstream.pod import Pod


@dataclass(frozen=True, slots=True)
class RpcLog:
    """The access log of RPCs that ended, and the share of them to log where their Mapping does not set it."""

    put: Callable[[RpcRecord], None]
    share_percent: float


class Serving:
    """Joins the routing snapshot in force with clusters and counters. One per worker."""

    def __init__(
        self,
        connect: Connect,
        first_turn: int = 0,
        drain_time_s: float = 30.0,
        max_metadata_bytes: int = DEFAULT_MAX_METADATA_BYTES,
        catalogue: Catalogue = CATALOGUE,
    ) -> None:
        """`first_turn`, `drain_time_s`: see ClusterSet. `max_metadata_bytes`: of a request, counted as
        `admission.is_too_large` does. `catalogue`: of the policies that Mappings may have."""
        self.max_metadata_bytes = self._largest_metadata_bytes = max_metadata_bytes
        self.held = HeldMessages(DEFAULT_MAX_MESSAGE_BYTES)
        """Replaced by engines before the first RPC, where other sizes are allowed."""
        self.http: HttpTransport = NO_HTTP
        """For policies. Replaced by engines before the first RPC."""
        self.reception: Reception | None = None
        """The client rules of the Module; None: there are none."""
        self.counters = Counters()
        self.clusters = ClusterSet(connect, first_turn, drain_time_s, self.counters.count_ejection)
        self.copies = Copies()
        self.draining = False
        self.rpc_log: RpcLog | None = None
        """Set before the first snapshot; None: nothing is logged."""
        self.reflection: DescriptorIndex | None = None
        """Descriptors of the pods' services; None: the gateway has no reflection service."""
        self.limit_domains = LimitDomains()
        """Of the gateway's own rate limit service."""
        self._routing = NO_ROUTES
        self._reads_certificates = False
        """Whether some policy looks at clients' certificates."""
        self.policy_services = PolicyServices()
        self._binder = RouteBinder(self.clusters, self.counters.count_in_flight, self.policy_services, catalogue)
        self._applying = threading.Lock()

    @property
    def snapshot(self) -> Snapshot:
        return self._routing.snapshot

    # --- for every RPC

    def route(
        self, path: str, authority: str = "", metadata: Metadata = (), port: PortView = SOME_PORT
    ) -> Target | Deny:
        """The targets of an RPC, or its refusal."""
        routing = self._routing
        if self.draining or port.closing or routing.rules is not None:
            admitted = self._admit(routing, authority, metadata, port)
            if isinstance(admitted, Deny):
                return admitted
            found = routing.find(path, authority, metadata, admitted)
        else:
            found = routing.find(path, authority, metadata)
        if found is None:
            return Deny(Reason.NO_MAPPING, f"no Mapping matches {path}")
        target = found.choose(metadata)
        return explain_nowhere(found, path) if target is None else target.refusal or target

    def wants_certificate(self, port: PortView) -> bool:
        """Whether an engine must pass on the certificate that the client of an RPC has shown."""
        return port.asks_clients and (self._reads_certificates or self.reception is not None)

    def refuses(self, authority: str, metadata: Metadata, port: PortView) -> bool:
        """Whether an RPC is refused whatever its path is."""
        return isinstance(self._admit(self._routing, authority, metadata, port), Deny)

    def _admit(self, routing: RoutingSnapshot, authority: str, metadata: Metadata, port: PortView) -> Deny | Selectors:
        """Why an RPC is refused whatever its path is, or which Mappings may serve it."""
        if self.draining:
            return Deny(Reason.DRAINING, "the gateway is shutting down")
        if port.closing:
            return Deny(Reason.DRAINING, "the gateway closes this port")
        if routing.rules is None:
            return ()
        return routing.rules.judge(Entry(port.listener, port.tls, authority, metadata))

    def has_route(self, path: str, authority: str = "", metadata: Metadata = ()) -> bool:
        """Whether some Mapping matches."""
        return self._routing.find(path, authority, metadata) is not None

    def clusters_of(self, path: str, authority: str, metadata: Metadata, port: PortView) -> frozenset[str]:
        """The clusters of all Mappings that match `path` and do not refuse all RPCs; empty: there is none."""
        routing = self._routing
        admitted = self._admit(routing, authority, metadata, port)
        found = None if isinstance(admitted, Deny) else routing.find(path, authority, metadata, admitted)
        return frozenset() if found is None else found.open_clusters()

    def can_serve(self, path: str, authority: str = "", metadata: Metadata = ()) -> bool | None:
        """Whether some Mapping has a pod for `path` that is connected or may yet be; None: no Mapping matches."""
        found = self._routing.find(path, authority, metadata)
        return None if found is None else found.can_serve()

    # --- when something changed

    def begin_drain(self, now_s: float) -> None:
        """Refuse every RPC from now on, and drop the copies of those that run."""
        self.draining = True
        self.copies.drain(now_s)

    def apply(self, snapshot: Snapshot, now_s: float) -> None:
        """Serve `snapshot` from the next RPC on. Clusters it keeps keep their pods, connections and counters.

        Raises CannotServe if a defect keeps it from being served; what was served before is served on.
        """
        tables = MatchTables(snapshot)
        with self._applying:
            changed = self.clusters.use(snapshot.clusters, now_s)
            self._binder.log_percent = None if self.rpc_log is None else self.rpc_log.share_percent
            routing, used = self._binder.bind(tables, self._routing, changed)
            self.clusters.fill(changed | used, now_s)
            self._receive_by(snapshot.clients, snapshot.listeners or ())
            self._reads_certificates = _reads_certificates(snapshot)
            self._routing = routing
            self.limit_domains = self.limit_domains.replace(snapshot.rate_limits)
            self.clusters.drop_others(snapshot.clusters, now_s)

    def _receive_by(self, rules: ClientRules, listeners: Sequence[Listener]) -> None:
        self.reception = make_reception(rules, listeners)
        largest = self._largest_metadata_bytes
        self.max_metadata_bytes = min(largest, rules.max_metadata_bytes or largest)

    def set_endpoints(self, cluster: str, endpoints: EndpointSet, now_s: float) -> None:
        """Use `endpoints` as the ready pods of `cluster` from the next RPC on. May come before the snapshot that names
        it.
        """
        self.clusters.set_endpoints(cluster, endpoints, now_s)

    def refresh(self, now_s: float, looks: bool = True) -> tuple[Pod, ...]:
        """Publish changed connection states (`looks`: see ClusterSet) and drop overdue copies; returns the pods whose
        connections to close."""
        over = self.clusters.refresh(now_s, looks)
        self.copies.sweep(now_s)
        return over

    def shadow_reports(self) -> tuple[ShadowReport, ...]:
        """Counters of the shadow Mappings."""
        return self._binder.shadow_reports()


def _reads_certificates(snapshot: Snapshot) -> bool:
    own = [one.policies for route in snapshot.routes for one in route.destinations if one.policies]
    policies = (snapshot.policies, *own)
    return any(settings.reads_certificate for several in policies for settings in several)
