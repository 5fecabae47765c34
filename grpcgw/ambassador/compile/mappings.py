"""Compiles one Mapping to members of groups: its match, cluster and settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import lru_cache

from grpcgw.ambassador.compile.grouping import GroupMember, make_group_key
from grpcgw.ambassador.compile.guards import Guard, GuardedMapping, find_policies
from grpcgw.ambassador.compile.hosts import HostSelector, find_selectors
from grpcgw.ambassador.compile.labels import compile_labels
from grpcgw.ambassador.compile.mapping_settings import (
    MergedMapping,
    StructuredSettings,
    compile_settings,
    merge_mapping,
)
from grpcgw.ambassador.compile.matching import Matching, asks_for_query, compile_matching
from grpcgw.ambassador.compile.metadata_edits import check_key, note_hidden_key
from grpcgw.ambassador.compile.own_limits import compile_own_limits
from grpcgw.ambassador.compile.upstreams import Surroundings, choose_authority, compile_cluster
from grpcgw.ambassador.spec.mapping_parts import KeepaliveSpec
from grpcgw.ambassador.spec.mapping_spec import MappingSpec
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.balancing import (
    DEFAULT_BALANCING,
    ROUND_ROBIN,
    Balancing,
    HealthCheck,
    LoadBalancer,
    OutlierDetection,
)
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.edits import HeaderAdd, RegexRewrite
from grpcgw.model.log_format import ANNOTATION as ACCESS_LOG
from grpcgw.model.log_format import InvalidLogFormat, parse_share
from grpcgw.model.objects import KubeObject, read_metadata
from grpcgw.model.regex import InvalidRegex, Replacement, check_regex
from grpcgw.model.resilience import Priority
from grpcgw.model.route import Destination, WeightedCluster

DEFAULT_IDLE_TIMEOUT_MS = 300_000
STICKY_HEADER = "grpcgw.io/sticky-header"
"""Annotation: the metadata key whose hash decides between the Mappings of a group. Not in Ambassador."""

_IN_PATH = re.compile(r"[\x21-\x7e]*")

_CORE_FIELDS = (
    *("bypass_auth", "case_sensitive", "circuit_breakers", "cluster_idle_timeout_ms"),
    *("cluster_max_connection_lifetime_ms", "connect_timeout_ms", "keepalive", "labels", "load_balancer"),
    *("prefix_exact", "prefix_regex"),
)
"""Ambassador's CoreMappingKeys, without those that are in the group's key; `case_sensitive` is an addition."""


@dataclass(frozen=True, slots=True)
class MappingContext:
    """Inputs of a Mapping's compilation besides itself. Equal Mappings in equal contexts compile to equal values."""

    around: Surroundings
    defaults: Mapping[str, object]
    """The Module's defaults of fields, valid and typed."""
    default_core: Mapping[str, object]
    """The core fields the Module sets, as they were written."""
    hosts: tuple[HostSelector, ...]
    regex_max_size: int
    authority_hidden_by: str = ""
    zone_unknown: bool = False
    """Both as in CompileOptions."""
    guards: tuple[Guard, ...] = ()
    """Objects that decide on the RPCs of Mappings."""


@dataclass(frozen=True, slots=True)
class CompiledMapping:
    members: tuple[GroupMember, ...]
    """One for each host it serves; none if it can match no call."""
    cluster: Cluster | None
    """None: its calls have no destination."""


def compile_mapping(obj: KubeObject, context: MappingContext, findings: Findings) -> CompiledMapping | None:
    """The Mapping's part of the snapshot, or None with at least one error in `findings`; all errors are found."""
    mapping = merge_mapping(obj, context.defaults, findings)
    if mapping is None:
        return None
    spec = mapping.spec
    matching = compile_matching(spec, not obj.api_version.endswith("/v3alpha1"), context.regex_max_size, findings)
    if spec.host_redirect:
        return _compile_redirect(obj, spec, matching, context, findings)
    settings = compile_settings(spec, findings, inherited=mapping.inherited)
    cluster = compile_cluster(obj.key, mapping, context.around, findings)
    if cluster is not None and cluster.resolver is ResolverKind.KUBERNETES_SERVICE:
        settings = _without_pods(settings, mapping, cluster, findings)
    rewrite = _compile_rewrite(spec, findings)
    regex_rewrite = _compile_regex_rewrite(spec, context.regex_max_size, findings)
    sticky = _read_sticky_header(obj, findings)
    log_percent = _read_log_share(obj, findings)
    if spec.labels and mapping.owns("labels"):
        compile_labels(spec.labels, lambda message, *path: findings.error(message, "labels", *path))
    own_limits = compile_own_limits(obj.key, spec, findings)
    if findings.rejected or cluster is None:
        return None
    settings = _check_authority_of_checks(settings, mapping, cluster, findings)
    _note_others(mapping, findings)
    _note_unused_breakers(settings, mapping, findings)
    if context.zone_unknown and settings.load_balancer is not None and settings.load_balancer.prefer_same_zone:
        findings.notice(
            "has no effect: the gateway does not know its zone; give it one with --zone or GRPCGW_ZONE",
            *("load_balancer", "prefer_same_zone"),
        )
    destination = _make_destination(obj, spec, settings, cluster, regex_rewrite or rewrite, log_percent)
    if own_limits:
        destination = replace(destination, policies=own_limits)
    if context.hosts and (selected_by := find_selectors(context.hosts, read_metadata(obj, "labels"))):
        destination = replace(destination, selected_by=selected_by)
    member = GroupMember(
        group=make_group_key(matching, spec.precedence or 0),
        matching=matching,
        weight=spec.weight,
        destination=destination,
        shadow=bool(spec.shadow),
        sticky_header=sticky,
        created=_created(obj),
        own_core=core_fields(spec, mapping.inherited),
        default_core=context.default_core,
        own_header=HeaderAdd("l5d-dst-override", str(cluster.service), append=False)
        if spec.add_linkerd_headers
        else None,
    )
    if asks_for_query(spec):
        findings.notice("a gRPC path has no query, so the Mapping serves no call", "query_parameters")
        return CompiledMapping((), cluster)
    spread = (member,) if spec.hostname or spec.host else _spread(member, obj, context.hosts)
    members = tuple(_guard(one, spec, obj, context.guards) for one in spread)
    if context.authority_hidden_by:
        _note_hidden_authority(members, context.authority_hidden_by, findings)
    return CompiledMapping(members, cluster)


def _guard(member: GroupMember, spec: MappingSpec, obj: KubeObject, guards: tuple[Guard, ...]) -> GroupMember:
    if not guards:
        return member
    destination = member.destination
    cluster, labels = destination.clusters[0].cluster, read_metadata(obj, "labels")
    guarded = GuardedMapping(destination.key, member.matching, spec, cluster, labels)
    policies = (*find_policies(guards, guarded), *destination.policies)
    return replace(member, destination=replace(destination, policies=policies))


def _compile_redirect(
    obj: KubeObject, spec: MappingSpec, matching: Matching, context: MappingContext, findings: Findings
) -> CompiledMapping | None:
    """Its calls must not match another Mapping; the target of the redirect is not checked."""
    if findings.rejected:
        return None
    findings.notice("gRPC clients do not follow redirects: calls that match end with UNIMPLEMENTED", "host_redirect")
    member = GroupMember(
        group=make_group_key(matching, spec.precedence or 0),
        matching=matching,
        destination=Destination(obj.key, (), where=obj.source.locate()),
        redirect=True,
        created=_created(obj),
    )
    spread = (member,) if spec.hostname or spec.host else _spread(member, obj, context.hosts)
    return CompiledMapping(() if asks_for_query(spec) else spread, None)


def _without_pods(
    settings: StructuredSettings, mapping: MergedMapping, cluster: Cluster, findings: Findings
) -> StructuredSettings:
    """Report fields that need endpoints which the resolver does not know; the Module's defaults are ignored."""
    name, kind = cluster.resolver_name, cluster.resolver
    if mapping.owns("load_balancer"):
        findings.error(
            f"resolver {name} is a {kind}, and Kubernetes balances its connections;"
            " name a KubernetesEndpointResolver or leave load_balancer out",
            "load_balancer",
        )
    if settings.health_check is not None and mapping.owns("health_checks"):
        findings.fault(
            f"resolver {name} is a {kind}, which does not know the pods; without effect unless the Mapping names a"
            " KubernetesEndpointResolver",
            "health_checks",
        )
    return replace(settings, load_balancer=None, health_check=None)


def _compile_rewrite(spec: MappingSpec, findings: Findings) -> str | None:
    if not spec.rewrite:
        return None
    if spec.regex_rewrite is not None:
        findings.notice("has no effect beside regex_rewrite", "rewrite")
        return None
    if spec.prefix_regex:
        findings.notice("has no effect: with prefix_regex there is no prefix to replace; use regex_rewrite", "rewrite")
        return None
    if spec.rewrite == "/" and spec.prefix != "/":
        findings.notice("cuts the matched prefix, the gRPC service name, off the path; leave it out", "rewrite")
    if not spec.rewrite.startswith("/") or not _IN_PATH.fullmatch(spec.rewrite):
        findings.error(
            f"{spec.rewrite!r} is no path: begin it with '/' and use printable ASCII without spaces",
            "rewrite",
        )
    return spec.rewrite


def _compile_regex_rewrite(spec: MappingSpec, max_size: int, findings: Findings) -> RegexRewrite | None:
    if spec.regex_rewrite is None:
        return None
    pattern, substitution = spec.regex_rewrite.pattern, spec.regex_rewrite.substitution
    try:
        check_regex(pattern, max_size)
    except InvalidRegex as error:
        message = f"{pattern!r} is no RE2 pattern that can be used: {error}"
        findings.error(message, "regex_rewrite", "pattern")
        return None
    if not _IN_PATH.fullmatch(substitution):
        findings.error(f"{substitution!r} should have printable ASCII without spaces", "regex_rewrite", "substitution")
    try:
        Replacement(pattern, substitution)
    except InvalidRegex as error:
        findings.error(str(error), "regex_rewrite", "substitution")
    return RegexRewrite(pattern, substitution)


def _read_sticky_header(obj: KubeObject, findings: Findings) -> str:
    name = read_metadata(obj, "annotations").get(STICKY_HEADER)
    if not name:
        return ""
    note_hidden_key(str(name), findings)
    return check_key(str(name), findings)


def _read_log_share(obj: KubeObject, findings: Findings) -> float | None:
    share = read_metadata(obj, "annotations").get(ACCESS_LOG)
    if share is None:
        return None
    try:
        return parse_share(str(share))
    except InvalidLogFormat as error:
        findings.fault(f"annotation {error}; the gateway's own share is logged instead")
        return None


def _created(obj: KubeObject) -> str:
    """creationTimestamp, as text that sorts; empty if absent."""
    metadata = obj.body.get("metadata")
    return str(metadata.get("creationTimestamp") or "") if isinstance(metadata, Mapping) else ""


def _check_authority_of_checks(
    settings: StructuredSettings, mapping: MergedMapping, cluster: Cluster, findings: Findings
) -> StructuredSettings:
    """A TLS connection accepts calls for one name only (grpc core compares it with the certificate's)."""
    check, tls = settings.health_check, cluster.connection.tls
    if check is None or tls is None:
        return settings
    name = tls.authority or tls.server_name
    if check.authority in ("", name):
        return settings
    if mapping.owns("health_checks"):
        findings.notice(
            f"authority {check.authority} has no effect: pods with TLS are called by {name}", "health_checks"
        )
    return replace(settings, health_check=replace(check, authority=""))


def _make_destination(
    obj: KubeObject,
    spec: MappingSpec,
    settings: StructuredSettings,
    cluster: Cluster,
    rewrite: RegexRewrite | str | None,
    log_percent: float | None,
) -> Destination:
    idle_ms = DEFAULT_IDLE_TIMEOUT_MS if spec.idle_timeout_ms is None else spec.idle_timeout_ms
    return Destination(
        key=obj.key,
        clusters=(WeightedCluster(cluster.name),),
        balancing=_share_balancing(
            settings.load_balancer or ROUND_ROBIN, settings.health_check, settings.outlier_detection
        ),
        timeout_ms=spec.timeout_ms or None,
        idle_timeout_ms=idle_ms or None,
        max_message_bytes=spec.max_message_bytes,
        rewrite=rewrite if isinstance(rewrite, str) else None,
        regex_rewrite=rewrite if isinstance(rewrite, RegexRewrite) else None,
        authority=choose_authority(spec, cluster.service),
        request_headers=settings.request_headers,
        response_headers=settings.response_headers,
        retry=settings.retry,
        priority=_read_priority(spec),
        circuit_breakers=settings.circuit_breakers or (),
        stats_name=spec.stats_name or "",
        access_log_percent=log_percent,
        where=obj.source.locate(),
    )


@lru_cache(maxsize=1024)
def _share_balancing(
    load_balancer: LoadBalancer, health_check: HealthCheck | None, outliers: OutlierDetection | None
) -> Balancing:
    """Equal settings are one object: thousands of Mappings have the same, and each is compared, hashed and sent."""
    made = Balancing(load_balancer, health_check, outliers)
    return DEFAULT_BALANCING if made == DEFAULT_BALANCING else made


def _read_priority(spec: MappingSpec) -> Priority:
    return Priority.DEFAULT if spec.priority is None else Priority(spec.priority)


def core_fields(spec: object, inherited: Set[str] = frozenset()) -> dict[str, object]:
    """The fields on which the Mappings of a group must agree, as far as they are set and not `inherited`, as they were
    written."""
    return {
        name: _as_written(value)
        for name in _CORE_FIELDS
        if name not in inherited and (value := getattr(spec, name, None)) is not None
    }


def _as_written(value: object) -> object:
    if isinstance(value, list):
        return [_as_written(one) for one in value]
    if isinstance(value, KeepaliveSpec):  # two names of one field
        value = value.model_copy(update={"time": value.time or value.idle_time, "idle_time": None})
    dump = getattr(value, "model_dump", None)
    return dump(exclude_none=True) if dump else value


def _note_others(mapping: MergedMapping, findings: Findings) -> None:
    spec = mapping.spec
    if spec.grpc is False:
        findings.notice("has no effect: grpcgw always speaks gRPC to pods; leave it out", "grpc")
    if spec.host_rewrite and spec.auto_host_rewrite and mapping.owns("auto_host_rewrite"):
        findings.notice("has no effect beside host_rewrite", "auto_host_rewrite")
    if spec.host_regex and not spec.host:
        findings.notice("has no effect without host", "host_regex")


def _note_unused_breakers(settings: StructuredSettings, mapping: MergedMapping, findings: Findings) -> None:
    priority = _read_priority(mapping.spec)
    if not settings.circuit_breakers or not mapping.owns("circuit_breakers"):
        return
    if all(breaker.priority is not priority for breaker in settings.circuit_breakers):
        findings.notice(
            f"has no effect: calls of the Mapping have priority {priority}, and no entry has it",
            "circuit_breakers",
        )


def _note_hidden_authority(members: tuple[GroupMember, ...], engine: str, findings: Findings) -> None:
    hosts = [member.group.host for member in members if member.matching.host is not None]
    if hosts:
        findings.fault(
            f"serves no call for {', '.join(hosts)}: the {engine} engine does not know the :authority of calls;"
            " run grpcgw with --engine http2, or match by path or headers"
        )
    destination = members[0].destination
    for name, edits in (
        ("add_request_headers", destination.request_headers),
        ("add_response_headers", destination.response_headers),
    ):
        for add in edits.add:
            if ":authority" in add.value.lower():
                findings.notice(
                    f"the {engine} engine does not know the :authority of calls; nothing is added", name, add.name
                )


def _spread(member: GroupMember, obj: KubeObject, hosts: tuple[HostSelector, ...]) -> tuple[GroupMember, ...]:
    """Without a host of its own, a Mapping serves the Hosts that select it by its labels; without such Hosts, all
    names.
    """
    if member.matching.host is not None or not hosts:
        return (member,)
    labels = read_metadata(obj, "labels")
    selected = {selector.host for selector in hosts if selector.selects(labels)}
    if not selected:
        return (member,)
    spread = []
    for host in sorted(selected, key=str):
        matching = replace(member.matching, host=host)
        group = make_group_key(matching, member.group.precedence)
        spread.append(replace(member, matching=matching, group=group))
    return tuple(spread)
