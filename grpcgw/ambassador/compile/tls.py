"""Compiles TLSContexts: certificates for the gateway's ports, and TLS to pods.

What an engine cannot do is no error here: where it opens a port or connection, it refuses it
(`engines.generic_handler.grpc_limits`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from grpcgw.ambassador.compile.certificates import KeyPair
from grpcgw.ambassador.compile.closed import ClosedNames, close_context
from grpcgw.ambassador.compile.generations import LEFT_OUT, Generations
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.compile.tls_parameters import compile_alpn, compile_parameters
from grpcgw.ambassador.spec.certificate_paths import name_authorities_file, name_key_pair_files
from grpcgw.ambassador.spec.host_specs import TLSContextSpec, TlsSettings
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.secret_names import SecretNames, name_secrets_of_context
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ALPN_HTTP1, ALPN_HTTP2, ServerCertificate
from grpcgw.model.objects import KubeObject, ObjectKey
from grpcgw.model.tls_parameters import DEFAULT_PARAMETERS, TlsParameters

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HandshakeRules:
    """What a TLSContext or the `tls` of a Host says about handshakes with clients; fields as in ServerCertificate."""

    client_ca: bytes = b""
    client_optional: bool = False
    client_crl: bytes = b""
    parameters: TlsParameters = DEFAULT_PARAMETERS
    alpn: tuple[str, ...] = (ALPN_HTTP2, ALPN_HTTP1)


@dataclass(frozen=True, slots=True)
class TLSContext:
    key: ObjectKey
    hosts: tuple[str, ...]
    key_pair: KeyPair | None
    rules: HandshakeRules
    upstream: UpstreamTls


def compile_tls_contexts(
    objects: Iterable[KubeObject], secrets: Secrets, generations: Generations
) -> dict[ObjectKey, TLSContext | ClosedNames]:
    """Names that are closed because their TLSContext is left out."""

    def build(obj: KubeObject, findings: Findings) -> TLSContext | None:
        return _build(obj, secrets, findings)

    def compile_one(obj: KubeObject) -> TLSContext | ClosedNames:
        closed = close_context(obj)
        names = closed.describe()
        outcome = f"{LEFT_OUT}, and calls to {names} are refused" if names else LEFT_OUT
        return generations.serve(obj, build, outcome) or closed

    return {obj.key: compile_one(obj) for obj in objects}


def find_tls_context(contexts: Mapping[ObjectKey, T], name: str, namespace: str) -> T | None:
    """By name in the namespace, else in any: Ambassador's TLSContext names are global.

    One that is left out hides those of the same name elsewhere, which may require less of clients.
    """
    own = ObjectKey("TLSContext", namespace, name)
    return contexts.get(own if own in contexts else next((key for key in contexts if key.name == name), own))


def _build(obj: KubeObject, secrets: Secrets, findings: Findings) -> TLSContext | None:
    spec = parse_spec(obj, TLSContextSpec, findings)
    if spec is None:
        return None
    named = name_secrets_of_context(spec, obj.key.namespace)
    files = name_key_pair_files(spec)
    if spec.hosts and not (named.key_pair or files):
        findings.error("is required with hosts: name the Secret with the certificate, or set cert_chain_file", "secret")
    key_pair = secrets.find_key_pair(named.key_pair, findings, "secret")
    key_pair = key_pair or secrets.find_key_pair(files, findings, "cert_chain_file")
    rules = compile_handshake_rules(spec, named, secrets, findings)
    if spec.hosts:
        note_optional_client_certificates(spec, findings)
    return TLSContext(
        key=obj.key,
        hosts=tuple(spec.hosts or ()),
        key_pair=key_pair,
        rules=rules,
        upstream=UpstreamTls(
            name=f"{obj.key.name}.{obj.key.namespace}",
            server_name=(spec.sni or "").removesuffix("."),
            ca=rules.client_ca,
            certificate_chain=key_pair.chain if key_pair else b"",
            private_key=key_pair.private_key if key_pair else b"",
            not_after_s=key_pair.expires_at.timestamp() if key_pair else 0.0,
            crl=rules.client_crl,
            parameters=rules.parameters,
        ),
    )


def compile_handshake_rules(
    spec: TlsSettings, named: SecretNames, secrets: Secrets, findings: Findings, *path: str
) -> HandshakeRules:
    """Errors are in `findings`."""
    ca = _find_ca(spec, named.authorities, secrets, findings, *path)
    return HandshakeRules(
        client_ca=ca,
        client_optional=bool(ca) and not spec.cert_required,
        client_crl=_find_crl(spec, ca, named.revocations, secrets, findings, *path),
        parameters=compile_parameters(spec, findings, *path),
        alpn=compile_alpn(spec, findings, *path),
    )


def _find_ca(
    spec: TlsSettings, authorities: ObjectKey | None, secrets: Secrets, findings: Findings, *path: str
) -> bytes:
    """What `authorities`, the Secret of `ca_secret`, or else `cacert_chain_file` holds, as PEM; an error where clients
    cannot be checked without."""
    file = name_authorities_file(spec)
    if authorities is not None:
        if file is not None:
            findings.notice("has no effect beside ca_secret; leave one out", *path, "cacert_chain_file")
        return secrets.find_authorities(authorities, findings, *path, "ca_secret")
    if spec.cert_required and file is None:
        findings.error(
            "is required with cert_required: name the Secret with the authorities, or set cacert_chain_file",
            *path,
            "ca_secret",
        )
    return secrets.find_authorities(file, findings, *path, "cacert_chain_file")


def _find_crl(
    spec: TlsSettings, ca: bytes, revocations: ObjectKey | None, secrets: Secrets, findings: Findings, *path: str
) -> bytes:
    """The revocation lists, as PEM."""
    name = "crl_secret" if spec.crl_secret else "v3CRLSecret"
    if revocations is not None and not (ca or spec.ca_secret or spec.cacert_chain_file):
        findings.error("has no meaning without the authorities; name their Secret in ca_secret", *path, name)
    return secrets.find_revocations(revocations, findings, *path, name)


def note_optional_client_certificates(spec: TlsSettings, findings: Findings, *path: str) -> None:
    name = "ca_secret" if spec.ca_secret else "cacert_chain_file"
    if (spec.ca_secret or spec.cacert_chain_file) and not spec.cert_required:
        findings.notice(
            "clients may show a certificate or none, as in Ambassador; only the http2 engine requests one, grpc in"
            f" Python cannot without requiring it; set cert_required or leave {name} out",
            *path,
            name,
        )


def certify(
    key: ObjectKey, hosts: tuple[str, ...], key_pair: KeyPair | None, rules: HandshakeRules
) -> ServerCertificate | None:
    if key_pair is None or not hosts:
        return None
    return ServerCertificate(
        name=str(key),
        hosts=hosts,
        certificate_chain=key_pair.chain,
        private_key=key_pair.private_key,
        client_ca=rules.client_ca,
        not_after_s=key_pair.expires_at.timestamp(),
        client_optional=rules.client_optional,
        client_crl=rules.client_crl,
        parameters=rules.parameters,
        alpn=rules.alpn,
    )


def order_certificates(certificates: Iterable[ServerCertificate]) -> tuple[ServerCertificate, ...]:
    """By name, those first that require a certificate of clients: the first counts where two have the same host, and
    for names without a certificate."""
    return tuple(sorted(certificates, key=lambda one: (not one.requires_client, one.name)))
