"""The compiled configuration: what is decided, for any data plane (embedded now, Envoy and proxyless clients later).

Everything here is immutable, comparable, and picklable: it is sent whole to the workers. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.log_format import LogFormat
from grpcgw.model.objects import ObjectKey
from grpcgw.model.policies import (
    DEFAULT_ADDRESSING,
    DEFAULT_CLIENT_RULES,
    DEFAULT_CONNECTION,
    NO_EDITS,
    ROUND_ROBIN,
    Addressing,
    CircuitBreaker,
    ClientRules,
    ConnectionSettings,
    ConsulAgent,
    HeaderEdits,
    HeaderMatch,
    HealthCheck,
    HostMatch,
    HostPolicy,
    LoadBalancer,
    OutlierDetection,
    Priority,
    RegexRewrite,
    RetryPolicy,
    Selectors,
)


class ResolverKind(StrEnum):
    """How a cluster's pods are found; each names one resolver in `grpcgw.discovery`."""

    KUBERNETES_ENDPOINT = "KubernetesEndpointResolver"
    KUBERNETES_SERVICE = "KubernetesServiceResolver"
    CONSUL = "ConsulResolver"


@dataclass(frozen=True, slots=True, order=True)
class ServiceRef:
    """`[scheme://]name[.namespace][:port]` of a Mapping, resolved. The port is the Service port, not the pod's."""

    name: str
    namespace: str
    port: int
    hostname: str = ""
    """The host as written, for DNS resolution (`grpcserver.grpcserver`, `10.0.0.1`, `api.example.com`).

    A name written without a namespace has the namespace here too. Of an IP address it is the whole, as is `name`;
    `namespace` is then empty. IPv6 stands without brackets.
    """

    def __str__(self) -> str:
        host = self.hostname or (f"{self.name}.{self.namespace}" if self.namespace else self.name)
        shown = f"[{host}]" if ":" in host else host
        return f"{shown}:{self.port}" if self.port else shown  # Consul knows the port of each instance


@dataclass(frozen=True, slots=True)
class Cluster:
    """A set of pods: one service through one resolver. Mappings share clusters (pods, channels), never settings."""

    name: str
    """Unique and stable over reloads: the key of balancers, channels and counters."""
    resolver: ResolverKind
    resolver_name: str
    """Name of the resolver object that the first Mapping of the cluster asked for."""
    service: ServiceRef
    connection: ConnectionSettings = DEFAULT_CONNECTION
    consul: ConsulAgent | None = None
    """Set where `resolver` is CONSUL, whose service has the name alone: no namespace, and a port that says nothing."""
    addressing: Addressing = DEFAULT_ADDRESSING


class MatchKind(StrEnum):
    PREFIX = "prefix"
    EXACT = "exact"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class PathMatch:
    kind: MatchKind
    value: str
    """The prefix, the whole path, or an RE2 pattern that must match the whole path."""


@dataclass(frozen=True, slots=True)
class Destination:
    """What one Mapping of a group contributes: its share of the traffic and its own settings."""

    mapping: ObjectKey
    label: str
    """Mapping as metrics and messages name it: `name.namespace`."""
    cluster: str
    weight_percent: int = 100
    load_balancer: LoadBalancer = ROUND_ROBIN
    rewrite: str | None = None
    """Replaces the matched prefix; None leaves the path alone (prefix and exact matches only)."""
    timeout_ms: int | None = None
    """Bound on the whole RPC; None: the client's deadline alone rules."""
    idle_timeout_ms: int | None = 300_000
    """Ends an RPC with no bytes in either direction for so long; None: never."""
    regex_rewrite: RegexRewrite | None = None
    """Wins over `rewrite`."""
    max_message_bytes: int | None = None
    """Of a message in either direction, uncompressed; None: the port's limit alone rules."""
    authority: str = ""
    """`:authority` towards the pod (`host_rewrite`, `auto_host_rewrite`); empty: the client's."""
    request_headers: HeaderEdits = NO_EDITS
    response_headers: HeaderEdits = NO_EDITS
    retry: RetryPolicy | None = None
    priority: Priority = Priority.DEFAULT
    circuit_breakers: tuple[CircuitBreaker, ...] = ()
    health_check: HealthCheck | None = None
    outlier_detection: OutlierDetection | None = None
    stats_name: str = ""
    """What metrics call the upstream instead of its cluster's name; empty: that name."""
    selected_by: Selectors = ()
    """Of the selectors of all HostPolicies, those that take the Mapping."""
    guarded_by: str = ""
    """What is to decide on its calls and cannot be asked yet, so that they are refused; empty: nothing."""
    access_log_percent: float | None = None
    """Share of its RPCs in the access log; None: the gateway's own (`--access-log-sample`)."""
    where: str = field(default="", compare=False, repr=False)
    """`file:line` or origin of the Mapping, for the operator."""


@dataclass(frozen=True, slots=True)
class Route:
    """A group of Mappings that match alike, with its place in the evaluation order decided by the compiler."""

    match: PathMatch
    precedence: int
    destinations: tuple[Destination, ...]
    """At least one, but for a `redirect`; weights add up to at most 100."""
    host: HostMatch | None = None
    headers: tuple[HeaderMatch, ...] = ()
    """All must hold."""
    case_sensitive: bool = True
    shadow: Destination | None = None
    """Gets a copy of RPCs (`weight_percent` of them); its answers are dropped."""
    sticky_header: str = ""
    """Metadata key whose hash decides the destination, so that a caller stays with one; empty: turns."""
    redirect: str = ""
    """The Mapping that answers with an HTTP redirect, which no gRPC client follows: its RPCs go nowhere."""

    def all_destinations(self) -> tuple[Destination, ...]:
        """Those that serve, and the shadow."""
        return self.destinations if self.shadow is None else (*self.destinations, self.shadow)


DEFAULT_CLIENT_IDLE_TIMEOUT_MS = 3_600_000
"""As Envoy's of client connections."""


@dataclass(frozen=True, slots=True)
class ServerCertificate:
    """A certificate for the TLS port, as PEM. The key is never shown, logged or hashed in the clear."""

    name: str
    """The TLSContext or Host it was configured by, for the operator."""
    hosts: tuple[str, ...]
    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    client_ca: bytes = b""
    """PEM. Clients must show a certificate of one of these authorities; empty: none is asked for.

    grpc core asks on a whole port or not at all, so all certificates of one port agree in it.
    """
    not_after_s: float = 0.0
    """When it expires, in seconds since the epoch; 0.0: unknown."""


class Transport(StrEnum):
    CLEAR = "clear text"
    TLS = "TLS"


class SecurityModel(StrEnum):
    """What a call over a Listener counts as (`securityModel`); HostPolicy.clear_text speaks of those not secure."""

    XFP = "XFP"
    """Secure if it came over TLS; by proxies that are believed, if its `x-forwarded-proto` is https."""
    SECURE = "SECURE"
    INSECURE = "INSECURE"


@dataclass(frozen=True, slots=True)
class Listener:
    """A port of the gateway, as a Listener object asks for it."""

    name: str
    """The Listener, for the operator."""
    port: int
    transport: Transport
    security_model: SecurityModel
    max_concurrent_streams: int | None = None
    """Per connection; None: grpc core's default."""
    max_message_bytes: int | None = None
    """Of a client's message, uncompressed; None: `--max-message-bytes`."""
    idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    """Closes a client's connection without RPCs; None: never. As the snapshot's, once the ports are settled."""
    hosts: tuple[HostPolicy, ...] = ()
    """The Hosts bound to it, as in Snapshot.hosts. Where there are any, calls to other names are not served."""
    certificates: tuple[ServerCertificate, ...] = ()
    """For TLS: those of its Hosts, and of the TLSContexts."""
    trusted_hops: int = 0
    """So many proxies before this port are believed what they say of the client; 0: as many as `ClientRules` says."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One whole configuration, taken once per RPC and swapped by one reference assignment."""

    version: str
    """Content hash (12 hex digits): equal configuration, equal version, on every worker, page and log line."""
    routes: tuple[Route, ...] = ()
    """In evaluation order: the first match wins."""
    clusters: Mapping[str, Cluster] = field(default_factory=dict)
    certificates: tuple[ServerCertificate, ...] = ()
    """Empty: the TLS port serves a self-signed certificate."""
    listeners: tuple[Listener, ...] | None = None
    """In the order of their ports. None: there are no Listeners, and the ports of the command line are served."""
    hosts: tuple[HostPolicy, ...] = ()
    """Of all Hosts, in evaluation order; a name that none matches is served in clear text too."""
    access_log: LogFormat | None = None
    """What the Module asks for; None: grpcgw's own lines, of the type of `--access-log`."""
    clients: ClientRules = DEFAULT_CLIENT_RULES
    client_idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    """Closes a client's connection without RPCs, on every port; None: never."""


EMPTY_SNAPSHOT = Snapshot(version="none")
