"""TLS versions, ciphers and curves, of a port or of connections to pods (Envoy's TlsParameters)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class TlsVersion(StrEnum):
    """HTTP/2 needs TLS 1.2 or later (RFC 9113, 9.2)."""

    TLS_1_2 = "v1.2"
    TLS_1_3 = "v1.3"


@dataclass(frozen=True, slots=True)
class TlsParameters:
    min_version: TlsVersion = TlsVersion.TLS_1_2
    max_version: TlsVersion = TlsVersion.TLS_1_3
    ciphers: tuple[str, ...] = ()
    """Of TLS 1.2, the preferred first, by their OpenSSL names; empty: the engine's own. Those of TLS 1.3 are fixed."""
    curve: str = ""
    """For the key exchange, by its OpenSSL name; empty: OpenSSL's own."""


DEFAULT_PARAMETERS = TlsParameters()
"""What every engine speaks."""
