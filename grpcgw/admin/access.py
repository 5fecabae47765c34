"""Who may read the admin port: whoever has the bearer token or a client certificate, where one is demanded.

Probes stay open: they say whether the gateway is ready, and kubelets have neither. Token and certificates are files,
which may be replaced while the gateway runs (`access_files.py` notices): they are in force as a whole or not at all.
"""

from __future__ import annotations

import hmac
import ssl
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from grpcgw.errors import UserError

MIN_TOKEN_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class AdminTls:
    """Files in PEM that the admin port serves TLS with."""

    certificate: Path
    key: Path
    client_ca: Path | None = None
    """Clients with a certificate of this CA may read; None: no certificate lets anybody in."""

    @property
    def paths(self) -> tuple[Path, ...]:
        return tuple(one for one in (self.certificate, self.key, self.client_ca) if one is not None)


class LoadedTls(ssl.SSLContext):
    """What the files of TLS held when they were read."""

    authority: bytes | None = None
    """The CA whose certificates let clients in."""


class AdminAccess:
    """What a request needs beside an address that reaches the port. Without token and `client_ca` it needs nothing."""

    def __init__(self, token_file: Path | None = None, tls: AdminTls | None = None) -> None:
        """Raises UserError for files that cannot be used."""
        self._token_file, self._tls = token_file, tls
        self._takes_certificates = tls is not None and tls.client_ca is not None
        self.is_open = token_file is None and not self._takes_certificates
        self.load()

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that it is made of."""
        token = () if self._token_file is None else (self._token_file,)
        return token if self._tls is None else (*token, *self._tls.paths)

    def load(self) -> None:
        """Read the files, and use them from now on. Raises UserError, and then what was in force stays so."""
        digest = b"" if self._token_file is None else sha256(_read_token(self._token_file).encode()).digest()
        tls = None if self._tls is None else _load_tls(self._tls)
        self._digest, self.tls = digest, tls

    def admits(self, authorization: str, verified_by: ssl.SSLContext | None) -> bool:
        """`authorization`: value of the header, whose bytes are its characters. `verified_by`: has verified a
        certificate of the client; None: there is none. One that a CA before the one in force let in is no longer
        enough."""
        if self.is_open or self._has_verified(verified_by):
            return True
        scheme, _, given = authorization.partition(" ")
        digest = sha256(given.strip(" \t").encode("latin-1", "replace")).digest()
        return bool(self._digest) and scheme.lower() == "bearer" and hmac.compare_digest(digest, self._digest)

    def _has_verified(self, context: ssl.SSLContext | None) -> bool:
        if not self._takes_certificates or self.tls is None or not isinstance(context, LoadedTls):
            return False
        return context.authority == self.tls.authority

    def make_context(self) -> ssl.SSLContext | None:
        """What the port serves TLS with, whatever is loaded later; None: it speaks clear text."""
        if self.tls is None:
            return None
        context = _CurrentTls(ssl.PROTOCOL_TLS_SERVER)
        context.access = self
        return context


class _CurrentTls(ssl.SSLContext):
    """Each handshake is made with what is in force when it begins. (A context that is changed keeps its former CAs.)"""

    access: AdminAccess

    def wrap_bio(self, *args: Any, **named: Any) -> ssl.SSLObject:
        assert self.access.tls is not None
        return self.access.tls.wrap_bio(*args, **named)


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
    return AdminAccess(token_file, tls)


def _read_token(file: Path) -> str:
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the token of the admin port cannot be read from {file}: {type(error).__name__}") from error
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise UserError(f"the token of the admin port in {file} should have {MIN_TOKEN_CHARACTERS} characters or more")
    return token


def _load_tls(tls: AdminTls) -> LoadedTls:
    """Certificates of clients are asked for, and checked where they are shown: probes have none."""
    context = LoadedTls(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password="")
        if tls.client_ca is not None:
            context.authority = tls.client_ca.read_bytes()
            context.load_verify_locations(tls.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:
        raise UserError(f"the admin port cannot serve TLS with {', '.join(map(str, tls.paths))}: {error}") from error
    return context
