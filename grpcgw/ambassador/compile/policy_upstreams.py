"""Compiles the upstream of a policy's own RPCs: the service that an AuthService, Filter or RateLimitService names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.mapping_settings import MergedMapping
from grpcgw.ambassador.compile.upstreams import Surroundings, choose_authority, compile_cluster
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.cluster import Cluster
from grpcgw.model.objects import KubeObject
from grpcgw.model.resilience import CircuitBreaker
from grpcgw.model.route import Destination, WeightedCluster

_HTTP_IDLE_MS = 60_000


@dataclass(frozen=True, slots=True)
class PolicyUpstream:
    destination: Destination
    cluster: Cluster


def compile_policy_upstream(
    obj: KubeObject,
    fields: Mapping[str, object],
    service_field: str,
    around: Surroundings,
    findings: Findings,
    circuit_breakers: tuple[CircuitBreaker, ...] = (),
    http: bool = False,
) -> PolicyUpstream | None:
    """`fields`: valid values of a Mapping's fields (`service`, `tls`, `resolver`, `stats_name`, …), as a Mapping with
    that service would have them. `service_field`: the field of `obj` that problems with the service are reported at.

    `http`: the service is called over HTTP/1.1, so engines open no HTTP/2 connections to its pods.

    None: an error is in `findings`.
    """
    spec = MappingSpec.model_validate({"prefix": "/", **fields})
    own = findings.renamed({"service": service_field})
    cluster = compile_cluster(obj.key, MergedMapping(spec), around, own)
    findings.add(own)
    if cluster is None:
        return None
    if http:
        # With an idle timeout pods may rest; without one engines would open HTTP/2 connections to them all the same.
        idle_ms = cluster.connection.idle_timeout_ms or _HTTP_IDLE_MS
        on_demand = replace(cluster.connection, on_demand=True, idle_timeout_ms=idle_ms)
        cluster = replace(cluster, name=f"{cluster.name}-http", connection=on_demand)
    destination = Destination(
        obj.key,
        (WeightedCluster(cluster.name),),
        authority=choose_authority(spec, cluster.service),
        circuit_breakers=circuit_breakers,
        stats_name=spec.stats_name or "",
        where=obj.source.locate(),
    )
    return PolicyUpstream(destination, cluster)
