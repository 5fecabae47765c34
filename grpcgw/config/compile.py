"""Objects in, one Snapshot and everything that is wrong out. Pure: no I/O, no clock, nothing remembered.

A bad object leaves out only itself. What served before is handed in (`last_good`) and out again, and serves on where
a new version of the object does not compile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from grpcgw.config.generations import LEFT_OUT, SERVES_ON, Build, Generations
from grpcgw.config.grouping import Candidate, GroupKey, group_candidates, make_route, order_routes, share_weights
from grpcgw.config.mappings import (
    BUILT_IN_RESOLVERS,
    CompiledMapping,
    MappingContext,
    check_load_balancer,
    compile_mapping,
)
from grpcgw.config.objects import KubeObject, ObjectKey, Problem
from grpcgw.config.parse import Findings, parse_spec, raw_spec
from grpcgw.config.resources import API_GROUPS, MODELS, PLANNED_KINDS, ModuleConfig, ModuleSpec, ResolverSpec
from grpcgw.config.snapshot import Cluster, ServerCertificate, Snapshot
from grpcgw.config.tls import TLSCompiler
from grpcgw.config.version import hash_content

_RESOLVER_KINDS = ("ConsulResolver", "KubernetesEndpointResolver", "KubernetesServiceResolver")


@dataclass(frozen=True, slots=True)
class CompileOptions:
    ambassador_id: str = "default"
    ambassador_namespace: str = "default"
    """Namespace of the gateway itself."""
    now: datetime | None = None
    """Aware time to judge the expiry of certificates by; None: expiry is not judged."""


@dataclass(frozen=True, slots=True)
class Compiled:
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    last_good: Mapping[ObjectKey, KubeObject]
    """For the next compilation: the version of each object that serves, or served last."""


def compile_snapshot(
    objects: Iterable[KubeObject], last_good: Mapping[ObjectKey, KubeObject], options: CompileOptions
) -> Compiled:
    """Give all objects their meaning. Kinds that are not configuration (Service, Pod, …) are ignored.

    The result does not depend on the order of `objects`; keys are unique. Never raises for what is in an object.
    """
    by_key = {obj.key: obj for obj in objects}
    configuration = _select_configuration(by_key.values(), options.ambassador_id)
    generations = Generations(last_good)
    _report_other_kinds(configuration, generations)
    certificates = TLSCompiler(by_key, generations, options.now).compile(
        _of_kind(configuration, "TLSContext"), _of_kind(configuration, "Host")
    )
    context = MappingContext(
        module=_compile_module(configuration, options.ambassador_namespace, generations),
        resolvers=_compile_resolvers(configuration, generations),
        ambassador_namespace=options.ambassador_namespace,
    )
    serving = _compile_mappings(_of_kind(configuration, "Mapping"), context, generations)
    problems = sorted(generations.problems, key=_object_order)
    return Compiled(_make_snapshot(serving, certificates), tuple(problems), generations.last_good)


def _select_configuration(objects: Iterable[KubeObject], ambassador_id: str) -> list[KubeObject]:
    """The objects that are this gateway's configuration, in the order of their keys."""
    mine = (obj for obj in objects if obj.api_version.partition("/")[0] in API_GROUPS and _owns(obj, ambassador_id))
    return sorted(mine, key=lambda obj: (obj.key.kind, obj.key.namespace, obj.key.name))


def _owns(obj: KubeObject, ambassador_id: str) -> bool:
    """Whether the object is for this gateway. An id of the wrong type is everybody's, so that somebody reports it."""
    spec = raw_spec(obj)
    given = spec.get("ambassador_id") if isinstance(spec, Mapping) else None
    if given is None:
        given = ["default"]
    wanted = [given] if isinstance(given, str) else given
    return not isinstance(wanted, list) or ambassador_id in wanted or "_automatic_" in wanted


def _of_kind(configuration: Iterable[KubeObject], kind: str) -> list[KubeObject]:
    return [obj for obj in configuration if obj.key.kind == kind]


def _report_other_kinds(configuration: Iterable[KubeObject], generations: Generations) -> None:
    for obj in configuration:
        kind = obj.key.kind
        if kind in PLANNED_KINDS:
            findings = Findings(obj)
            findings.notice(f"{kind} is not supported yet: {PLANNED_KINDS[kind]}")
            generations.report(findings)
        elif kind not in MODELS:
            generations.leave_out(obj, f"kind {kind} is unknown in {obj.api_version}")


def _compile_module(
    configuration: Iterable[KubeObject], ambassador_namespace: str, generations: Generations
) -> ModuleConfig:
    """The Module of the gateway's own namespace, else the first by namespace; more than one is an error."""
    modules = _of_kind(configuration, "Module")
    modules.sort(key=lambda obj: obj.key.namespace != ambassador_namespace)
    chosen: ModuleConfig | None = None
    for obj in modules:
        if chosen is None:
            chosen = generations.serve(obj, _build_module)
        else:
            generations.leave_out(obj, "another Module is in use, and only one is read")
    return chosen or ModuleConfig()


def _build_module(obj: KubeObject, findings: Findings) -> ModuleConfig | None:
    if obj.key.name != "ambassador":
        findings.error("the Module should be named ambassador; no other is read")
        return None
    spec = parse_spec(obj, ModuleSpec, findings)
    if spec is None:
        return None
    config = spec.config or ModuleConfig()
    check_load_balancer(config.load_balancer, findings, "config", "load_balancer")
    return config


def _compile_resolvers(configuration: Iterable[KubeObject], generations: Generations) -> dict[str, str]:
    """Kind of each resolver by name. Names are global across namespaces, as in Ambassador."""
    declared: dict[str, str] = {}
    resolvers = [obj for obj in configuration if obj.key.kind in _RESOLVER_KINDS]
    for obj in resolvers:
        kind, name = obj.key.kind, obj.key.name
        taken = declared.get(name, kind)
        if taken != kind:
            generations.leave_out(obj, f"the name is taken by a {taken}; resolver names are global, choose another")
        elif kind in PLANNED_KINDS or generations.serve(obj, _build_resolver) is not None:
            declared[name] = kind
    return {**BUILT_IN_RESOLVERS, **declared}


def _build_resolver(obj: KubeObject, findings: Findings) -> ResolverSpec | None:
    return parse_spec(obj, ResolverSpec, findings)


def _compile_mappings(
    mappings: Iterable[KubeObject], context: MappingContext, generations: Generations
) -> dict[ObjectKey, CompiledMapping]:
    """The Mappings that serve, none of them in a group with too much weight."""

    def build(obj: KubeObject, findings: Findings) -> CompiledMapping | None:
        return compile_mapping(obj, context, findings)

    by_key = {obj.key: obj for obj in mappings}
    serving: dict[ObjectKey, CompiledMapping] = {}
    for key, obj in by_key.items():
        compiled = generations.serve(obj, build)
        if compiled is not None:
            serving[key] = compiled
    for key, complaint in _settle_weights(serving, build, generations).items():
        findings = Findings(by_key[key])
        findings.error(f"{complaint}; {SERVES_ON if key in serving else LEFT_OUT}", "weight")
        generations.report(findings)
    return serving


def _settle_weights(
    serving: dict[ObjectKey, CompiledMapping], build: Build[CompiledMapping], generations: Generations
) -> dict[ObjectKey, str]:
    """Put the members of groups with too much weight back to their last good versions, or take them out of `serving`.

    One step back is tried: where the former versions do not fit together any more, their group gets nothing.
    Returns what is wrong with each.
    """
    complaints = _find_overweight(serving)
    for key in complaints:
        former = generations.serve_earlier(key, build)
        if former is None:
            del serving[key]
        else:
            serving[key] = former
    unsettled = _find_overweight(serving) if complaints else {}
    for key in unsettled:
        del serving[key]
    return {**unsettled, **complaints}


def _find_overweight(serving: Mapping[ObjectKey, CompiledMapping]) -> dict[ObjectKey, str]:
    """What is wrong with each Mapping whose group's weights add up to more than 100."""
    complaints: dict[ObjectKey, str] = {}
    for group, members in _group(serving).items():
        if share_weights([member.weight for member in members]) is None:
            complaint = _describe_weights(group, members)
            complaints.update({member.destination.mapping: complaint for member in members})
    return complaints


def _describe_weights(group: GroupKey, members: Iterable[Candidate]) -> str:
    weights = {member.destination.label: member.weight for member in members if member.weight}
    listed = ", ".join(f"{label} {weight}" for label, weight in weights.items())
    total = sum(weights.values())
    return f"the weights over {group.match.value} add up to {total} ({listed}); at most 100 are allowed"


def _group(serving: Mapping[ObjectKey, CompiledMapping]) -> dict[GroupKey, list[Candidate]]:
    return group_candidates(compiled.candidate for compiled in serving.values())


def _make_snapshot(
    serving: Mapping[ObjectKey, CompiledMapping], certificates: tuple[ServerCertificate, ...]
) -> Snapshot:
    routes = order_routes(make_route(group, members) for group, members in _group(serving).items())
    clusters: dict[str, Cluster] = {}
    for key in serving:  # in the order of keys: the first Mapping names the resolver of a cluster it shares
        cluster = serving[key].cluster
        clusters.setdefault(cluster.name, cluster)
    return Snapshot(hash_content(routes, clusters, certificates), routes, clusters, certificates)


def _object_order(problem: Problem) -> tuple[str, str, str]:
    key = problem.object
    return (key.kind, key.namespace, key.name) if key else ("", "", "")
