"""Compiles TLSContexts: certificates for the gateway's ports, and TLS to pods.

Settings that grpc in Python cannot apply are errors of the object that has them. Tested with grpcio 1.85: TLS 1.2 and
1.3 are always on; ciphers and curves are core's own; client certificates are required on a whole port or not requested;
certificates are chosen by SNI, by the names in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from grpcgw.ambassador.compile.certificates import KeyPair
from grpcgw.ambassador.compile.closed import ClosedNames, close_context, close_names
from grpcgw.ambassador.compile.generations import LEFT_OUT, Generations
from grpcgw.ambassador.compile.secrets import Secrets
from grpcgw.ambassador.spec.certificate_paths import name_authorities_file, name_key_pair_files
from grpcgw.ambassador.spec.host_specs import TLSContextSpec, TlsSettings
from grpcgw.ambassador.spec.parse import Findings, parse_spec
from grpcgw.ambassador.spec.secret_names import name_secrets_of_context
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.listener import ServerCertificate
from grpcgw.model.objects import KubeObject, ObjectKey

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TLSContext:
    key: ObjectKey
    hosts: tuple[str, ...]
    key_pair: KeyPair | None
    client_ca: bytes
    """PEM of the authorities of client certificates; empty: none is requested."""
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
    check_tls_settings(spec, findings)
    named = name_secrets_of_context(spec, obj.key.namespace)
    files = name_key_pair_files(spec)
    if spec.hosts and not (named.key_pair or files):
        findings.error("is required with hosts: name the Secret with the certificate, or set cert_chain_file", "secret")
    key_pair = secrets.find_key_pair(named.key_pair, findings, "secret")
    key_pair = key_pair or secrets.find_key_pair(files, findings, "cert_chain_file")
    ca = find_ca(spec, named.authorities, secrets, findings)
    if spec.hosts:
        note_optional_client_certificates(spec, findings)
    return TLSContext(
        key=obj.key,
        hosts=tuple(spec.hosts or ()),
        key_pair=key_pair,
        client_ca=ca if spec.cert_required else b"",
        upstream=UpstreamTls(
            name=f"{obj.key.name}.{obj.key.namespace}",
            server_name=spec.sni or "",
            ca=ca,
            certificate_chain=key_pair.chain if key_pair else b"",
            private_key=key_pair.private_key if key_pair else b"",
            not_after_s=key_pair.expires_at.timestamp() if key_pair else 0.0,
        ),
    )


def check_tls_settings(spec: TlsSettings, findings: Findings, *path: str) -> None:
    """Report settings that grpc in Python cannot apply."""
    offered = [protocol.strip() for protocol in (spec.alpn_protocols or "h2").split(",")]
    if "h2" not in offered:
        findings.error(f"{spec.alpn_protocols!r} should contain h2, which gRPC needs", *path, "alpn_protocols")
    elif len(offered) > 1:
        others = ", ".join(protocol for protocol in offered if protocol != "h2")
        findings.notice(f"only h2 is offered: gRPC does not use {others}", *path, "alpn_protocols")
    if spec.min_tls_version == "v1.3":
        findings.error("grpc in Python always speaks TLS 1.2 as well; set v1.2", *path, "min_tls_version")
    elif spec.min_tls_version in ("v1.0", "v1.1"):
        findings.notice("has no effect: grpc speaks no version below TLS 1.2", *path, "min_tls_version")
    if spec.max_tls_version not in (None, "v1.3"):
        findings.error("grpc in Python always speaks TLS 1.3 as well; leave it out", *path, "max_tls_version")
    if spec.cipher_suites:
        findings.error(
            "grpc in Python has no ciphers per port; leave it out and set GRPC_SSL_CIPHER_SUITES in the"
            " gateway's environment (TLS 1.2, for the whole process)",
            *path,
            "cipher_suites",
        )
    if spec.ecdh_curves:
        findings.error("grpc in Python has no setting for curves; leave it out", *path, "ecdh_curves")
    if spec.crl_secret or spec.v3CRLSecret:
        findings.error(
            "grpc in Python reads no revocation lists, so it would accept revoked certificates; leave it out",
            *path,
            "crl_secret" if spec.crl_secret else "v3CRLSecret",
        )


def find_ca(
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


def note_optional_client_certificates(spec: TlsSettings, findings: Findings, *path: str) -> None:
    name = "ca_secret" if spec.ca_secret else "cacert_chain_file"
    if (spec.ca_secret or spec.cacert_chain_file) and not spec.cert_required:
        findings.notice(
            "client certificates are not requested, while Ambassador accepts both with and without: grpc in Python"
            f" cannot request them without requiring them; set cert_required or leave {name} out",
            *path,
            name,
        )


def certify(
    key: ObjectKey, hosts: tuple[str, ...], key_pair: KeyPair | None, client_ca: bytes
) -> ServerCertificate | None:
    if key_pair is None or not hosts:
        return None
    expires_at_s = key_pair.expires_at.timestamp()
    return ServerCertificate(str(key), hosts, key_pair.chain, key_pair.private_key, client_ca, expires_at_s)


def agree(
    certificates: Iterable[ServerCertificate],
) -> tuple[tuple[ServerCertificate, ...], tuple[ServerCertificate, ...]]:
    """Those that can share a port, in the order of their names, and those with other requirements on clients.

    grpc core requires client certificates on a whole port or not at all. A TLSContext that requires them takes
    precedence, so that no client connects without one; of several, the first by name.
    """
    ordered = sorted(certificates, key=lambda certificate: (not certificate.client_ca, certificate.name))
    kept = tuple(one for one in ordered if one.client_ca == ordered[0].client_ca)
    return kept, tuple(one for one in ordered if one.client_ca != ordered[0].client_ca)


def close_disagreeing(others: Iterable[ServerCertificate]) -> tuple[ClosedNames, ...]:
    """Names of those that require a client certificate of another CA than their port does."""
    return tuple(close_names(one.name, one.hosts) for one in others if one.client_ca)
