"""Compiles Hosts: their certificates, the Mappings they select, and whether clear text is served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from grpcgw.ambassador.compile.closed import ClosedNames, close_host, read_labels
from grpcgw.ambassador.compile.generations import LEFT_OUT, Build, Generations
from grpcgw.ambassador.compile.matching import parse_host_glob
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls import (
    HandshakeRules,
    TLSContext,
    certify,
    compile_handshake_rules,
    find_tls_context,
    note_optional_client_certificates,
)
from grpcgw.ambassador.spec.certificate_paths import name_key_pair_files
from grpcgw.ambassador.spec.host_specs import HostSpec
from grpcgw.ambassador.spec.parse import Findings, parse_spec, raw_spec
from grpcgw.ambassador.spec.secret_names import name_secrets_of_host
from grpcgw.model.host_policy import HostPolicy, Labels, Selectors
from grpcgw.model.listener import ServerCertificate
from grpcgw.model.match import HostKind, HostMatch
from grpcgw.model.objects import KubeObject, ObjectKey

_SPECIFICITY = {HostKind.EXACT: 3, HostKind.SUFFIX: 2, HostKind.PREFIX: 1}


@dataclass(frozen=True, slots=True)
class HostSelector:
    """A Host's mappingSelector."""

    host: HostMatch | None
    labels: Labels
    """All must hold; none: they cannot be read, and any Mapping with labels may be meant."""

    def selects(self, labels: Mapping[str, object]) -> bool:
        return bool(labels) and all(labels.get(name) == value for name, value in self.labels)


def find_selectors(selectors: Iterable[HostSelector], labels: Mapping[str, object]) -> Selectors:
    """The selectors that match a Mapping with these labels, each once."""
    return tuple(sorted({one.labels for one in selectors if one.labels and one.selects(labels)}))


@dataclass(frozen=True, slots=True)
class CompiledHost:
    """A Host, or the names that are refused because it is left out."""

    obj: KubeObject
    labels: Labels | None
    """Its own, by which a Listener selects it; None: they cannot be read, and may be any."""
    policies: tuple[HostPolicy, ...]
    """A Host that serves has exactly one."""
    selector: HostSelector | None = None
    certificate: ServerCertificate | None = None
    every_name: bool = False
    """It is left out, and may be for any name."""
    asks_tls: bool = True
    """It names a certificate, or may name one if it is left out."""
    asks_clear_text: bool = False
    """It has `action: Route`: calls in clear text are served."""


Contexts = Mapping[ObjectKey, TLSContext | ClosedNames]


def compile_hosts(
    objects: Iterable[KubeObject], contexts: Contexts, secrets: Secrets, generations: Generations
) -> tuple[CompiledHost, ...]:
    """Including those that are left out, which serve no calls."""

    def build(obj: KubeObject, findings: Findings) -> CompiledHost | None:
        return _build(obj, contexts, secrets, findings)

    return tuple(_compile(obj, build, generations) for obj in objects)


def _compile(obj: KubeObject, build: Build[CompiledHost], generations: Generations) -> CompiledHost:
    closed = close_host(obj)
    host = generations.serve(obj, build, f"{LEFT_OUT}, and calls to {closed.describe()} are refused")
    if host is not None:
        return host
    return CompiledHost(
        obj, read_labels(obj), closed.policies, _guess_selector(obj, closed), every_name=closed.every_name
    )


def _build(obj: KubeObject, contexts: Contexts, secrets: Secrets, findings: Findings) -> CompiledHost | None:
    spec = parse_spec(obj, HostSpec, findings)
    if spec is None:
        return None
    match = parse_host_glob(spec.hostname, findings, "hostname") if spec.hostname else None
    labels = read_labels(obj)
    if labels is None:
        findings.error("metadata.labels should be an object: Listeners select Hosts by them")
    certificate = _compile_certificate(obj.key, spec, contexts, secrets, findings)
    selector = _compile_selector(spec, match)
    asks_clients = certificate is not None and certificate.requires_client
    return CompiledHost(
        obj=obj,
        labels=labels,
        policies=(
            replace(
                _compile_policy(spec, match, asks_clients, findings),
                selectors=() if selector is None else (selector.labels,),
            ),
        ),
        selector=selector,
        certificate=certificate,
        asks_tls=bool(spec.tlsSecret or spec.tls or spec.tlsContext) or _asks_for_certificate(spec.acmeProvider),
        asks_clear_text=_insecure_action(spec) == "Route",
    )


def _compile_certificate(
    key: ObjectKey,
    spec: HostSpec,
    contexts: Contexts,
    secrets: Secrets,
    findings: Findings,
) -> ServerCertificate | None:
    named = name_secrets_of_host(spec, key.namespace)
    key_pair = secrets.find_key_pair(named.key_pair, findings, "tlsSecret", "name")
    rules = HandshakeRules()
    context_name = _name_context(key, spec, contexts)
    if context_name:
        context = find_tls_context(contexts, context_name, key.namespace)
        if not isinstance(context, TLSContext):
            findings.error(f"TLSContext {context_name} is unknown or left out", "tlsContext", "name")
        else:
            key_pair, rules = key_pair or context.key_pair, context.rules
    elif spec.tls is not None:
        note_optional_client_certificates(spec.tls, findings, "tls")
        files = name_key_pair_files(spec.tls)
        key_pair = key_pair or secrets.find_key_pair(files, findings, "tls", "cert_chain_file")
        rules = compile_handshake_rules(spec.tls, named, secrets, findings, "tls")
    if rules.client_ca and not rules.client_optional and key_pair is None:
        findings.error("is required if clients must show a certificate: name the Secret with its own", "tlsSecret")
    return certify(key, (spec.hostname or "*",), key_pair, rules)


def _name_context(key: ObjectKey, spec: HostSpec, contexts: Contexts) -> str:
    """The TLSContext that a Host names or, as in Ambassador, that is named after it; empty: there is none."""
    if spec.tlsContext is not None:
        return spec.tlsContext.name
    implied = f"{key.name}-context"
    is_implied = spec.tlsSecret is not None and spec.tls is None and any(one.name == implied for one in contexts)
    return implied if is_implied else ""


def _compile_selector(spec: HostSpec, host: HostMatch | None) -> HostSelector | None:
    given = (one.matchLabels for one in (spec.mappingSelector, spec.selector) if one is not None)
    labels = next(filter(None, given), None)
    return HostSelector(host, tuple(sorted(labels.items()))) if labels else None


def _guess_selector(obj: KubeObject, closed: ClosedNames) -> HostSelector | None:
    """For a Host that is left out: the Mappings that it selects must not serve other names instead."""
    spec = raw_spec(obj)
    given = (spec.get("mappingSelector") or spec.get("selector")) if isinstance(spec, Mapping) else None
    if not given or (isinstance(given, Mapping) and not any(given.values())):
        return None
    labels = given.get("matchLabels") if isinstance(given, Mapping) else None
    read = labels.items() if isinstance(labels, Mapping) else ()
    texts = sorted((name, value) for name, value in read if isinstance(name, str) and isinstance(value, str))
    return HostSelector(closed.policies[0].host, tuple(texts))


def _compile_policy(spec: HostSpec, host: HostMatch | None, asks_clients: bool, findings: Findings) -> HostPolicy:
    action = _insecure_action(spec)
    if action == "Redirect":
        findings.notice(
            "gRPC clients do not follow redirects: calls in clear text are refused",
            "requestPolicy",
            "insecure",
            "action",
        )
    # By default clear text is served, unless clients must present certificates: in clear text they cannot.
    return HostPolicy(host, clear_text=action == "Route" or (action is None and not asks_clients))


def _insecure_action(spec: HostSpec) -> str | None:
    insecure = spec.requestPolicy.insecure if spec.requestPolicy is not None else None
    return insecure.action if insecure is not None else None


def _asks_for_certificate(acme: Mapping[str, object] | None) -> bool:
    return acme is not None and acme.get("authority") != "none"


def order_policies(
    hosts: Iterable[CompiledHost], closed: Iterable[ClosedNames], others: bool = False
) -> tuple[HostPolicy, ...]:
    """One of each host: exact names first, then the longest globs, `*` last, as Envoy finds its virtual hosts.

    If two Hosts have the same name, the stricter counts, and Mappings selected by either serve it. `closed`: the names
    of TLSContexts that are left out. `others`: names without a Host are served too.
    """
    strictest: dict[HostMatch | None, HostPolicy] = {None: HostPolicy(None)} if others else {}
    speaking: list[CompiledHost | ClosedNames] = [*hosts, *closed]
    for one in speaking:
        if one.every_name:
            return one.policies
        for policy in one.policies:
            known = strictest.get(policy.host)
            strictest[policy.host] = policy if known is None else _join(known, policy)
    return tuple(sorted(strictest.values(), key=_policy_order, reverse=True))


def _join(one: HostPolicy, other: HostPolicy) -> HostPolicy:
    selecting = one.selectors and other.selectors
    return HostPolicy(
        one.host,
        clear_text=one.clear_text and other.clear_text,
        tls_alone=one.tls_alone or other.tls_alone,
        left_out=one.left_out or other.left_out,
        selectors=tuple(sorted({*one.selectors, *other.selectors})) if selecting else (),
    )


def _policy_order(policy: HostPolicy) -> tuple[int, int, str]:
    if policy.host is None:
        return (0, 0, "")
    return (_SPECIFICITY[policy.host.kind], len(policy.host.value), policy.host.value)
