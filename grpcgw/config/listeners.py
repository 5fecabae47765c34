"""Listeners: the ports they ask for, and the Hosts and certificates bound to each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from grpcgw.config.generations import Generations
from grpcgw.config.host_specs import ListenerSpec
from grpcgw.config.hosts import Host, order_policies
from grpcgw.config.objects import KubeObject
from grpcgw.config.parse import Findings, parse_spec
from grpcgw.config.snapshot import Listener, SecurityModel, ServerCertificate, Transport
from grpcgw.config.tls import agree

_TRANSPORTS = {
    ("HTTP",): Transport.CLEAR,
    ("HTTP", "TCP"): Transport.CLEAR,
    ("HTTPS",): Transport.TLS,
    ("TLS", "HTTP", "TCP"): Transport.TLS,
}
"""By `protocol` or `protocolStack`."""


@dataclass(frozen=True, slots=True)
class _Unbound:
    """A Listener before its Hosts are known."""

    listener: Listener
    namespace: str
    """Hosts of this namespace are bound; empty: of all."""
    labels: frozenset[tuple[str, str]]


def compile_listeners(
    objects: Sequence[KubeObject],
    hosts: Sequence[Host],
    by_contexts: Sequence[ServerCertificate],
    generations: Generations,
    authority_hidden_by: str = "",
) -> tuple[Listener, ...] | None:
    """In the order of their ports; None where there are no Listeners, be they good or bad.

    `by_contexts` are the certificates of TLSContexts, which belong to every port. `authority_hidden_by` is as in
    CompileOptions.
    """
    if not objects:
        return None
    found: dict[int, Listener] = {}
    for obj in objects:
        unbound = generations.serve(obj, _build)
        if unbound is None:
            continue
        port = unbound.listener.port
        if port in found:
            generations.leave_out(obj, f"port {port} is taken by {found[port].name}")
            continue
        listener = _bind(unbound, obj, hosts, by_contexts, generations)
        if listener is not None:
            found[port] = listener
            if authority_hidden_by:
                generations.report(_note_hidden_authority(listener, obj, authority_hidden_by))
    return tuple(found[port] for port in sorted(found))


def _build(obj: KubeObject, findings: Findings) -> _Unbound | None:
    spec = parse_spec(obj, ListenerSpec, findings)
    if spec is None:
        return None
    stack = (spec.protocol,) if spec.protocol is not None else tuple(spec.protocolStack or ())
    transport = _TRANSPORTS.get(stack)
    if transport is None:
        asked = ", ".join(map(str, stack))
        field = "protocol" if spec.protocol is not None else "protocolStack"
        findings.error(f"{asked} carries no gRPC that grpcgw could serve; use HTTP or HTTPS", field)
        return None
    binding = spec.hostBinding
    anywhere = binding is not None and binding.namespace is not None and binding.namespace.from_ == "ALL"
    labels = binding.selector.matchLabels if binding is not None and binding.selector is not None else None
    listener = Listener(
        name=str(obj.key),
        port=spec.port,
        transport=transport,
        security_model=SecurityModel(spec.securityModel),
        max_concurrent_streams=spec.http2MaxConcurrentStreams,
        trusted_hops=spec.l7Depth or 0,
    )
    return _Unbound(listener, "" if anywhere else obj.key.namespace, frozenset((labels or {}).items()))


def _bind(
    unbound: _Unbound,
    obj: KubeObject,
    hosts: Sequence[Host],
    by_contexts: Sequence[ServerCertificate],
    generations: Generations,
) -> Listener | None:
    bound = [
        host for host in hosts if unbound.namespace in ("", host.key.namespace) and unbound.labels <= set(host.labels)
    ]
    findings = Findings(obj)
    listener: Listener | None = None
    if hosts and not bound:
        findings.notice("binds none of the Hosts there are, so the port is not opened", "hostBinding")
    else:
        certificates = [host.certificate for host in bound if host.certificate is not None]
        kept, others = agree([*certificates, *by_contexts])
        if unbound.listener.transport is Transport.TLS:
            _report_disagreement(kept, others, findings)
        else:
            kept = ()
        policies = order_policies(host.policy for host in bound)
        listener = replace(unbound.listener, hosts=policies, certificates=kept)
    generations.report(findings)
    return listener


def _note_hidden_authority(listener: Listener, obj: KubeObject, engine: str) -> Findings:
    """What a port cannot do whose engine does not know which name is called (`policy.hosts` has the rules)."""
    findings = Findings(obj)
    reason = f"the {engine} engine does not know the :authority of calls"
    if listener.hosts and listener.hosts[-1].host is not None:
        findings.fault(
            f"serves no call: {reason}, and none of its Hosts is for *; add such a Host, or run grpcgw with"
            " --engine completion-queue"
        )
    elif _takes_clear_text(listener) and len({policy.clear_text for policy in listener.hosts}) > 1:
        findings.notice(
            f"{reason}, and some of its Hosts refuse calls in clear text: they are refused for all names; give these"
            " Hosts a Listener of their own, or run grpcgw with --engine completion-queue"
        )
    return findings


def _takes_clear_text(listener: Listener) -> bool:
    if listener.security_model is SecurityModel.XFP:
        return listener.transport is Transport.CLEAR
    return listener.security_model is SecurityModel.INSECURE


def _report_disagreement(
    kept: Sequence[ServerCertificate], others: Sequence[ServerCertificate], findings: Findings
) -> None:
    for other in others:
        findings.fault(
            f"{other.name} and {kept[0].name} ask different things of clients' certificates, and grpc in Python asks"
            f" on a whole port or not at all; the certificate of {other.name} is not served here",
        )
