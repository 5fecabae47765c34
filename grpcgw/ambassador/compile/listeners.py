"""Compiles Listeners: ports, with the Hosts and certificates bound to each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.closed import ClosedNames
from grpcgw.ambassador.compile.generations import Generations
from grpcgw.ambassador.compile.hosts import CompiledHost, order_policies
from grpcgw.ambassador.compile.tls import order_certificates
from grpcgw.ambassador.spec.host_specs import ListenerSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec, raw_spec
from grpcgw.model.listener import Listener, SecurityModel, ServerCertificate, Transport, should_open
from grpcgw.model.objects import KubeObject
from grpcgw.model.route_source import CompileOptions

_STACKS = {
    "HTTP": ("HTTP", "TCP"),
    "HTTPS": ("TLS", "HTTP", "TCP"),
    "HTTPPROXY": ("PROXY", "HTTP", "TCP"),
    "HTTPSPROXY": ("PROXY", "TLS", "HTTP", "TCP"),
}
"""The `protocolStack` that each `protocol` is short for. As in Ambassador, the order of layers has no meaning."""

_NO_HTTP = ("TCP", "TLS", "UDP")

_ONE_OF_BOTH = "grpc in Python speaks TLS or clear text on one port, not both"


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
    """Ambassador's TLS Listeners take clear text too: a connection that does not begin with TLS."""
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
    tls_alone: str
    """Why it takes no clear text, though Ambassador's Listener does; empty: it does, or no Host wants that."""
    hosts: Sequence[CompiledHost]
    obj: KubeObject


def compile_listeners(
    objects: Sequence[KubeObject], bindable: Bindable, generations: Generations, options: CompileOptions
) -> tuple[Listener, ...] | None:
    """In the order of their ports; None if there are no Listeners, valid or not."""
    if not objects:
        return None

    def build(obj: KubeObject, findings: Findings) -> _Unbound | None:
        return _build(obj, findings, options.first_bytes_hidden_by)

    found: dict[int, _Bound] = {}
    owners: dict[object, KubeObject] = {}
    for obj in objects:
        if _is_for_others(obj):
            _note_others(obj, generations)
            continue
        unbound = generations.serve(obj, build)
        port = _written_port(obj) if unbound is None else unbound.listener.port
        owner = owners.setdefault(port, obj)
        if unbound is None:
            continue
        if owner is not obj:
            generations.leave_out(obj, f"port {port} is taken by {owner.key}")
            continue
        findings = Findings(obj)
        bound = _bind(unbound, obj, bindable, findings, options.first_bytes_hidden_by)
        if bound is not None:
            found[unbound.listener.port] = bound
            if options.authority_hidden_by:
                _note_hidden_authority(bound.listener, options.authority_hidden_by, findings)
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


def _build(obj: KubeObject, findings: Findings, first_bytes_hidden_by: str) -> _Unbound | None:
    spec = parse_spec(obj, ListenerSpec, findings)
    if spec is None:
        return None
    layers = _find_layers(spec, findings, first_bytes_hidden_by)
    binding = spec.hostBinding
    anywhere = binding is not None and binding.namespace is not None and binding.namespace.from_ == "ALL"
    labels = binding.selector.matchLabels if binding is not None and binding.selector is not None else None
    listener = Listener(
        name=str(obj.key),
        port=spec.port,
        transport=Transport.TLS if "TLS" in layers else Transport.CLEAR,
        security_model=SecurityModel(spec.securityModel),
        max_concurrent_streams=spec.http2MaxConcurrentStreams,
        max_message_bytes=spec.maxMessageBytes,
        proxy_protocol="PROXY" in layers,
        trusted_hops=spec.l7Depth or 0,
    )
    # The generic-handler engine has always taken `protocolStack` with TLS for TLS alone, even where no Host uses TLS.
    takes_both = "TLS" in layers and (spec.protocol is not None or not first_bytes_hidden_by)
    namespace = "" if anywhere else obj.key.namespace
    return _Unbound(listener, takes_both, namespace, frozenset((labels or {}).items()))


def _find_layers(spec: ListenerSpec, findings: Findings, first_bytes_hidden_by: str) -> frozenset[str]:
    """Findings have an error where they cannot be served."""
    field, asked = (
        ("protocolStack", spec.protocolStack or []) if spec.protocol is None else ("protocol", [spec.protocol])
    )
    layers = frozenset(asked if spec.protocol is None else _STACKS.get(spec.protocol, (spec.protocol,)))
    if not {"HTTP", "TCP"} <= layers or "UDP" in layers:
        findings.error(f"{', '.join(asked)} cannot carry gRPC; use HTTP or HTTPS", field)
    elif "PROXY" in layers and first_bytes_hidden_by:
        findings.error(f"the {first_bytes_hidden_by} engine cannot read PROXY headers; use HTTP or HTTPS", field)
    return layers


def _bind(
    unbound: _Unbound, obj: KubeObject, bindable: Bindable, findings: Findings, first_bytes_hidden_by: str
) -> _Bound | None:
    hosts = [host for host in bindable.hosts if unbound.binds(host)]
    if bindable.hosts and not hosts:
        findings.notice("binds no Host, so the port is not opened", "hostBinding")
        return None
    own = [host.certificate for host in hosts if host.certificate is not None]
    certificates = order_certificates([*own, *bindable.by_contexts])
    closed = bindable.closed
    transport, tls_alone = _choose_transport(unbound, hosts, certificates, first_bytes_hidden_by)
    if not transport.takes_tls:
        certificates = ()
    served = [_refuse_unasked_clear_text(host) for host in hosts] if transport is Transport.BOTH else hosts
    policies = order_policies(served, closed, others=bool(closed) and not hosts)
    if not should_open(transport, policies, certificates):
        out = ", ".join(sorted({policy.left_out for policy in policies if policy.left_out}))
        findings.fault(f"the port is not opened: it would serve only what is left out ({out})")
        return None
    listener = replace(unbound.listener, transport=transport, hosts=policies, certificates=certificates)
    return _Bound(listener, tls_alone, hosts, obj)


def _choose_transport(
    unbound: _Unbound, hosts: Sequence[CompiledHost], certificates: Sequence[ServerCertificate], hidden_by: str
) -> tuple[Transport, str]:
    """The transport, and `_Bound.tls_alone`. A port that takes both is for clear text where none of its Hosts uses TLS,
    and for TLS where none wants clear text. `hidden_by` is `first_bytes_hidden_by`."""
    if not unbound.takes_both:
        return unbound.listener.transport, ""
    if hosts and not certificates and not any(host.asks_tls for host in hosts):
        return Transport.CLEAR, ""
    tls_alone = _why_tls_alone(unbound.listener, hosts, certificates, hidden_by)
    wanted = any(map(_wants_clear_text, hosts)) if hosts else not certificates
    return Transport.BOTH if wanted and not tls_alone else Transport.TLS, tls_alone


def _why_tls_alone(
    listener: Listener, hosts: Sequence[CompiledHost], certificates: Sequence[ServerCertificate], hidden_by: str
) -> str:
    """Where clear text could reach names that do not ask for it, a port takes none."""
    if hidden_by:
        return _ONE_OF_BOTH
    if listener.security_model is not SecurityModel.XFP:
        return f"its securityModel is {listener.security_model}, not XFP"
    of_hosts = {host.certificate for host in hosts}  # their policies refuse clear text
    asking = next((one.name for one in certificates if one.requires_client and one not in of_hosts), "")
    return f"{asking} requires client certificates, which clear text does not have" if asking else ""


def _wants_clear_text(host: CompiledHost) -> bool:
    return host.asks_clear_text or not host.asks_tls


def _refuse_unasked_clear_text(host: CompiledHost) -> CompiledHost:
    """Ambassador redirects clear text unless a Host says otherwise: a port that takes both serves it only where the
    Host asks for it or has no TLS."""
    if _wants_clear_text(host):
        return host
    asks_clients = host.certificate is not None and host.certificate.requires_client
    return replace(
        host,
        policies=tuple(replace(policy, clear_text=False, tls_alone=asks_clients) for policy in host.policies),
    )


def _report_clear_text(hosts: Sequence[CompiledHost], ports: Iterable[_Bound], generations: Generations) -> None:
    """Report Hosts whose calls in clear text no port takes, though one of their ports is `HTTPS`."""
    bound = list(ports)
    for host in hosts:
        mine = [one for one in bound if host in one.hosts]
        alone = [one for one in mine if one.tls_alone]
        taken = any(one.listener.transport.takes_clear_text for one in mine)
        if taken or not alone or not _wants_clear_text(host):
            continue
        names = ", ".join(one.listener.name for one in alone)
        text = (
            f"calls in clear text are not served by {names}: {alone[0].tls_alone};"
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
        if one.tls_alone and not one.listener.certificates:
            findings = Findings(one.obj)
            findings.notice(
                f"there is no certificate, so a self-signed one is used; clear text is not served:"
                f" {one.tls_alone}; use protocol HTTP where clients speak clear text"
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
            " their own, or run grpcgw with --engine http2"
        )
    elif listener.hosts and listener.hosts[-1].host is not None:
        findings.fault(
            f"serves no call: {reason}, and none of its Hosts is for *; add such a Host, or run grpcgw with"
            " --engine http2"
        )
    elif _takes_clear_text(listener) and len({policy.clear_text for policy in listener.hosts}) > 1:
        findings.notice(
            f"{reason}, and some of its Hosts refuse calls in clear text: they are refused for all names; give these"
            " Hosts a Listener of their own, or run grpcgw with --engine http2"
        )


def _takes_clear_text(listener: Listener) -> bool:
    if listener.security_model is SecurityModel.XFP:
        return listener.transport.takes_clear_text
    return listener.security_model is SecurityModel.INSECURE
