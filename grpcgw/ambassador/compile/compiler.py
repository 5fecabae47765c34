"""Objects in, one Snapshot and everything that is wrong out. Pure: no I/O, no clock, nothing remembered.

A bad object leaves out only itself. What served before is handed in (`last_good`) and out again, and serves on where
a new version of the object does not compile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from grpcgw.ambassador.compile.closed import ClosedNames, close_everything, close_tls_module
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.grouping import order_routes
from grpcgw.ambassador.compile.groups import Groups, Serving, choose_mappings
from grpcgw.ambassador.compile.guards import AUTH_MODULE, GUARDING_KINDS, compile_guards
from grpcgw.ambassador.compile.hosts import Host, compile_hosts, order_policies
from grpcgw.ambassador.compile.ingresses import note_ingresses
from grpcgw.ambassador.compile.listeners import Bindable, compile_listeners
from grpcgw.ambassador.compile.mappings import MappingContext
from grpcgw.ambassador.compile.misspelt import find_stand_ins, guess_kind, report_misspelt_groups
from grpcgw.ambassador.compile.module import TLS_MODULE, compile_module
from grpcgw.ambassador.compile.resolvers import compile_resolvers
from grpcgw.ambassador.compile.reuse import NOTHING_TO_REUSE, MappingReader, Reuse
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls import TLSContext, agree, certify, close_disagreeing, compile_tls_contexts
from grpcgw.ambassador.compile.upstreams import Surroundings
from grpcgw.ambassador.spec.parse import Findings, is_meant_for
from grpcgw.ambassador.spec.resources import API_GROUPS, MODELS, PLANNED_KINDS
from grpcgw.model.cluster import Cluster, ResolverKind
from grpcgw.model.environment import hide
from grpcgw.model.listener import ServerCertificate
from grpcgw.model.objects import UNREADABLE_FILE, KubeObject, ObjectKey, Problem
from grpcgw.model.reach import UNREACHED, Reach
from grpcgw.model.regex import DEFAULT_MAX_SIZE
from grpcgw.model.snapshot import Snapshot
from grpcgw.model.version import digest, hash_content


@dataclass(frozen=True, slots=True)
class CompileOptions:
    ambassador_id: str = "default"
    ambassador_namespace: str = "default"
    """Namespace of the gateway itself."""
    now: datetime | None = None
    """Aware time to judge the expiry of certificates by; None: expiry is not judged."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The gateway's, of which an object of a cluster sees next to nothing; in files it has been filled in already."""
    authority_hidden_by: str = ""
    """The engine, where it does not know the client's `:authority`: what is for certain hosts then serves no call."""
    serve_without_auth: bool = False
    """What AuthServices, FilterPolicies and RateLimits protect is served without them; else it is refused."""
    zone_unknown: bool = False
    """The gateway does not know where it runs; who asks for the pods of its zone is told."""


@dataclass(frozen=True, slots=True)
class Compiled:
    snapshot: Snapshot
    problems: tuple[Problem, ...]
    last_good: Mapping[ObjectKey, KubeObject]
    """For the next compilation: the version of each object that serves, or served last."""
    reuse: Reuse = field(default=NOTHING_TO_REUSE, repr=False, compare=False)
    """For the next compilation, which is the faster for it."""


def compile_snapshot(
    objects: Iterable[KubeObject],
    last_good: Mapping[ObjectKey, KubeObject],
    options: CompileOptions,
    reuse: Reuse = NOTHING_TO_REUSE,
) -> Compiled:
    """Give all objects their meaning. Kinds that are not configuration (Service, Pod, …) are ignored.

    The result does not depend on the order of `objects`; keys are unique. Never raises for what is in an object.
    """
    by_key = {obj.key: obj for obj in objects}
    configuration = _Configuration([*by_key.values(), *find_stand_ins(by_key.values())], options.ambassador_id)
    generations = Generations(last_good)
    _report_other_kinds(configuration, generations)
    report_misspelt_groups(by_key.values(), generations)
    note_ingresses(by_key.values(), options.ambassador_id, generations)
    secrets = Secrets(by_key, generations, options.now)
    ports = _compile_ports(configuration, secrets, generations, options.authority_hidden_by)
    module = compile_module(configuration.modules(), options.ambassador_namespace, generations)
    context = MappingContext(
        around=Surroundings(
            resolvers=compile_resolvers(configuration.of(*ResolverKind), options.environment, generations),
            tls_contexts={
                key: context.upstream if isinstance(context, TLSContext) else None
                for key, context in ports.contexts.items()
            },
            ambassador_namespace=options.ambassador_namespace,
            of_gateway=bool(module.config.use_ambassador_namespace_for_service_resolution),
        ),
        defaults=module.defaults,
        default_core=module.core,
        hosts=tuple(host.selector for host in ports.hosts if host.selector is not None),
        regex_max_size=module.config.regex_max_size or DEFAULT_MAX_SIZE,
        authority_hidden_by=options.authority_hidden_by,
        zone_unknown=options.zone_unknown,
        guards=compile_guards(configuration.guards(), module.config, options.serve_without_auth, generations),
    )
    reader = MappingReader(context, reuse)
    serving, groups = choose_mappings(configuration.of("Mapping"), reader.read, generations)
    settings = replace(
        ports.snapshot,
        access_log=module.access_log,
        clients=module.clients,
        client_idle_timeout_ms=module.client_idle_timeout_ms,
    )
    snapshot = _make_snapshot(serving, groups, reader, settings)
    _note_unreached(snapshot, by_key, generations)
    problems = _without_secrets(sorted(generations.problems, key=_object_order), by_key.values())
    return Compiled(snapshot, tuple(problems), generations.last_good, reader.finish())


class _Configuration:
    """The objects that are this gateway's configuration, by kind, in the order of their keys."""

    def __init__(self, objects: Iterable[KubeObject], ambassador_id: str) -> None:
        self._by_kind: dict[str, list[KubeObject]] = {}
        every = list(objects)
        self.has_unreadable_file = any(obj.key.kind == UNREADABLE_FILE for obj in every)
        mine = (
            obj for obj in every if obj.api_version.partition("/")[0] in API_GROUPS and is_meant_for(obj, ambassador_id)
        )
        for obj in sorted(mine, key=lambda obj: (obj.key.kind, obj.key.namespace, obj.key.name)):
            self._by_kind.setdefault(obj.key.kind, []).append(obj)

    @property
    def kinds(self) -> Iterable[str]:
        return self._by_kind

    def modules(self) -> list[KubeObject]:
        return [obj for obj in self.of("Module") if obj.key.name != AUTH_MODULE]

    def guards(self) -> list[KubeObject]:
        return [*self.of(*GUARDING_KINDS), *(obj for obj in self.of("Module") if obj.key.name == AUTH_MODULE)]

    def of(self, *kinds: str) -> list[KubeObject]:
        return [obj for kind in sorted(kinds) for obj in self._by_kind.get(kind, ())]


def _report_other_kinds(configuration: _Configuration, generations: Generations) -> None:
    for kind in configuration.kinds:
        if kind in MODELS or kind in GUARDING_KINDS:
            continue
        for obj in configuration.of(kind):
            if kind in PLANNED_KINDS:
                findings = Findings(obj)
                findings.notice(f"{kind} is not supported yet: {PLANNED_KINDS[kind]}")
                generations.report(findings)
            else:
                meant = guess_kind(kind)
                hint = f", did you mean {meant}" if meant else ""
                generations.leave_out(obj, f"kind {kind} is unknown in {obj.api_version}{hint}")


@dataclass(frozen=True, slots=True)
class _Ports:
    """What TLSContexts, Hosts and Listeners make together."""

    contexts: Mapping[ObjectKey, TLSContext | ClosedNames]
    hosts: tuple[Host, ...]
    snapshot: Snapshot
    """With certificates, hosts and listeners alone."""


def _compile_ports(
    configuration: _Configuration, secrets: Secrets, generations: Generations, authority_hidden_by: str
) -> _Ports:
    contexts = compile_tls_contexts(configuration.of("TLSContext"), secrets, generations)
    hosts = compile_hosts(configuration.of("Host"), contexts, secrets, generations)
    serving = (one for one in contexts.values() if isinstance(one, TLSContext))
    certified = (certify(one.key, one.hosts, one.key_pair, one.client_ca) for one in serving)
    by_contexts = [certificate for certificate in certified if certificate is not None]
    closed = [one for one in contexts.values() if isinstance(one, ClosedNames)]
    closed += [close_everything()] if configuration.has_unreadable_file else []
    closed += filter(None, (close_tls_module(obj) for obj in configuration.modules() if obj.key.name == TLS_MODULE))
    bindable = Bindable(hosts, by_contexts, closed)
    listeners = compile_listeners(configuration.of("Listener"), bindable, generations, authority_hidden_by)
    kept, others = agree([*by_contexts, *(host.certificate for host in hosts if host.certificate is not None)])
    if listeners is None:
        _report_disagreement(kept, others, configuration, generations)
    if listeners is None and authority_hidden_by:
        _note_hidden_names([*hosts, *closed], authority_hidden_by, configuration, generations)
    policies = order_policies(hosts, [*closed, *close_disagreeing(others)])
    return _Ports(contexts, hosts, Snapshot("", certificates=kept, listeners=listeners, hosts=policies))


def _report_disagreement(
    kept: tuple[ServerCertificate, ...],
    others: tuple[ServerCertificate, ...],
    configuration: _Configuration,
    generations: Generations,
) -> None:
    by_name = {str(obj.key): obj for obj in configuration.of("TLSContext", "Host")}
    for other in others:
        findings = Findings(by_name[other.name])
        findings.fault(
            f"its certificate is not served: {kept[0].name} asks another thing of clients' certificates, and grpc in"
            " Python asks on a whole port or not at all; give them ports of their own with Listeners"
        )
        generations.report(findings)


def _note_hidden_names(
    speaking: Iterable[Host | ClosedNames], engine: str, configuration: _Configuration, generations: Generations
) -> None:
    """Of the ports of the command line; those of Listeners are told themselves."""
    by_name = {str(obj.key): obj for obj in configuration.of("TLSContext", "Host")}
    left_out = {policy.left_out for one in speaking for policy in one.policies if policy.left_out}
    selecting = {str(one.obj.key) for one in speaking if isinstance(one, Host) and one.policies[0].selectors}
    for names, cause in ((left_out, "is left out"), (selecting, "takes some Mappings alone (mappingSelector)")):
        for name in sorted(names & by_name.keys()):
            findings = Findings(by_name[name])
            findings.fault(
                f"no call is served: the {engine} engine does not know the :authority of calls, and this {cause}; run"
                " grpcgw with --engine completion-queue"
            )
            generations.report(findings)


def _make_snapshot(serving: Serving, groups: Groups, reader: MappingReader, settings: Snapshot) -> Snapshot:
    """`settings`: a snapshot with everything but what Mappings make."""
    tried = (reader.make_route(group, members) for group, members in groups.items())
    made = {id(one.route): one for one in tried if one is not None}
    routes = order_routes((one.route for one in made.values()), lambda route: made[id(route)].rank)
    clusters: dict[str, Cluster] = {}
    for key in serving:  # in the order of keys: the first Mapping names the resolver of a cluster it shares
        cluster = serving[key].cluster
        if cluster is not None and serving[key].candidates:
            clusters.setdefault(cluster.name, cluster)
    version = hash_content(
        [
            *(made[id(route)].digest for route in routes),
            *(reader.digest_cluster(clusters[name]) for name in sorted(clusters)),
            digest(settings),
        ]
    )
    return replace(settings, version=version, routes=routes, clusters=clusters)


def _note_unreached(snapshot: Snapshot, by_key: Mapping[ObjectKey, KubeObject], generations: Generations) -> None:
    """Mappings of which no call comes in, where nothing else says so."""
    reach = Reach(snapshot)
    reasons: dict[ObjectKey, set[str]] = {}
    for route in snapshot.routes:
        for destination in route.all_destinations():
            reasons.setdefault(destination.key, set()).add(reach.find_refusal(route, destination))
    for key, found in reasons.items():
        if found <= UNREACHED:
            findings = Findings(by_key[key])
            findings.notice(f"serves no call: {', '.join(sorted(found))}", "hostname")
            generations.report(findings)


def _without_secrets(problems: list[Problem], objects: Iterable[KubeObject]) -> list[Problem]:
    """The problems with what was filled in from the environment as it was written, also where two objects disagree."""
    filled = [one for obj in objects for _, one in obj.source.filled]
    if not filled:
        return problems
    return [replace(one, message=hide(one.message, filled), path=hide(one.path, filled)) for one in problems]


def _object_order(problem: Problem) -> tuple[str, str, str]:
    key = problem.object
    return (key.kind, key.namespace, key.name) if key else ("", "", "")
