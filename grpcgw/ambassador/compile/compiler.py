"""Ambassador's resources as a RouteSource: the order in which its kinds are compiled, and how each uses the others.

A bad object leaves out only itself; where a new version of an object does not compile, its last good version serves on.
"""

from __future__ import annotations

from dataclasses import dataclass

from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.groups import Groups, ServingMappings, choose_mappings
from grpcgw.ambassador.compile.guard_catalogue import compile_guards
from grpcgw.ambassador.compile.guards import Guard, GuardContext
from grpcgw.ambassador.compile.ingresses import note_ingresses
from grpcgw.ambassador.compile.mappings import MappingContext
from grpcgw.ambassador.compile.misspelt import find_stand_ins, report_misspelt_groups
from grpcgw.ambassador.compile.module import CompiledModule, compile_module
from grpcgw.ambassador.compile.objects_by_kind import ObjectsByKind, report_other_kinds
from grpcgw.ambassador.compile.ports import CompiledPorts, compile_ports
from grpcgw.ambassador.compile.rate_limits import RateLimitsGuard
from grpcgw.ambassador.compile.resolvers import compile_resolvers
from grpcgw.ambassador.compile.reuse import NO_MAPPINGS_TO_REUSE, MappingReader, MappingReuse
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls import TLSContext
from grpcgw.ambassador.compile.upstreams import Surroundings
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.objects import FieldPath
from grpcgw.model.regex import DEFAULT_MAX_SIZE
from grpcgw.model.route_source import (
    ClusterCandidate,
    CompileOptions,
    GatewaySettings,
    ObjectsByKey,
    Reuse,
    RouteCandidate,
    RouteSourceResult,
)


@dataclass(frozen=True, slots=True)
class AmbassadorSource:
    """The RouteSource of Ambassador's resources. Kinds that are not Ambassador's (Service, Pod, …) are ignored."""

    name: str = "Ambassador"
    route_kinds: frozenset[str] = frozenset({"Mapping"})
    host_path: FieldPath = ("spec", "hostname")

    def compile(
        self, objects: ObjectsByKey, last_good: ObjectsByKey, options: CompileOptions, reuse: Reuse | None
    ) -> RouteSourceResult:
        every = [*objects.values(), *find_stand_ins(objects.values())]
        configuration = ObjectsByKind(every, options.gateway_id)
        generations = Generations(last_good)
        report_other_kinds(configuration, generations)
        report_misspelt_groups(objects.values(), generations)
        note_ingresses(objects.values(), options.gateway_id, generations)
        secrets = Secrets(objects, generations, options.now)
        ports = compile_ports(configuration, secrets, generations, options)
        module = compile_module(configuration.modules(), generations, options)
        around = _make_surroundings(configuration, ports, module, options, generations)
        guards = compile_guards(
            configuration,
            GuardContext(
                around,
                module.config,
                secrets,
                generations,
                options.gateway_namespace,
                options.serve_without_auth,
                options.authority_hidden_by,
            ),
        )
        context = _make_mapping_context(around, guards, ports, module, options)
        reader = MappingReader(context, reuse if isinstance(reuse, MappingReuse) else NO_MAPPINGS_TO_REUSE)
        serving, groups = choose_mappings(configuration.of("Mapping"), reader.read, generations)
        return RouteSourceResult(
            routes=_make_routes(groups, reader),
            clusters=_list_clusters(serving, guards, reader),
            listeners=ports.listeners,
            settings=_make_settings(ports, module, guards),
            problems=tuple(generations.problems),
            last_good=generations.last_good,
            reuse=reader.finish(),
        )


AMBASSADOR = AmbassadorSource()


def _make_surroundings(
    configuration: ObjectsByKind,
    ports: CompiledPorts,
    module: CompiledModule,
    options: CompileOptions,
    generations: Generations,
) -> Surroundings:
    return Surroundings(
        resolvers=compile_resolvers(configuration.of(*ResolverKind), options.environment, generations),
        tls_contexts={
            key: context.upstream if isinstance(context, TLSContext) else None
            for key, context in ports.contexts.items()
        },
        gateway_namespace=options.gateway_namespace,
        of_gateway=bool(module.config.use_ambassador_namespace_for_service_resolution),
    )


def _make_mapping_context(
    around: Surroundings,
    guards: tuple[Guard, ...],
    ports: CompiledPorts,
    module: CompiledModule,
    options: CompileOptions,
) -> MappingContext:
    return MappingContext(
        around=around,
        defaults=module.defaults,
        default_core=module.core,
        hosts=tuple(host.selector for host in ports.hosts if host.selector is not None),
        regex_max_size=module.config.regex_max_size or DEFAULT_MAX_SIZE,
        authority_hidden_by=options.authority_hidden_by,
        zone_unknown=options.zone_unknown,
        guards=guards,
    )


def _make_routes(groups: Groups, reader: MappingReader) -> tuple[RouteCandidate, ...]:
    made = (reader.make_route(group, members) for group, members in groups.items())
    return tuple([one for one in made if one is not None])


def _list_clusters(
    serving: ServingMappings, guards: tuple[Guard, ...], reader: MappingReader
) -> tuple[ClusterCandidate, ...]:
    """The clusters of Mappings that match calls, in the order of their keys, then those that policies ask: the first
    names the resolver object."""
    clusters: dict[str, Cluster] = {}
    for mapping in serving.values():
        if mapping.cluster is not None and mapping.members:
            clusters.setdefault(mapping.cluster.name, mapping.cluster)
    for guard in guards:
        for cluster in guard.clusters:
            clusters.setdefault(cluster.name, cluster)
    return tuple([reader.digest_cluster(cluster) for cluster in clusters.values()])


def _make_settings(ports: CompiledPorts, module: CompiledModule, guards: tuple[Guard, ...]) -> GatewaySettings:
    return GatewaySettings(
        certificates=ports.certificates,
        hosts=ports.policies,
        access_log=module.access_log,
        clients=module.clients,
        client_idle_timeout_ms=module.client_idle_timeout_ms,
        rate_limits=tuple([one.domain_limits for one in guards if isinstance(one, RateLimitsGuard)]),
    )
