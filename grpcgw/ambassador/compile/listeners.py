"""Compiles Listeners: ports, with the Hosts and certificates bound to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.closed import ClosedNames
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.hosts import CompiledHost, order_policies
from grpcgw.ambassador.compile.tls import agree, close_disagreeing
from grpcgw.ambassador.spec.host_specs import ListenerSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec, raw_spec
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport, should_open
from grpcgw.model.objects import KubeObject

_TRANSPORTS = {
    ("HTTP",): Transport.CLEAR,
    ("HTTP", "TCP"): Transport.CLEAR,
    ("HTTPS",): Transport.TLS,
    ("TLS", "HTTP", "TCP"): Transport.TLS,
}
"""By `protocol` or `protocolStack`."""


_NO_HTTP = ("TCP", "TLS", "UDP")

_ONE_OF_BOTH = "grpc in Python speaks TLS or clear text on one port, not both"

_TAKES_BOTH = frozenset({("HTTPS",)})
"""Ambassador's `HTTPS` is TLS, and clear text where there is none."""


@dataclass(frozen=True, slots=True)
class Bindable:
    """Objects bound to Listeners."""

    hosts: Sequence[CompiledHost]
    by_contexts: Sequence[ServerCertificate]
    """The certificates of TLSContexts, which belong to every port."""
    closed: Sequence[ClosedNames]
    """The names of TLSContexts that are left out, on every port."""


@dataclass(frozen=True, slots=True)
class _Unbound:
    """A Listener before its Hosts are known."""

    listener: Listener
    takes_both: bool
    namespace: str
    """Hosts of this namespace are bound; empty: of all."""
    labels: frozenset[tuple[str, str]]

    def binds(self, host: CompiledHost) -> bool:
        if self.namespace not in ("", host.obj.key.namespace):
            return False
        return host.labels is None or self.labels <= set(host.labels)


@dataclass(frozen=True, slots=True)
class _Bound:
    listener: Listener
    takes_both: bool
    hosts: Sequence[CompiledHost]
    obj: KubeObject


def compile_listeners(
    objects: Sequence[KubeObject], bindable: Bindable, generations: Generations, authority_hidden_by: str = ""
) -> tuple[Listener, ...] | None:
    """In the order of their ports; None if there are no Listeners, valid or not.

    `authority_hidden_by` is as in CompileOptions.
    """
    if not objects:
        return None
    found: dict[int, _Bound] = {}
    owners: dict[object, KubeObject] = {}
    for obj in objects:
        if _is_for_others(obj):
            _note_others(obj, generations)
            continue
        unbound = generations.serve(obj, _build)
        port = _written_port(obj) if unbound is None else unbound.listener.port
        owner = owners.setdefault(port, obj)
        if unbound is None:
            continue
        if owner is not obj:
            generations.leave_out(obj, f"port {port} is taken by {owner.key}")
            continue
        findings = Findings(obj)
        bound = _bind(unbound, obj, bindable, findings)
        if bound is not None:
            found[unbound.listener.port] = bound
            if authority_hidden_by:
                _note_hidden_authority(bound.listener, authority_hidden_by, findings)
        generations.report(findings)
    _report_clear_text(bindable.hosts, found.values(), generations)
    _note_makeshift_certificates(found.values(), generations)
    return tuple(found[port].listener for port in sorted(found))


def _is_for_others(obj: KubeObject) -> bool:
    """Whether it is a port for TCPMappings, which grpcgw does not support."""
    spec = raw_spec(obj)
    protocol, stack = (spec.get("protocol"), spec.get("protocolStack")) if isinstance(spec, Mapping) else (None, None)
    if isinstance(stack, list) and protocol is None:
        return bool(stack) and all(layer in _NO_HTTP for layer in stack)
    return protocol in _NO_HTTP and not stack


def _note_others(obj: KubeObject, generations: Generations) -> None:
    findings = Findings(obj)
    findings.notice("only gRPC is served: the port is not opened")
    generations.report(findings)


def _written_port(obj: KubeObject) -> object:
    """The port that a left-out Listener claims, so that no other Listener opens it; without a port, its key."""
    spec = raw_spec(obj)
    port = spec.get("port") if isinstance(spec, Mapping) else None
    return port if isinstance(port, int) else obj.key


def _build(obj: KubeObject, findings: Findings) -> _Unbound | None:
    spec = parse_spec(obj, ListenerSpec, findings)
    if spec is None:
        return None
    stack = (spec.protocol,) if spec.protocol is not None else tuple(spec.protocolStack or ())
    transport = _TRANSPORTS.get(stack)
    if transport is None:
        asked = ", ".join(map(str, stack))
        field = "protocol" if spec.protocol is not None else "protocolStack"
        findings.error(f"{asked} cannot carry gRPC; use HTTP or HTTPS", field)
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
        max_message_bytes=spec.maxMessageBytes,
        trusted_hops=spec.l7Depth or 0,
    )
    namespace = "" if anywhere else obj.key.namespace
    return _Unbound(listener, stack in _TAKES_BOTH, namespace, frozenset((labels or {}).items()))


def _bind(unbound: _Unbound, obj: KubeObject, bindable: Bindable, findings: Findings) -> _Bound | None:
    hosts = [host for host in bindable.hosts if unbound.binds(host)]
    if bindable.hosts and not hosts:
        findings.notice("binds no Host, so the port is not opened", "hostBinding")
        return None
    own = [host.certificate for host in hosts if host.certificate is not None]
    certificates, others = agree([*own, *bindable.by_contexts])
    closed = bindable.closed
    transport = _choose_transport(unbound, hosts, certificates)
    if transport is Transport.TLS:
        _report_disagreement(certificates, others, findings)
        closed = (*closed, *close_disagreeing(others))
    else:
        certificates = ()
    policies = order_policies(hosts, closed, others=bool(closed) and not hosts)
    if not should_open(transport, policies, certificates):
        out = ", ".join(sorted({policy.left_out for policy in policies if policy.left_out}))
        findings.fault(f"the port is not opened: {out} is left out, and the port serves nothing else")
        return None
    listener = replace(unbound.listener, transport=transport, hosts=policies, certificates=certificates)
    return _Bound(listener, unbound.takes_both, hosts, obj)


def _choose_transport(
    unbound: _Unbound, hosts: Sequence[CompiledHost], certificates: Sequence[ServerCertificate]
) -> Transport:
    """Clear text for a port that takes both, if none of its Hosts uses TLS."""
    if unbound.takes_both and hosts and not certificates and not any(host.asks_tls for host in hosts):
        return Transport.CLEAR
    return unbound.listener.transport


def _report_clear_text(hosts: Sequence[CompiledHost], ports: Iterable[_Bound], generations: Generations) -> None:
    """Report Hosts whose calls in clear text no port takes, though one of their ports is `HTTPS`."""
    bound = list(ports)
    for host in hosts:
        mine = [one for one in bound if host in one.hosts]
        both = [one.listener for one in mine if one.takes_both and one.listener.transport is Transport.TLS]
        wanted = host.asks_clear_text or not host.asks_tls
        if not wanted or not both or any(one.listener.transport is Transport.CLEAR for one in mine):
            continue
        names = ", ".join(listener.name for listener in both)
        text = (
            f"calls in clear text are not served by {names}: {_ONE_OF_BOTH};"
            " add a Listener with protocol HTTP on another port"
        )
        findings = Findings(host.obj)
        if host.asks_clear_text:
            findings.fault(text, "requestPolicy", "insecure", "action")
        else:
            findings.notice(text)
        generations.report(findings)


def _note_makeshift_certificates(ports: Iterable[_Bound], generations: Generations) -> None:
    """Without Hosts and TLSContexts Ambassador takes both, with a self-signed certificate."""
    for one in ports:
        if one.takes_both and not one.listener.certificates and one.listener.transport is Transport.TLS:
            findings = Findings(one.obj)
            findings.notice(
                f"there is no certificate, so a self-signed one is used; clear text is not served:"
                f" {_ONE_OF_BOTH}; use protocol HTTP where clients speak clear text"
            )
            generations.report(findings)


def _note_hidden_authority(listener: Listener, engine: str, findings: Findings) -> None:
    """Limits of a port whose engine does not know the called name (`routing.host_rules` has the rules)."""
    reason = f"the {engine} engine does not know the :authority of calls"
    left_out = next((policy.left_out for policy in listener.hosts if policy.left_out), "")
    if left_out:
        findings.fault(f"serves no call: {reason}, and {left_out} is left out: its calls look like all others")
    elif len({policy.selectors for policy in listener.hosts}) > 1:
        findings.fault(
            f"serves no call: {reason}, and its Hosts take different Mappings (mappingSelector); give them Listeners of"
            " their own, or run grpcgw with --engine completion-queue"
        )
    elif listener.hosts and listener.hosts[-1].host is not None:
        findings.fault(
            f"serves no call: {reason}, and none of its Hosts is for *; add such a Host, or run grpcgw with"
            " --engine completion-queue"
        )
    elif _takes_clear_text(listener) and len({policy.clear_text for policy in listener.hosts}) > 1:
        findings.notice(
            f"{reason}, and some of its Hosts refuse calls in clear text: they are refused for all names; give these"
            " Hosts a Listener of their own, or run grpcgw with --engine completion-queue"
        )


def _takes_clear_text(listener: Listener) -> bool:
    if listener.security_model is SecurityModel.XFP:
        return listener.transport is Transport.CLEAR
    return listener.security_model is SecurityModel.INSECURE


def _report_disagreement(
    kept: Sequence[ServerCertificate], others: Sequence[ServerCertificate], findings: Findings
) -> None:
    for other in others:
        findings.fault(
            f"{other.name} and {kept[0].name} have different client authorities, and grpc in Python requires client"
            " certificates"
            f" on a whole port or not at all; the certificate of {other.name} is not served here",
        )
