"""The snapshot: one whole compiled configuration, for any data plane (embedded now, Envoy and proxyless clients later).

A snapshot and all it holds is immutable, comparable, and picklable: it is sent whole to the workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grpcgw.model.clients import DEFAULT_CLIENT_RULES, ClientRules
from grpcgw.model.cluster import Cluster
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import DEFAULT_CLIENT_IDLE_TIMEOUT_MS, Listener, ServerCertificate
from grpcgw.model.log_format import LogFormat
from grpcgw.model.rate_limits import DomainLimits
from grpcgw.model.route import PolicySettings, Route


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
    """Of all Hosts, in evaluation order; calls to a name without a match are served, also in clear text."""
    access_log: LogFormat | None = None
    """Format of the Module; None: grpcgw's own lines, in the format of `--access-log`."""
    clients: ClientRules = DEFAULT_CLIENT_RULES
    policies: tuple[PolicySettings, ...] = ()
    """Of every Destination, beside its own (`--policy`); none of them has upstreams."""
    client_idle_timeout_ms: int | None = DEFAULT_CLIENT_IDLE_TIMEOUT_MS
    """Closes a client's connection after this time without RPCs, on every port; None: never."""
    rate_limits: tuple[DomainLimits, ...] = ()
    """Of the gateway's own rate limit service; each domain once."""


EMPTY_SNAPSHOT = Snapshot(version="none")
