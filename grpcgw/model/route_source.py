"""RouteSource: the contract of a dialect. Objects in; routes, clusters, listeners, settings and problems out.

A dialect is pure: no I/O, no clock, nothing remembered between compilations. `model.compilation` runs all dialects and
merges their results into one Snapshot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from grpcgw.model.clients import DEFAULT_CLIENT_RULES, ClientRules
from grpcgw.model.cluster import Cluster
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import DEFAULT_CLIENT_IDLE_TIMEOUT_MS, Listener, ServerCertificate
from grpcgw.model.log_format import LogFormat
from grpcgw.model.objects import FieldPath, KubeObject, ObjectKey, Problem
from grpcgw.model.rate_limits import DomainLimits
from grpcgw.model.route import PolicySettings, Route
from grpcgw.model.route_order import RouteRank
from grpcgw.model.snapshot import Snapshot

ObjectsByKey = Mapping[ObjectKey, KubeObject]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """Inputs of a compilation besides the objects."""

    gateway_id: str = "default"
    """`--ambassador-id`: only objects for this id are configuration."""
    gateway_namespace: str = "default"
    """Namespace of the gateway itself."""
    now: datetime | None = None
    """Aware time, to find expired certificates; None: expired certificates are not looked for."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The gateway's own. Objects of a cluster may use almost none of it; texts of files are already substituted."""
    authority_hidden_by: str = ""
    """The engine, if it does not know the client's `:authority`: routes and Hosts for certain names then match no RPC.
    """
    first_bytes_hidden_by: str = ""
    """The engine, if it does not read the first bytes of connections: a port then takes TLS or clear text, not both,
    and no PROXY headers."""
    serve_without_auth: bool = False
    """Serve what AuthServices, FilterPolicies and RateLimits protect without asking them; else it is refused."""
    zone_unknown: bool = False
    """The gateway does not know its zone, so it cannot prefer pods of it."""
    policies: tuple[PolicySettings, ...] = ()
    """`Snapshot.policies`. Dialects do not look at them."""


class Reuse:
    """State that a dialect reuses from its last compilation, for speed. Opaque: each dialect has its own subclass."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RouteCandidate:
    """A route with values that are computed once and kept while the route does not change."""

    route: Route
    rank: RouteRank
    digest: bytes
    """Of the route (`model.content_hash`)."""


@dataclass(frozen=True, slots=True)
class ClusterCandidate:
    cluster: Cluster
    digest: bytes


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Settings of the whole gateway, as in Snapshot. At most one dialect has them."""

    certificates: tuple[ServerCertificate, ...] = ()
    hosts: tuple[HostPolicy, ...] = ()
    access_log: LogFormat | None = None
    clients: ClientRules = DEFAULT_CLIENT_RULES
    client_idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    rate_limits: tuple[DomainLimits, ...] = ()


@dataclass(frozen=True, slots=True)
class RouteSourceResult:
    """The result of one dialect for all objects."""

    routes: tuple[RouteCandidate, ...] = ()
    clusters: tuple[ClusterCandidate, ...] = ()
    """Every cluster that a route names, and no two of one name."""
    listeners: tuple[Listener, ...] | None = None
    """None: the dialect has no Listeners, good or bad."""
    settings: GatewaySettings | None = None
    problems: tuple[Problem, ...] = ()
    last_good: ObjectsByKey = field(default_factory=dict)
    """The version of each object that serves, or served last."""
    reuse: Reuse | None = None


class RouteSource(Protocol):
    """One dialect."""

    @property
    def name(self) -> str:
        """Key of its Reuse."""
        ...

    @property
    def route_kinds(self) -> frozenset[str]:
        """Kinds whose objects only add routes: leaving one out that makes `compile` raise admits no further client."""
        ...

    @property
    def host_path(self) -> FieldPath:
        """Where an object of `route_kinds` names its hosts, for problems about them."""
        ...

    def compile(
        self, objects: ObjectsByKey, last_good: ObjectsByKey, options: CompileOptions, reuse: Reuse | None
    ) -> RouteSourceResult:
        """The result does not depend on the order of `objects`, and never on `reuse`.

        `objects` holds objects of every kind and dialect; those of others are ignored. Never raises for the content of
        an object: a bad one is a problem, and leaves out only itself.
        """
        ...


@dataclass(frozen=True, slots=True)
class Compiled:
    """The result of one compilation with all dialects."""

    snapshot: Snapshot
    problems: tuple[Problem, ...]
    last_good: ObjectsByKey
    """For the next compilation: the version of each object that serves, or served last."""
    reuse: Mapping[str, Reuse] = field(default_factory=dict, repr=False, compare=False)
    """For the next compilation, by dialect."""


NOTHING_TO_REUSE: Mapping[str, Reuse] = {}
