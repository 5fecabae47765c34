"""The resolvers by kind. A new resolver is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grpcgw.discovery.resolvers.consul import ConsulResolver
from grpcgw.discovery.resolvers.dns import DnsResolver
from grpcgw.discovery.resolvers.kubernetes_endpoints import EndpointsResolver
from grpcgw.discovery.resolvers.resolver import Resolver
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import ResolverKind

RESOLVERS: Mapping[ResolverKind, Callable[[ObjectStore], Resolver]] = {
    ResolverKind.KUBERNETES_ENDPOINT: EndpointsResolver,
    ResolverKind.KUBERNETES_SERVICE: lambda _: DnsResolver(),
    ResolverKind.CONSUL: lambda _: ConsulResolver(),
}
"""Resolver kind → makes the resolver; one instance serves all clusters of its kind."""
