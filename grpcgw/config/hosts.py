"""What Hosts say: their certificates, which Mappings belong to them, and whether calls in clear text are served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from grpcgw.config.certificate_files import name_key_pair_files
from grpcgw.config.generations import Generations
from grpcgw.config.host_specs import HostSpec
from grpcgw.config.matching import parse_host_glob
from grpcgw.config.objects import KubeObject, ObjectKey
from grpcgw.config.parse import Findings, parse_spec, read_metadata
from grpcgw.config.policies import HostKind, HostMatch, HostPolicy
from grpcgw.config.secret_names import name_secrets_of_host
from grpcgw.config.secrets import Secrets
from grpcgw.config.snapshot import ServerCertificate
from grpcgw.config.tls import (
    TLSContext,
    certify,
    check_tls_settings,
    find_ca,
    find_tls_context,
    note_optional_client_certificates,
)

_SPECIFICITY = {HostKind.EXACT: 3, HostKind.SUFFIX: 2, HostKind.PREFIX: 1}


@dataclass(frozen=True, slots=True)
class HostSelector:
    """A Host that takes Mappings by their labels."""

    host: HostMatch | None
    labels: tuple[tuple[str, str], ...]
    """At least one; all must hold."""

    def selects(self, labels: Mapping[str, object]) -> bool:
        return all(labels.get(name) == value for name, value in self.labels)


@dataclass(frozen=True, slots=True)
class Host:
    """A Host with all it says."""

    key: ObjectKey
    labels: tuple[tuple[str, str], ...]
    """Its own, by which a Listener selects it."""
    match: HostMatch | None
    policy: HostPolicy
    selector: HostSelector | None
    certificate: ServerCertificate | None


def compile_hosts(
    objects: Iterable[KubeObject],
    contexts: Mapping[ObjectKey, TLSContext],
    secrets: Secrets,
    generations: Generations,
) -> tuple[Host, ...]:
    def build(obj: KubeObject, findings: Findings) -> Host | None:
        return _build(obj, contexts, secrets, findings)

    built = [generations.serve(obj, build) for obj in objects]
    return tuple(host for host in built if host is not None)


def _build(
    obj: KubeObject, contexts: Mapping[ObjectKey, TLSContext], secrets: Secrets, findings: Findings
) -> Host | None:
    spec = parse_spec(obj, HostSpec, findings)
    if spec is None:
        return None
    match = parse_host_glob(spec.hostname, findings, "hostname") if spec.hostname else None
    labels = sorted((name, str(value)) for name, value in read_metadata(obj, "labels").items())
    return Host(
        key=obj.key,
        labels=tuple(labels),
        match=match,
        policy=_compile_policy(spec, match, findings),
        selector=_compile_selector(spec, match),
        certificate=_compile_certificate(obj.key, spec, contexts, secrets, findings),
    )


def _compile_certificate(
    key: ObjectKey,
    spec: HostSpec,
    contexts: Mapping[ObjectKey, TLSContext],
    secrets: Secrets,
    findings: Findings,
) -> ServerCertificate | None:
    named = name_secrets_of_host(spec, key.namespace)
    key_pair = secrets.find_key_pair(named.key_pair, findings, "tlsSecret", "name")
    client_ca = b""
    if spec.tlsContext is not None:
        context = find_tls_context(contexts, spec.tlsContext.name, key.namespace)
        if context is None:
            findings.error(f"TLSContext {spec.tlsContext.name} is unknown or left out", "tlsContext", "name")
        else:
            key_pair, client_ca = key_pair or context.key_pair, context.client_ca
    elif spec.tls is not None:
        check_tls_settings(spec.tls, findings, "tls")
        note_optional_client_certificates(spec.tls, findings, "tls")
        files = name_key_pair_files(spec.tls)
        key_pair = key_pair or secrets.find_key_pair(files, findings, "tls", "cert_chain_file")
        ca = find_ca(spec.tls, named.authorities, secrets, findings, "tls")
        client_ca = ca if spec.tls.cert_required else b""
    return certify(key, (spec.hostname or "*",), key_pair, client_ca)


def _compile_selector(spec: HostSpec, host: HostMatch | None) -> HostSelector | None:
    selector = spec.mappingSelector or spec.selector
    if selector is None or not selector.matchLabels:
        return None
    return HostSelector(host, tuple(sorted(selector.matchLabels.items())))


def _compile_policy(spec: HostSpec, host: HostMatch | None, findings: Findings) -> HostPolicy:
    insecure = spec.requestPolicy.insecure if spec.requestPolicy is not None else None
    action = insecure.action if insecure is not None else None
    if action == "Redirect":
        findings.notice(
            "gRPC clients follow no redirect: calls in clear text are refused", "requestPolicy", "insecure", "action"
        )
    return HostPolicy(host, clear_text=action in (None, "Route"))


def order_policies(policies: Iterable[HostPolicy]) -> tuple[HostPolicy, ...]:
    """One of each host: exact names first, then the longest globs, `*` last, as Envoy finds its virtual hosts.

    Where two Hosts speak of the same name, clear text is served only if both agree.
    """
    strictest: dict[HostMatch | None, HostPolicy] = {}
    for policy in policies:
        known = strictest.get(policy.host)
        if known is None or known.clear_text:
            strictest[policy.host] = policy
    return tuple(sorted(strictest.values(), key=_policy_order, reverse=True))


def _policy_order(policy: HostPolicy) -> tuple[int, int, str]:
    if policy.host is None:
        return (0, 0, "")
    return (_SPECIFICITY[policy.host.kind], len(policy.host.value), policy.host.value)
