"""Compiles TLSContexts, Hosts and Listeners together: certificates, host policies and the ports they are bound to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.ambassador.compile.closed import ClosedNames, close_everything, close_tls_module
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.hosts import CompiledHost, compile_hosts, order_policies
from grpcgw.ambassador.compile.listeners import Bindable, compile_listeners
from grpcgw.ambassador.compile.module import TLS_MODULE
from grpcgw.ambassador.compile.objects_by_kind import ObjectsByKind
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls import TLSContext, certify, compile_tls_contexts, order_certificates
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.host_policy import HostPolicy
from grpcgw.model.listener import Listener, ServerCertificate
from grpcgw.model.objects import ObjectKey
from grpcgw.model.route_source import CompileOptions


@dataclass(frozen=True, slots=True)
class CompiledPorts:
    """What TLSContexts, Hosts and Listeners compile to."""

    contexts: Mapping[ObjectKey, TLSContext | ClosedNames]
    hosts: tuple[CompiledHost, ...]
    listeners: tuple[Listener, ...] | None
    """None: there are no Listener objects."""
    certificates: tuple[ServerCertificate, ...]
    """For the TLS port of the command line."""
    policies: tuple[HostPolicy, ...]
    """Of all Hosts, for the ports of the command line."""


def compile_ports(
    configuration: ObjectsByKind, secrets: Secrets, generations: Generations, options: CompileOptions
) -> CompiledPorts:
    contexts = compile_tls_contexts(configuration.of("TLSContext"), secrets, generations)
    hosts = compile_hosts(configuration.of("Host"), contexts, secrets, generations)
    serving = (one for one in contexts.values() if isinstance(one, TLSContext))
    certified = (certify(one.key, one.hosts, one.key_pair, one.rules) for one in serving)
    by_contexts = [certificate for certificate in certified if certificate is not None]
    closed = [one for one in contexts.values() if isinstance(one, ClosedNames)]
    closed += [close_everything()] if configuration.has_unreadable_file else []
    closed += filter(None, (close_tls_module(obj) for obj in configuration.modules() if obj.key.name == TLS_MODULE))
    bindable = Bindable(hosts, by_contexts, closed)
    listeners = compile_listeners(configuration.of("Listener"), bindable, generations, options)
    certificates = [*by_contexts, *(host.certificate for host in hosts if host.certificate is not None)]
    if listeners is None and options.authority_hidden_by:
        _note_hidden_names([*hosts, *closed], options.authority_hidden_by, configuration, generations)
    policies = order_policies(hosts, closed)
    return CompiledPorts(contexts, hosts, listeners, order_certificates(certificates), policies)


def _note_hidden_names(
    speaking: Iterable[CompiledHost | ClosedNames], engine: str, configuration: ObjectsByKind, generations: Generations
) -> None:
    """For the ports of the command line; Listeners have problems of their own."""
    by_name = {str(obj.key): obj for obj in configuration.of("TLSContext", "Host")}
    left_out = {policy.left_out for one in speaking for policy in one.policies if policy.left_out}
    selecting = {str(one.obj.key) for one in speaking if isinstance(one, CompiledHost) and one.policies[0].selectors}
    for names, cause in ((left_out, "is left out"), (selecting, "selects some Mappings only (mappingSelector)")):
        for name in sorted(names & by_name.keys()):
            findings = Findings(by_name[name])
            findings.fault(
                f"no call is served: the {engine} engine does not know the :authority of calls, and this {cause}; run"
                " grpcgw with --engine http2"
            )
            generations.report(findings)
