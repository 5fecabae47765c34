"""Clusters: a service, the resolver of its pods, and the settings of connections to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.environment import Filled, hide
from grpcgw.model.tls_parameters import DEFAULT_PARAMETERS, TlsParameters


@dataclass(frozen=True, slots=True)
class UpstreamTls:
    """TLS to pods. PEM values; empty: not used."""

    name: str
    """The TLSContext, or `system` for the system's roots."""
    server_name: str = ""
    """SNI and the name the pod's certificate must carry; empty: the service's host name."""
    ca: bytes = b""
    certificate_chain: bytes = b""
    private_key: bytes = field(default=b"", repr=False)
    authority: str = ""
    """`:authority` of the calls if it differs from the server name; empty: the server name."""
    not_after_s: float = 0.0
    """When `certificate_chain` expires, in seconds since the epoch; 0.0: there is none."""
    crl: bytes = b""
    """Revocation lists of all of `ca`; empty: no certificate is revoked."""
    parameters: TlsParameters = DEFAULT_PARAMETERS


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """Settings of connections to pods. Clusters with different settings have separate connections."""

    tls: UpstreamTls | None = None
    connect_timeout_ms: int = 3_000
    idle_timeout_ms: int | None = None
    """`cluster_idle_timeout_ms`: close a connection without RPCs."""
    max_lifetime_ms: int | None = None
    """`cluster_max_connection_lifetime_ms`: drain and close at this age."""
    keepalive_time_s: int | None = None
    """Send an HTTP/2 PING after this time without data; None: no pings."""
    keepalive_timeout_s: int | None = None
    on_demand: bool = False
    """Connect when the first RPC needs it, and not before. The worker sets it for large clusters, the compiler for
    HTTP services of policies: engines never connect to those."""


@dataclass(frozen=True, slots=True)
class Addressing:
    """Which addresses of a cluster are used, and how DNS resolves its name."""

    ipv4: bool = True
    ipv6: bool = True
    logical_dns: bool = False
    """`dns_type: logical_dns`: one address at a time, the first of each answer; False: all of them."""
    respect_dns_ttl: bool = False


@dataclass(frozen=True, slots=True, order=True)
class ConsulAgent:
    """The agent that a ConsulResolver queries, by the name of the cluster's service."""

    address: str
    """`host:port` with environment variables filled in; the port is 8500 unless given."""
    datacenter: str
    filled: tuple[Filled, ...] = field(default=(), repr=False, compare=False)
    """Parts of the address that came from the environment: never shown."""

    def hide(self, message: str) -> str:
        """`message` with values of the environment replaced by the names of their variables."""
        return hide(message, self.filled)


DEFAULT_CONNECTION = ConnectionSettings()
DEFAULT_ADDRESSING = Addressing()


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

    A name written without a namespace gets one here. For an IP address, `hostname` and `name` are the address and
    `namespace` is empty; IPv6 addresses have no brackets.
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
    """Name of the resolver object in the first Mapping of the cluster."""
    service: ServiceRef
    connection: ConnectionSettings = DEFAULT_CONNECTION
    consul: ConsulAgent | None = None
    """Set if `resolver` is CONSUL. Its service has only a name: no namespace, and its port has no meaning."""
    addressing: Addressing = DEFAULT_ADDRESSING
