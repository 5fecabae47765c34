"""The certificate that every proxy shows where clients call over TLS: ECDSA on P-256, self-signed, made once a run."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from grpcgw.listeners.self_signed import make_self_signed


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    chain: Path
    key: Path


@cache
def make_certificate() -> tuple[bytes, bytes]:
    """Chain and key, as PEM, valid for the loopback address. The chain is its own authority."""
    made = make_self_signed("localhost", datetime.datetime.now(datetime.UTC))
    return made.certificate_chain, made.private_key


def write_certificate(folder: Path) -> CertificateFiles:
    files = CertificateFiles(folder / "tls.crt", folder / "tls.key")
    for path, pem in zip((files.chain, files.key), make_certificate(), strict=True):
        path.write_bytes(pem)
    return files
