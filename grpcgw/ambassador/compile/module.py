"""Compiles the Module: settings of the whole gateway. If there are several, one is used.

If no version of it was ever valid, its valid keys hold: a key that Ambassador accepts and grpcgw does not know must not
disable `ip_allow`. If `ip_allow` or `ip_deny` itself cannot be read, no client is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial

from grpcgw.ambassador.compile.clients import compile_client_rules
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.mapping_settings import check_defaults, merge_defaults
from grpcgw.ambassador.compile.mappings import core_fields
from grpcgw.ambassador.spec.module_spec import ModuleConfig, ModuleSpec
from grpcgw.ambassador.spec.parse import API_VERSIONS, Findings, parse_spec, raw_spec
from grpcgw.model.clients import DEFAULT_CLIENT_RULES, ClientRules
from grpcgw.model.listener import DEFAULT_CLIENT_IDLE_TIMEOUT_MS
from grpcgw.model.log_format import InvalidLogFormat, LogFormat, parse_log_format
from grpcgw.model.objects import KubeObject, Severity
from grpcgw.model.route_source import CompileOptions


@dataclass(frozen=True, slots=True)
class CompiledModule:
    config: ModuleConfig
    defaults: Mapping[str, object]
    """Of Mappings' fields."""
    core: Mapping[str, object]
    """Fields in which the Mappings of a group must agree, if the Module sets them."""
    access_log: LogFormat | None = None
    clients: ClientRules = DEFAULT_CLIENT_RULES

    @property
    def client_idle_timeout_ms(self) -> int | None:
        """After which a client's connection without RPCs is closed; None: never."""
        given = self.config.listener_idle_timeout_ms
        return DEFAULT_CLIENT_IDLE_TIMEOUT_MS if given is None else given or None


_NAME = "ambassador"
TLS_MODULE = "tls"
"""Module of Ambassador 0.x in the place of TLSContexts."""
_ADMITTING = frozenset({"ip_allow", "ip_deny"})
"""Keys that restrict clients: without them everybody is served."""
_TELLING = frozenset({"use_remote_address", "xff_num_trusted_hops", "use_proxy_proto"})
"""Keys that decide which address is the client's, which `ip_allow` and `ip_deny` are compared with."""
_RESEMBLES = 0.7
"""Of `difflib`: `ip_alow`, `ipAllow` and `ip_allowed` resemble `ip_allow`, `enable_ipv4` does not."""

NO_MODULE = CompiledModule(ModuleConfig(), {}, {})


def compile_module(modules: Iterable[KubeObject], generations: Generations, options: CompileOptions) -> CompiledModule:
    """The Module of the gateway's own namespace, else the first by namespace; more than one is an error. While another
    refuses clients that the chosen one allows, no client is served.
    """
    hidden_by = options.first_bytes_hidden_by
    chosen: CompiledModule | None = None
    others: list[KubeObject] = []
    for obj in sorted(modules, key=lambda obj: obj.key.namespace != options.gateway_namespace):
        if chosen is not None or obj.key.name != _NAME:
            others.append(obj)
        else:
            earlier = generations.earlier.get(obj.key)
            was_whole = earlier is not None and _can_build(earlier, hidden_by)
            build = _build if was_whole else _build_readable
            chosen = generations.serve(obj, partial(build, first_bytes_hidden_by=hidden_by))
    module = chosen or NO_MODULE
    keep_out = [_leave_out(obj, module.clients, generations, hidden_by) for obj in others]
    return _serve_nobody(module) if any(keep_out) else module


def _leave_out(obj: KubeObject, chosen: ClientRules, generations: Generations, first_bytes_hidden_by: str) -> bool:
    """Whether it refuses clients that `chosen` allows."""
    reason = "another Module is in use, and only one is read"
    if obj.key.name != _NAME:
        instead = "write a TLSContext instead" if obj.key.name == TLS_MODULE else "no other is read"
        reason = f"the Module should be named {_NAME}; {instead}"
    meant = replace(obj, key=obj.key._replace(name=_NAME))
    module = None if obj.key.name == TLS_MODULE else _build_readable(meant, Findings(meant), first_bytes_hidden_by)
    asks_more = module is not None and not _admits_as(chosen, module.clients)
    outcome = "; no client is served until only one is left, because this one restricts clients" if asks_more else ""
    generations.leave_out(obj, f"{reason}{outcome}")
    return asks_more


def _admits_as(chosen: ClientRules, other: ClientRules) -> bool:
    """Whether `other` certainly refuses no client that `chosen` allows."""
    if other.proxy_protocol and not chosen.proxy_protocol:
        return False
    compared = [
        (one.allow, one.deny, one.use_remote_address, one.trusted_hops, one.proxy_protocol) for one in (chosen, other)
    ]
    return (other.allow, other.deny) == (None, ()) or compared[0] == compared[1]


def _serve_nobody(module: CompiledModule) -> CompiledModule:
    return replace(module, clients=replace(module.clients, allow=()))


def _build(obj: KubeObject, findings: Findings, first_bytes_hidden_by: str) -> CompiledModule | None:
    spec = parse_spec(obj, ModuleSpec, findings)
    if spec is None:
        return None
    config = spec.config or ModuleConfig()
    own = config.defaults.httpmapping if config.defaults is not None else None
    core = {**core_fields(config), **core_fields(own)}
    check_defaults(config, findings)
    clients = compile_client_rules(config, findings, first_bytes_hidden_by)
    module = CompiledModule(config, merge_defaults(config), core, _read_log_format(config, findings), clients)
    return None if findings.rejected else module


def _can_build(obj: KubeObject, first_bytes_hidden_by: str) -> bool:
    return _build(obj, Findings(obj), first_bytes_hidden_by) is not None


def _build_readable(obj: KubeObject, findings: Findings, first_bytes_hidden_by: str) -> CompiledModule | None:
    """As `_build`, but an error leaves out only its key of `config`; if that key restricts clients, no client is
    served.
    """
    whole = Findings(obj)
    module = _build(obj, whole, first_bytes_hidden_by)
    if module is not None:
        findings.problems += whole.problems
        findings.rejected = whole.rejected
        return module
    spec = raw_spec(obj)
    config = spec.get("config") if isinstance(spec, Mapping) else spec
    given = {str(key): value for key, value in config.items()} if isinstance(config, Mapping) else {}
    kept = {
        key: value for key, value in given.items() if _can_build(_with_config(obj, {key: value}), first_bytes_hidden_by)
    }
    astray = spec.keys() - ModuleSpec.model_fields.keys() if isinstance(spec, Mapping) else set()
    written = {*given, *map(str, astray)}  # also next to `config`, where they have no effect
    nobody = _keeps_out(written, kept.keys()) or not isinstance(config, Mapping | None)
    module = _build(_with_config(obj, kept), findings, first_bytes_hidden_by) or NO_MODULE
    outcome = "no client is served until it is corrected" if nobody else "the rest of the Module holds"
    findings.problems += [
        replace(problem, message=f"{problem.message}; {outcome}")
        for problem in whole.problems
        if problem.severity is Severity.ERROR and problem not in findings.problems
    ]
    return _serve_nobody(module) if nobody else module


def _keeps_out(given: Set[str], kept: Set[str]) -> bool:
    """Whether it is unclear which clients the keys refuse."""
    lost = [key.lower() for key in given - kept]
    if any(get_close_matches(key, _ADMITTING, cutoff=_RESEMBLES) for key in lost):
        return True
    return not _ADMITTING.isdisjoint(given) and any(get_close_matches(key, _TELLING, cutoff=_RESEMBLES) for key in lost)


def _with_config(obj: KubeObject, config: Mapping[str, object]) -> KubeObject:
    """The Module with this `config` only."""
    changed = {"spec": {"config": config}} if "spec" in obj.body else {"config": config}
    return replace(obj, api_version=f"getambassador.io/{API_VERSIONS[-1]}", body=changed)


def _read_log_format(config: ModuleConfig, findings: Findings) -> LogFormat | None:
    if config.envoy_log_type is None and config.envoy_log_format is None:
        return None
    try:
        log_format = parse_log_format(config.envoy_log_type, config.envoy_log_format)
    except InvalidLogFormat as error:
        findings.fault(f"{error}; the access log uses grpcgw's own format instead", "config")
        return None
    if unserved := log_format.unserved():
        findings.notice(f"in the access log {', '.join(unserved)}", "config", "envoy_log_format")
    return log_format
