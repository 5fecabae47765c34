"""The resolvers by kind. A new resolver is one file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from grpcgw.discovery.resolvers.dns import DnsResolver
from grpcgw.discovery.resolvers.kubernetes_endpoints import EndpointsResolver
from grpcgw.discovery.resolvers.resolver import Resolver
from grpcgw.discovery.store import ObjectStore
from grpcgw.model.cluster import ResolverKind


def _make_consul(_: ObjectStore) -> Resolver:
    from grpcgw.discovery.resolvers.consul import ConsulResolver  # aiohttp: a seventh of the start-up, for few users

    return ConsulResolver()


RESOLVERS: Mapping[ResolverKind, Callable[[ObjectStore], Resolver]] = {
    ResolverKind.KUBERNETES_ENDPOINT: EndpointsResolver,
    ResolverKind.KUBERNETES_SERVICE: lambda _: DnsResolver(),
    ResolverKind.CONSUL: _make_consul,
}
"""Resolver kind → makes the resolver; one instance serves all clusters of its kind."""
