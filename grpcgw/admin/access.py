"""Who may read the admin port: whoever has the bearer token or a client certificate, where one is demanded.

Probes stay open: they say whether the gateway is ready, and kubelets have neither.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from grpcgw.errors import UserError

MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class AdminTls:
    """Files in PEM that the admin port serves TLS with."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients with a certificate of this CA may read; None: no certificate lets anybody in."""


class AdminAccess:
    """What a request needs beside an address that reaches the port. Without token and `client_ca` it needs nothing."""

    def __init__(self, token: str = "", tls: AdminTls | None = None) -> None:
        self._digest = sha256(token.encode()).digest() if token else b""
        self.tls = tls
        self._takes_certificates = tls is not None and tls.client_ca is not None
        self.is_open = not self._digest and not self._takes_certificates

    def admits(self, authorization: str, has_certificate: bool) -> bool:
        """`authorization`: value of the header. `has_certificate`: TLS has verified one of the client."""
        if self.is_open or (self._takes_certificates and has_certificate):
            return True
        scheme, _, given = authorization.partition(" ")
        digest = sha256(given.strip().encode("utf-8", "surrogatepass")).digest()
        return bool(self._digest) and scheme.lower() == "bearer" and hmac.compare_digest(digest, self._digest)


OPEN = AdminAccess()


def read_access(
    token_file: Path | None, certificate: Path | None, key: Path | None, client_ca: Path | None
) -> AdminAccess:
    """Raises UserError for what cannot be read, and for settings that do not fit together: the port would stay open."""
    if (certificate is None) is not (key is None):
        raise UserError("--admin-tls-cert and --admin-tls-key belong together: set both")
    if client_ca is not None and certificate is None:
        raise UserError("--admin-tls-client-ca needs --admin-tls-cert and --admin-tls-key")
    tls = None if certificate is None or key is None else AdminTls(certificate, key, client_ca)
    return AdminAccess("" if token_file is None else _read_token(token_file), tls)


def _read_token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token of the admin port cannot be read from {file}: {type(error).__name__}") from error
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise UserError(f"the token of the admin port in {file} should have {MIN_TOKEN_CHARACTERS} characters or more")
    return token
