"""From one Mapping to the Candidate of a route: its match, its cluster, its settings. Knows one Mapping at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from grpcgw.config.grouping import Candidate, GroupKey
from grpcgw.config.objects import KubeObject
from grpcgw.config.parse import Findings, parse_spec
from grpcgw.config.policies import LoadBalancer
from grpcgw.config.regex import InvalidRegex, FullRegex
from grpcgw.config.resources import LoadBalancerSpec, MappingSpec, ModuleConfig
from grpcgw.config.service import ParsedService, parse_service
from grpcgw.config.snapshot import Cluster, Destination, MatchKind, PathMatch, ResolverKind

DEFAULT_RESOLVER = "kubernetes-service"
DEFAULT_IDLE_TIMEOUT_MS = 300_000
BUILT_IN_RESOLVERS: Mapping[str, str] = {
    DEFAULT_RESOLVER: ResolverKind.KUBERNETES_SERVICE,
    "endpoint": ResolverKind.KUBERNETES_ENDPOINT,
    "kubernetes-endpoint": ResolverKind.KUBERNETES_ENDPOINT,
    "consul": "ConsulResolver",
    "consul-endpoint": "ConsulResolver",
}
"""Resolvers that exist without being declared, by name, with their kind."""

_SUPPORTED_RESOLVERS = frozenset(ResolverKind) - {ResolverKind.CONSUL}


@dataclass(frozen=True, slots=True)
class MappingContext:
    """What a Mapping's meaning depends on beside itself."""

    module: ModuleConfig
    resolvers: Mapping[str, str]
    """Kind of each resolver by its name, in whatever namespace it was declared; may be a kind not supported yet."""
    ambassador_namespace: str


@dataclass(frozen=True, slots=True)
class CompiledMapping:
    candidate: Candidate
    cluster: Cluster


def compile_mapping(obj: KubeObject, context: MappingContext, findings: Findings) -> CompiledMapping | None:
    """The Mapping's part of the snapshot, or None with at least one error in `findings`; all errors are found."""
    spec = parse_spec(obj, MappingSpec, findings)
    if spec is None:
        return None
    match = _compile_match(spec, findings)
    cluster = _compile_cluster(obj, spec, context, findings)
    if findings.rejected or cluster is None:
        return None
    destination = Destination(
        mapping=obj.key,
        label=f"{obj.key.name}.{obj.key.namespace}",
        cluster=cluster.name,
        load_balancer=_choose_load_balancer(spec, cluster, context.module),
        rewrite=_compile_rewrite(spec, findings),
        timeout_ms=_choose_timeout(spec, context.module),
        idle_timeout_ms=DEFAULT_IDLE_TIMEOUT_MS if spec.idle_timeout_ms is None else spec.idle_timeout_ms or None,
        where=obj.source.locate(),
    )
    if spec.grpc is False:
        findings.notice("has no effect: pods are spoken to in gRPC all the same; leave it out", "grpc")
    return CompiledMapping(Candidate(GroupKey(match, spec.precedence or 0), spec.weight, destination), cluster)


def check_load_balancer(spec: LoadBalancerSpec | None, findings: Findings, *path: str) -> None:
    if spec is not None and spec.policy != LoadBalancer().policy:
        findings.error(f"{spec.policy} is not supported yet; use round_robin", *path, "policy")


def _compile_match(spec: MappingSpec, findings: Findings) -> PathMatch:
    if spec.prefix_regex:
        if spec.prefix_exact:
            findings.notice("has no effect beside prefix_regex", "prefix_exact")
        _check_regex(spec.prefix, findings)
        return PathMatch(MatchKind.REGEX, spec.prefix)
    if not spec.prefix.startswith("/"):
        findings.error(f"{spec.prefix!r} matches no path: it should begin with '/'", "prefix")
    return PathMatch(MatchKind.EXACT if spec.prefix_exact else MatchKind.PREFIX, spec.prefix)


def _check_regex(pattern: str, findings: Findings) -> None:
    try:
        FullRegex(pattern)
    except InvalidRegex as error:
        findings.error(f"{pattern!r} is no RE2 pattern: {error}", "prefix")


def _compile_rewrite(spec: MappingSpec, findings: Findings) -> str | None:
    if not spec.rewrite:
        return None
    if spec.prefix_regex:
        findings.notice("has no effect: with prefix_regex there is no prefix to replace", "rewrite")
        return None
    if spec.rewrite == "/" and spec.prefix != "/":
        findings.notice("cuts the matched prefix, the gRPC service name, off the path; leave it out", "rewrite")
    return spec.rewrite


def _compile_cluster(obj: KubeObject, spec: MappingSpec, context: MappingContext, findings: Findings) -> Cluster | None:
    resolver_name = spec.resolver or context.module.resolver or DEFAULT_RESOLVER
    kind = _find_resolver(resolver_name, context, findings)
    parsed = _parse_service(obj, spec.service, context, findings)
    check_load_balancer(spec.load_balancer, findings, "load_balancer")
    if kind is ResolverKind.KUBERNETES_SERVICE and spec.load_balancer is not None:
        findings.error(
            f"resolver {resolver_name} is a {kind}, which leaves balancing to Kubernetes;"
            " name a KubernetesEndpointResolver or leave load_balancer out",
            "load_balancer",
        )
    if kind is None or parsed is None:
        return None
    return _name_cluster(resolver_name, kind, parsed, findings)


def _find_resolver(name: str, context: MappingContext, findings: Findings) -> ResolverKind | None:
    kind = context.resolvers.get(name)
    if kind is None:
        findings.error(f"resolver {name} is unknown; declare it or use one of {_list_names(context)}", "resolver")
        return None
    if kind not in _SUPPORTED_RESOLVERS:
        findings.error(f"resolver {name} is a {kind}, which is not supported yet", "resolver")
        return None
    return ResolverKind(kind)


def _list_names(context: MappingContext) -> str:
    return ", ".join(sorted(name for name, kind in context.resolvers.items() if kind in _SUPPORTED_RESOLVERS))


def _parse_service(obj: KubeObject, text: str, context: MappingContext, findings: Findings) -> ParsedService | None:
    of_gateway = context.module.use_ambassador_namespace_for_service_resolution
    parsed = parse_service(text, context.ambassador_namespace if of_gateway else obj.key.namespace)
    if parsed.tls:
        findings.error(
            f"{text!r} asks for TLS to pods, which is not supported yet; calls are not sent in clear text instead",
            "service",
        )
        return None
    return parsed


def _name_cluster(resolver_name: str, kind: ResolverKind, parsed: ParsedService, findings: Findings) -> Cluster | None:
    service = parsed.service
    if kind is ResolverKind.KUBERNETES_SERVICE:
        host = f"[{service.hostname}]" if ":" in service.hostname else service.hostname
        return Cluster(f"{host}:{service.port}/{kind}", kind, resolver_name, service)
    if parsed.is_ip:
        findings.error(
            f"{service.hostname} is an address, but resolver {resolver_name} finds pods by the name of a Service",
            "service",
        )
        return None
    if parsed.ignored:
        findings.notice(
            f"'.{parsed.ignored}' has no effect: resolver {resolver_name} takes name.namespace,"
            f" here {service.name}.{service.namespace}",
            "service",
        )
    host = f"{service.name}.{service.namespace}"
    return Cluster(f"{host}:{service.port}/{kind}", kind, resolver_name, replace(service, hostname=host))


def _choose_load_balancer(spec: MappingSpec, cluster: Cluster, module: ModuleConfig) -> LoadBalancer:
    chosen = spec.load_balancer
    if chosen is None and cluster.resolver is not ResolverKind.KUBERNETES_SERVICE:
        chosen = module.load_balancer
    return LoadBalancer() if chosen is None else LoadBalancer(chosen.policy)


def _choose_timeout(spec: MappingSpec, module: ModuleConfig) -> int | None:
    chosen = module.cluster_request_timeout_ms if spec.timeout_ms is None else spec.timeout_ms
    return chosen or None
