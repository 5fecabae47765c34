"""Settings of a Mapping as values: how it matches, balances, rewrites, protects and connects. Immutable, no behaviour.

All defaults mean "not configured". Names and meanings follow Ambassador's fields; `grpcgw.policy`, `balancer` and
`upstream` give them effect.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from grpcgw.model.environment import Filled, hide


class HostKind(StrEnum):
    EXACT = "exact"
    SUFFIX = "suffix"
    """`*.example.com`: `value` is `.example.com`."""
    PREFIX = "prefix"
    """`example.*`: `value` is `example.`."""
    REGEX = "regex"
    """RE2 over the whole name, whatever its case."""


@dataclass(frozen=True, slots=True)
class HostMatch:
    """On `:authority` in lower case: holds where it does with the port or without. `*` is no HostMatch at all.

    A name without a port (`greet.example.com`) so matches any port, one with (`greet.example.com:8443`) just that one.
    A glob's `*` stands for at least one character.
    """

    kind: HostKind
    value: str
    """Lower case, except a regex."""

    def __str__(self) -> str:
        """As it was written."""
        return {HostKind.SUFFIX: "*" + self.value, HostKind.PREFIX: self.value + "*"}.get(self.kind, self.value)


@dataclass(frozen=True, slots=True)
class HeaderMatch:
    """One condition on a request's metadata. Neither `exact` nor `regex`: the key must be present.

    Several values of one key are joined by "," before they are compared; those of a `-bin` key are compared in base64
    without padding, as they travel. See CONSTANT_HEADERS for the keys that are not in metadata.
    """

    name: str
    """Lower case."""
    exact: str | None = None
    regex: str | None = None
    """RE2 over the whole value."""


CONSTANT_HEADERS = {":method": "POST", "content-type": "application/grpc", "te": "trailers"}
"""What every gRPC call carries and grpc core keeps to itself: conditions on them hold for all calls or for none."""


@dataclass(frozen=True, slots=True)
class RegexRewrite:
    pattern: str
    """RE2; every match in the path is replaced."""
    substitution: str
    """With `\\1` for groups."""


@dataclass(frozen=True, slots=True)
class HeaderAdd:
    name: str
    value: str
    """May hold Envoy's `%…%` operators, checked by the compiler."""
    append: bool = True
    """False replaces what is there."""


@dataclass(frozen=True, slots=True)
class HeaderEdits:
    """Removals happen first, then additions, as Envoy does."""

    add: tuple[HeaderAdd, ...] = ()
    remove: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadBalancer:
    """Policy name of the balancer catalogue with its parameters; ring_hash and maglev hash exactly one thing.

    Policies: round_robin, least_request, ring_hash, maglev, and weighted_round_robin (not in Ambassador), which weighs
    pods by the load they report with ORCA.
    """

    policy: str = "round_robin"
    header: str = ""
    """Metadata key whose value is hashed; an RPC without it goes to any pod."""
    source_ip: bool = False
    slow_start_ms: int = 0
    """A pod that joined gets its full share only after so long; 0: at once. (Not in Ambassador.)"""
    prefer_same_zone: bool = False
    """Follow EndpointSlice zone hints. (Not in Ambassador.)"""


class Priority(StrEnum):
    DEFAULT = "default"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class CircuitBreaker:
    """Limits of one priority class; None: no limit (there is no hidden default of 1024)."""

    priority: Priority = Priority.DEFAULT
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When an RPC is tried again, before anything of a response was passed on.

    An attempt that provably never reached a pod is worth another try under every policy.
    """

    codes: frozenset[int]
    """gRPC status codes worth another try; may be empty."""
    num_retries: int = 1
    per_try_timeout_ms: int | None = None
    budget_percent: int = 20
    """Retries never exceed this share of the RPCs in flight (and three at the least), as Envoy's retry budget."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """Active check of each pod by `grpc.health.v1.Health/Check`."""

    service: str = ""
    """`upstream_name`: the service name asked for."""
    authority: str = ""
    timeout_ms: int = 3_000
    interval_ms: int = 5_000
    unhealthy_threshold: int = 2
    healthy_threshold: int = 1


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Passive: a pod that fails too often is left out for a while. Names and defaults are Envoy's (and gRFC A50's)."""

    consecutive_failures: int | None = 5
    interval_ms: int = 10_000
    base_ejection_ms: int = 30_000
    max_ejection_ms: int = 300_000
    max_ejection_percent: int = 10
    success_rate_stdev_factor: int | None = None
    """In thousandths, Envoy's 1900; None: success rates are not compared."""
    success_rate_minimum_pods: int = 5
    success_rate_request_volume: int = 100


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
    """`:authority` of the calls, where it is another name; empty: the server name. A connection takes no third."""
    not_after_s: float = 0.0
    """When `certificate_chain` expires, in seconds since the epoch; 0.0: there is none."""


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """What makes a connection to a pod another connection; clusters differ where these do."""

    tls: UpstreamTls | None = None
    connect_timeout_ms: int = 3_000
    idle_timeout_ms: int | None = None
    """`cluster_idle_timeout_ms`: close a connection without RPCs."""
    max_lifetime_ms: int | None = None
    """`cluster_max_connection_lifetime_ms`: drain and close at this age."""
    keepalive_time_s: int | None = None
    """HTTP/2 PING when nothing was heard for so long; None: no pings."""
    keepalive_timeout_s: int | None = None


@dataclass(frozen=True, slots=True)
class Addressing:
    """Which addresses of a cluster are used, and how its name is resolved where that is done by DNS."""

    ipv4: bool = True
    ipv6: bool = True
    logical_dns: bool = False
    """`dns_type: logical_dns`: one address at a time, the first of each answer; False: all of them."""
    respect_dns_ttl: bool = False


Labels = tuple[tuple[str, str], ...]
"""Names and values, in order."""
Selectors = tuple[Labels, ...]


@dataclass(frozen=True, slots=True)
class HostPolicy:
    """What a Host says of calls to its name, in evaluation order: the first whose `host` matches decides."""

    host: HostMatch | None
    """None: every name."""
    clear_text: bool = True
    """Whether calls that came in clear text are served (`requestPolicy.insecure.action`)."""
    left_out: str = ""
    """What is left out for its errors and would have said who may call: no call is served; empty: nothing is."""
    selectors: Selectors = ()
    """A Mapping serves calls only with all labels of one of these; none: any Mapping does."""


class Underscores(StrEnum):
    """What becomes of a request with a metadata key that has an underscore."""

    ALLOW = "ALLOW"
    REJECT_REQUEST = "REJECT_REQUEST"
    DROP_HEADER = "DROP_HEADER"


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Matches the clients of one network."""

    network: str
    """`10.0.0.0/8`, `2001:db8::/32`."""
    of_peer: bool = False
    """By the address of the connection (`peer`), whoever the client behind it is (`remote`)."""


class CertificateForwarding(StrEnum):
    """What becomes of `x-forwarded-client-cert`; all but the first and the last only of who has shown a certificate."""

    SANITIZE = "sanitize"
    """No pod gets it."""
    FORWARD_ONLY = "forward_only"
    """As the client sent it."""
    APPEND_FORWARD = "append_forward"
    """As the client sent it, and the client's own certificate after it."""
    SANITIZE_SET = "sanitize_set"
    """The client's own certificate alone."""
    ALWAYS_FORWARD_ONLY = "always_forward_only"
    """As anybody sent it."""


class CertificateDetail(StrEnum):
    """What it tells of a certificate beside its hash."""

    CERT = "cert"
    CHAIN = "chain"
    SUBJECT = "subject"
    URI = "uri"
    DNS = "dns"


@dataclass(frozen=True, slots=True)
class ClientRules:
    """What the Module says of clients and their requests, whatever the Mapping."""

    use_remote_address: bool = True
    """The client is who opened the connection, and is appended to `x-forwarded-for`; False: the last in that list."""
    trusted_hops: int = 0
    """`xff_num_trusted_hops`: so many proxies before the gateway are believed what they say of the client."""
    preserve_request_id: bool = False
    """An external client's `x-request-id` is kept; False: replaced."""
    underscores: Underscores = Underscores.ALLOW
    allow: tuple[AddressRule, ...] | None = None
    """Only clients that one of these matches are served; None: all."""
    deny: tuple[AddressRule, ...] = ()
    """Clients that one of these matches are not served."""
    max_metadata_bytes: int | None = None
    """What a request's metadata may be, counted as HTTP/2 does; None: the gateway's own limit."""
    certificates: CertificateForwarding = CertificateForwarding.SANITIZE
    certificate_details: tuple[CertificateDetail, ...] = ()


@dataclass(frozen=True, slots=True, order=True)
class ConsulAgent:
    """Where a ConsulResolver asks; the name of the service is the cluster's."""

    address: str
    """`host:port` with environment variables filled in; the port is 8500 unless given."""
    datacenter: str
    filled: tuple[Filled, ...] = field(default=(), repr=False, compare=False)
    """What of the address came from the environment, and is not to be shown."""

    def hide(self, message: str) -> str:
        """`message` without what the environment holds."""
        return hide(message, self.filled)


NO_EDITS = HeaderEdits()
ROUND_ROBIN = LoadBalancer()
DEFAULT_CONNECTION = ConnectionSettings()
DEFAULT_ADDRESSING = Addressing()
DEFAULT_CLIENT_RULES = ClientRules()
