"""Compiles `min_tls_version`, `max_tls_version`, `cipher_suites`, `ecdh_curves` and `alpn_protocols`."""

from __future__ import annotations

import ssl
from functools import lru_cache

from grpcgw.ambassador.spec.host_specs import TlsSettings
from grpcgw.ambassador.spec.parse import Findings
from grpcgw.model.listener import ALPN_HTTP1, ALPN_HTTP2
from grpcgw.model.tls_parameters import TlsParameters, TlsVersion

_OLD = ("v1.0", "v1.1")
_LEAST_BITS = 128
_CURVES = {
    "X25519": "X25519",
    "P-256": "prime256v1",
    "P-384": "secp384r1",
    "P-521": "secp521r1",
}
"""Envoy's name: OpenSSL's name."""


def compile_parameters(spec: TlsSettings, findings: Findings, *path: str) -> TlsParameters:
    """Errors, for a value that no engine can apply, are in `findings`."""
    least, most = _compile_versions(spec, findings, *path)
    ciphers = tuple(dict.fromkeys(name for entry in spec.cipher_suites or () for name in _split(entry)))
    for name in ciphers:
        if not _is_cipher(name):
            findings.error(f"{name!r} is no cipher of TLS 1.2 with {_LEAST_BITS} bits or more", *path, "cipher_suites")
    return TlsParameters(least, most, ciphers, _compile_curve(spec, findings, *path))


def _compile_versions(spec: TlsSettings, findings: Findings, *path: str) -> tuple[TlsVersion, TlsVersion]:
    least, most = TlsVersion.TLS_1_2, TlsVersion.TLS_1_3
    if spec.min_tls_version in _OLD:
        findings.notice("has no effect: HTTP/2 needs TLS 1.2, which is the least", *path, "min_tls_version")
    elif spec.min_tls_version is not None:
        least = TlsVersion(spec.min_tls_version)
    if spec.max_tls_version in _OLD:
        findings.error("HTTP/2 needs TLS 1.2; set v1.2 or v1.3", *path, "max_tls_version")
    elif spec.max_tls_version is not None:
        most = TlsVersion(spec.max_tls_version)
    if most < least:
        findings.error(f"should not be below min_tls_version, which is {least}", *path, "max_tls_version")
    return least, most


def _split(entry: str) -> list[str]:
    """Envoy takes `[A|B]` for ciphers of the same rank, which keep their order here."""
    return [name.strip() for name in entry.strip().removeprefix("[").removesuffix("]").split("|")]


@lru_cache(256)
def _is_cipher(name: str) -> bool:
    """Whether OpenSSL knows exactly one cipher of this name, which authenticates the server and is not broken."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.set_ciphers(name)
    except ssl.SSLError:
        return False
    found = [one for one in context.get_ciphers() if one["name"] == name]
    return any(one["strength_bits"] >= _LEAST_BITS and one["auth"] != "auth-null" for one in found)


def _compile_curve(spec: TlsSettings, findings: Findings, *path: str) -> str:
    given = spec.ecdh_curves or []
    for name in given:
        if name not in _CURVES:
            findings.error(f"{name!r} is unknown; known are {', '.join(_CURVES)}", *path, "ecdh_curves")
    if len(given) > 1:
        only = f"Python's ssl takes one curve: {given[0]} is offered alone, and peers without it are refused"
        findings.notice(only, *path, "ecdh_curves")
    return _CURVES.get(given[0], "") if given else ""


def compile_alpn(spec: TlsSettings, findings: Findings, *path: str) -> tuple[str, ...]:
    """`h2` is preferred whatever the order: gRPC needs it."""
    if not spec.alpn_protocols:
        return ALPN_HTTP2, ALPN_HTTP1
    offered = [protocol.strip() for protocol in spec.alpn_protocols.split(",")]
    if ALPN_HTTP2 not in offered:
        findings.error(f"{spec.alpn_protocols!r} should contain h2, which gRPC needs", *path, "alpn_protocols")
    others = [protocol for protocol in offered if protocol not in (ALPN_HTTP2, ALPN_HTTP1)]
    if others:
        findings.notice(f"{', '.join(others)} is not offered: the gateway does not speak it", *path, "alpn_protocols")
    return (ALPN_HTTP2, ALPN_HTTP1) if ALPN_HTTP1 in offered else (ALPN_HTTP2,)
