"""Compiles the Cluster of a Mapping: its service, resolver and connection settings. Equal ones are shared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.mapping_settings import MergedMapping
from grpcgw.ambassador.compile.resolvers import ResolverChoice
from grpcgw.ambassador.compile.tls import find_tls_context
from grpcgw.ambassador.spec.mapping_parts import KeepaliveSpec
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.ambassador.spec.service import ParsedService, parse_service
from grpcgw.model.cluster import (
    DEFAULT_ADDRESSING,
    DEFAULT_CONNECTION,
    Addressing,
    Cluster,
    ConnectionSettings,
    ResolverKind,
    ServiceRef,
    UpstreamTls,
)
from grpcgw.model.objects import ObjectKey

SYSTEM_TLS = UpstreamTls("system")
_HASH_DIGITS = 6
_KEEPALIVE_TIME_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 7200, 75, 9
"""Linux's defaults for TCP."""

_ALL_ADDRESSES, _FIRST_ADDRESS = "strict_dns", "logical_dns"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Inputs of a cluster's compilation besides its Mapping."""

    resolvers: Mapping[str, ResolverChoice]
    tls_contexts: Mapping[ObjectKey, UpstreamTls | None]
    """None: it is left out."""
    gateway_namespace: str
    of_gateway: bool
    """A service without a namespace is in the gateway's, not the Mapping's."""


def compile_cluster(key: ObjectKey, mapping: MergedMapping, around: Surroundings, findings: Findings) -> Cluster | None:
    """None: an error is in `findings`."""
    spec = mapping.spec
    resolver = _find_resolver(spec.resolver, around, findings)
    namespace = around.gateway_namespace if around.of_gateway else key.namespace
    parsed = parse_service(spec.service, namespace, tls=bool(spec.tls))
    if parsed.path.strip("/"):
        findings.notice(f"{parsed.path!r} has no effect: a service has no path; see rewrite", "service")
    tls = _compile_tls(key, spec, parsed, around, findings)
    addressing = _compile_addressing(mapping, resolver, findings)
    if resolver is None:
        return None
    service = _resolve_service(resolver, parsed, findings)
    if service is None:
        return None
    connection = _compile_connection(spec, tls and _call_by(tls, choose_authority(spec, service)))
    name = _name_cluster(resolver, service, connection, addressing)
    return Cluster(
        name=f"{spec.cluster_tag}/{name}" if spec.cluster_tag else name,
        resolver=resolver.kind,
        resolver_name=resolver.name,
        service=service,
        connection=connection,
        consul=resolver.consul,
        addressing=addressing,
    )


def choose_authority(spec: MappingSpec, service: ServiceRef) -> str:
    """The Mapping's `:authority` towards its pods; empty: it sets none."""
    return spec.host_rewrite or (_spell(service) if spec.auto_host_rewrite else "")


def _spell(service: ServiceRef) -> str:
    """The host as in certificates and `:authority`: without the trailing dot, which only DNS uses."""
    return service.hostname.removesuffix(".")


def _call_by(tls: UpstreamTls, authority: str) -> UpstreamTls:
    return tls if authority in ("", tls.server_name) else replace(tls, authority=authority)


def _find_resolver(name: str | None, around: Surroundings, findings: Findings) -> ResolverChoice | None:
    wanted = name or "kubernetes-service"
    resolver = around.resolvers.get(wanted)
    if resolver is None:
        known = ", ".join(sorted(around.resolvers))
        findings.error(f"resolver {wanted} is unknown; declare it or use one of {known}", "resolver")
    return resolver


def _compile_tls(
    key: ObjectKey, spec: MappingSpec, parsed: ParsedService, around: Surroundings, findings: Findings
) -> UpstreamTls | None:
    if isinstance(spec.tls, str) and spec.tls:
        context = find_tls_context(around.tls_contexts, spec.tls, key.namespace)
        if context is None:
            findings.error(f"TLSContext {spec.tls} is unknown or left out", "tls")
            return None
        return replace(context, server_name=context.server_name or _spell(parsed.service))
    if not parsed.tls:
        return None
    return replace(SYSTEM_TLS, server_name=_spell(parsed.service))


def _compile_addressing(mapping: MergedMapping, resolver: ResolverChoice | None, findings: Findings) -> Addressing:
    spec = mapping.spec
    ipv4, ipv6 = spec.enable_ipv4 is not False, spec.enable_ipv6 is not False
    if not ipv4 and not ipv6:
        findings.error("neither IPv4 nor IPv6 is enabled; enable one", "enable_ipv6")
    if resolver is None or resolver.kind is ResolverKind.KUBERNETES_SERVICE:
        addressing = Addressing(ipv4, ipv6, _takes_first(spec, findings), bool(spec.respect_dns_ttl))
    else:
        if mapping.owns("dns_type") and spec.dns_type and spec.dns_type.lower() != _ALL_ADDRESSES:
            findings.notice(f"has no effect: resolver {resolver.name} does not use DNS", "dns_type")
        if mapping.owns("respect_dns_ttl") and spec.respect_dns_ttl:
            findings.notice(f"has no effect: resolver {resolver.name} does not use DNS", "respect_dns_ttl")
        addressing = Addressing(ipv4, ipv6)
    return DEFAULT_ADDRESSING if addressing == DEFAULT_ADDRESSING else addressing


def _takes_first(spec: MappingSpec, findings: Findings) -> bool:
    """As Ambassador reads `dns_type`: case-insensitive, and an unknown value means the default."""
    dns_type = spec.dns_type or _ALL_ADDRESSES
    if dns_type.lower() not in (_ALL_ADDRESSES, _FIRST_ADDRESS):
        known = f"neither {_ALL_ADDRESSES} nor {_FIRST_ADDRESS}"
        findings.notice(f"'{dns_type}' is {known}; {_ALL_ADDRESSES} is used, as by Ambassador", "dns_type")
    return dns_type.lower() == _FIRST_ADDRESS


def _compile_connection(spec: MappingSpec, tls: UpstreamTls | None) -> ConnectionSettings:
    keepalive_time_s, keepalive_timeout_s = _compile_keepalive(spec.keepalive)
    connection = ConnectionSettings(
        tls=tls,
        connect_timeout_ms=spec.connect_timeout_ms or DEFAULT_CONNECTION.connect_timeout_ms,
        idle_timeout_ms=spec.cluster_idle_timeout_ms or None,
        max_lifetime_ms=spec.cluster_max_connection_lifetime_ms or None,
        keepalive_time_s=keepalive_time_s,
        keepalive_timeout_s=keepalive_timeout_s,
    )
    return DEFAULT_CONNECTION if connection == DEFAULT_CONNECTION else connection


def _compile_keepalive(spec: KeepaliveSpec | None) -> tuple[int | None, int | None]:
    """Time and time-out in seconds of one HTTP/2 PING in place of TCP's probes: the connection is given up if the PING
    stays unanswered as long as all probes would."""
    if spec is None:
        return None, None
    time_s = spec.time or spec.idle_time or _KEEPALIVE_TIME_S
    return time_s, (spec.interval or _KEEPALIVE_INTERVAL_S) * (spec.probes or _KEEPALIVE_PROBES)


def _resolve_service(resolver: ResolverChoice, parsed: ParsedService, findings: Findings) -> ServiceRef | None:
    """The service as the resolver looks it up."""
    service = parsed.service
    match resolver.kind:
        case ResolverKind.KUBERNETES_SERVICE:
            return service
        case ResolverKind.KUBERNETES_ENDPOINT:
            return _find_in_kubernetes(resolver, parsed, findings)
        case ResolverKind.CONSUL:
            if parsed.qualified:
                findings.error(f"resolver {resolver.name} is a Consul resolver: its names have no dots", "service")
                return None
            if parsed.port_given:
                findings.notice(f"port {service.port} has no effect: Consul knows the port of each instance", "service")
            return ServiceRef(service.name, "", 0, service.name)


def _find_in_kubernetes(resolver: ResolverChoice, parsed: ParsedService, findings: Findings) -> ServiceRef | None:
    service = parsed.service
    if parsed.is_ip:
        findings.error(
            f"{service.hostname} is an address, and resolver {resolver.name} needs the name of a Service",
            "service",
        )
        return None
    if parsed.ignored:
        findings.notice(
            f"'.{parsed.ignored}' has no effect: resolver {resolver.name} takes name.namespace,"
            f" here {service.name}.{service.namespace}",
            "service",
        )
    return ServiceRef(service.name, service.namespace, service.port, f"{service.name}.{service.namespace}")


def _name_cluster(
    resolver: ResolverChoice, service: ServiceRef, connection: ConnectionSettings, addressing: Addressing
) -> str:
    """`service/resolver kind[#settings]`, equal for equal clusters.

    Certificates are not part of it, only their TLSContext: a cluster lives on when they are renewed.
    """
    if resolver.consul is not None:
        place = f"{service.name}/{resolver.kind}/{resolver.consul.datacenter}@{resolver.consul.address}"
    else:
        host = f"[{service.hostname}]" if ":" in service.hostname else service.hostname
        place = f"{host}:{service.port}/{resolver.kind}"
    if connection is DEFAULT_CONNECTION and addressing is DEFAULT_ADDRESSING:
        return place
    return f"{place}#{_hash_settings(connection, addressing)}"


def _hash_settings(connection: ConnectionSettings, addressing: Addressing) -> str:
    tls = connection.tls
    named = None if tls is None else (tls.name, tls.server_name, *filter(None, [tls.authority]))
    text = repr((named, replace(connection, tls=None), addressing))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_DIGITS]
