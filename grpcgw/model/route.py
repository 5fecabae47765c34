"""Routes: what they match, and the destinations of their RPCs with the settings of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from grpcgw.model.balancing import DEFAULT_BALANCING, Balancing
from grpcgw.model.edits import NO_EDITS, HeaderEdits, RegexRewrite
from grpcgw.model.host_policy import Selectors
from grpcgw.model.match import HeaderMatch, HostMatch, PathMatch
from grpcgw.model.objects import ObjectKey
from grpcgw.model.resilience import CircuitBreaker, Priority, RetryPolicy


@dataclass(frozen=True, slots=True)
class WeightedCluster:
    """A cluster of a Destination, by name."""

    cluster: str
    weight: int = 1
    """Relative to the other clusters of the Destination; 0: it gets no RPCs."""


@dataclass(frozen=True, slots=True)
class Destination:
    """A destination of a Route's RPCs: its clusters, its share of the traffic, and the settings of its Mapping."""

    key: ObjectKey
    """The object that configures it. Counters, breakers, retry budgets and shadow copies belong to it."""
    clusters: tuple[WeightedCluster, ...]
    """RPCs are split over them in exact turns; if all weights are 0, they are refused. A Mapping has one."""
    weight: int = 100
    """Relative to the other destinations and `Route.unrouted_weight`. Of a shadow: percent of RPCs that are copied."""
    balancing: Balancing = DEFAULT_BALANCING
    """The same for each cluster."""
    rewrite: str | None = None
    """Replaces the matched prefix; None leaves the path alone (prefix and exact matches only)."""
    timeout_ms: int | None = None
    """Limit for the whole RPC; None: only the client's deadline limits it."""
    idle_timeout_ms: int | None = 300_000
    """Ends an RPC after this time without bytes in either direction; None: never."""
    regex_rewrite: RegexRewrite | None = None
    """Takes precedence over `rewrite`."""
    max_message_bytes: int | None = None
    """Limit for a message in either direction, uncompressed; None: only the port's limit holds."""
    authority: str = ""
    """`:authority` towards the pod (`host_rewrite`, `auto_host_rewrite`); empty: the client's."""
    request_headers: HeaderEdits = NO_EDITS
    response_headers: HeaderEdits = NO_EDITS
    retry: RetryPolicy | None = None
    priority: Priority = Priority.DEFAULT
    circuit_breakers: tuple[CircuitBreaker, ...] = ()
    stats_name: str = ""
    """Name of the upstream in metrics; empty: its cluster's name."""
    selected_by: Selectors = ()
    """The selectors of all HostPolicies that select the Mapping."""
    policies: tuple[PolicySettings, ...] = ()
    """Settings of its policies; `policy.catalogue` has their order."""
    access_log_percent: float | None = None
    """Share of its RPCs in the access log; None: the gateway's own (`--access-log-sample`)."""
    where: str = field(default="", compare=False, repr=False)
    """`file:line` or origin of the Mapping, for the operator."""

    @property
    def label(self) -> str:
        """`key` as metrics, logs and JSON show it; also unique."""
        return self.key.label


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """Settings of one policy of a Destination; each kind of policy has a subclass with its own fields."""

    kind: ClassVar[str] = ""
    """Names the policy in `policy.catalogue`."""
    name: str
    """The object that configures it, for the operator: `AuthService auth.default`."""
    upstreams: tuple[Destination, ...] = ()
    """Destinations of the policy's own RPCs, each with one cluster; empty: it makes none."""

    @property
    def owned_keys(self) -> tuple[str, ...]:
        """Metadata keys that only the policy sets: pods trust them, so a client's own are removed."""
        return ()

    @property
    def credential_keys(self) -> tuple[str, ...]:
        """Metadata keys that tell the policy who calls."""
        return ()

    @property
    def reads_certificate(self) -> bool:
        """Whether the policy looks at the client's certificate (`Request.certificate`)."""
        return False


NOT_SUPPORTED = "is not supported yet"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unenforced(PolicySettings):
    """Placeholder for an object that decides on RPCs and that no policy can enforce: all RPCs are refused."""

    kind: ClassVar[str] = "unenforced"
    why: str = NOT_SUPPORTED
    """For the client and the operator, after the name."""


@dataclass(frozen=True, slots=True)
class Route:
    """A match and the destinations of the RPCs that match: one group of Mappings. Snapshot.routes has the evaluation
    order."""

    name: str
    """Unique in the snapshot. Derived only from what the route matches: it stays the same over reloads and does not
    depend on the order of objects."""
    match: PathMatch
    precedence: int
    destinations: tuple[Destination, ...]
    """At least one, except for a `redirect` and a route that is `left_out`."""
    host: HostMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()
    """All must hold."""
    case_sensitive: bool = True
    shadow: Destination | None = None
    """Gets a copy of RPCs (`weight` percent of them); its answers are dropped."""
    sticky_header: str = ""
    """Metadata key whose hash decides the destination, so that a caller stays with one; empty: destinations take
    turns."""
    unrouted_weight: int = 0
    """Share of RPCs that no destination takes: they are refused. Weights of Mappings are percent, so it is the rest to
    100.
    """
    redirect: str = ""
    """The Mapping that answers with an HTTP redirect, which no gRPC client follows: its RPCs end with UNIMPLEMENTED."""
    left_out: str = ""
    """Why the route cannot be served as it is configured: its RPCs end with UNAVAILABLE. It stays in the snapshot so
    that no broader route, which other policies may guard, serves them."""

    def all_destinations(self) -> tuple[Destination, ...]:
        """The destinations and the shadow."""
        return self.destinations if self.shadow is None else (*self.destinations, self.shadow)

    def percent_of(self, destination: Destination, cluster: WeightedCluster) -> float:
        """Share of the route's RPCs that go to `cluster` of `destination`, for display. A whole number is an int.

        Of the shadow: the share that is copied to it.
        """
        is_shadow = destination is self.shadow
        routed = 100 if is_shadow else sum(one.weight for one in self.destinations) + self.unrouted_weight
        parts = sum(one.weight for one in destination.clusters)
        percent = 100 * destination.weight * cluster.weight / (routed * parts) if routed and parts else 0
        return int(percent) if percent == int(percent) else round(percent, 2)

    def policy_upstreams(self) -> tuple[Destination, ...]:
        """Destinations of the policies' own RPCs."""
        policies = [each.policies for each in self.destinations if each.policies]  # most have none
        return tuple([upstream for settings in policies for one in settings for upstream in one.upstreams])
