"""Key sets that are fetched from a URL (`jwksURI`), as objects: their keys and their content.

Such an object is in the store like any other, with a kind that no cluster and no YAML file has.
`discovery.sources.key_sets` fetches them; a dialect lists their URLs, and compiles them together with what names them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from urllib.parse import urlsplit

from grpcgw.model.jwks import parse_jwks, write_jwks
from grpcgw.model.jwt import PublicKey
from grpcgw.model.objects import KubeObject, ObjectKey, Source

KEY_SET = "KeySet"
_INSECURE = "\ninsecure"
"""Ends the name of a set that is fetched without a check of the server's certificate: no URL has a line break."""
_FETCHED, _FAULT, _NOT_FETCHED = "jwks", "fault", "notFetched"


@dataclass(frozen=True, slots=True)
class KeySetSource:
    """Where an object says that a key set is."""

    url: str
    """Valid by `check_url`."""
    insecure_tls: bool = False
    """Do not check the server's certificate."""
    refresh_s: float | None = None
    """Time from one fetch to the next; None: as the answer's cache-control says."""

    @property
    def key(self) -> ObjectKey:
        return ObjectKey(KEY_SET, "", f"{self.url}{_INSECURE if self.insecure_tls else ''}")

    @property
    def id(self) -> str:
        """Names the set where its URL must not be seen, which may hold a secret."""
        return hashlib.sha256(self.key.name.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def check_url(url: str) -> None:
    """Raises ValueError for what no key set can be fetched from."""
    parts = urlsplit(url)  # raises ValueError as well
    if parts.scheme not in ("https", "http") or not parts.hostname or not (url.isascii() and url.isprintable()):
        raise ValueError("it should be an https URL (or http, where the network is trusted)")
    if parts.username is not None or parts.password is not None:
        raise ValueError("it should have no user name or password: it is shown on the page and in messages")


def show_url(key: ObjectKey) -> str:
    """The URL of the set, without a query, which may hold a secret."""
    return key.name.removesuffix(_INSECURE).partition("?")[0]


@dataclass(frozen=True, slots=True)
class FetchedKeySet:
    """What is known of a key set."""

    keys: tuple[PublicKey, ...] = ()
    """Of the last fetch that succeeded; empty: none has."""
    fault: str = ""
    """Why the last fetch failed; empty: it succeeded."""
    not_fetched: bool = False
    """This process fetches none: it only checks the configuration."""


def make_key_set(key: ObjectKey, fetched: FetchedKeySet) -> KubeObject:
    body: dict[str, object] = {}
    if fetched.keys:
        body[_FETCHED] = write_jwks(fetched.keys)
    if fetched.fault:
        body[_FAULT] = fetched.fault
    if fetched.not_fetched:
        body[_NOT_FETCHED] = True
    return KubeObject("", key, body, Source(show_url(key)))


def read_key_set(obj: KubeObject) -> FetchedKeySet:
    jwks = obj.body.get(_FETCHED)
    keys = parse_jwks(str(jwks).encode()) if jwks is not None else ()
    return FetchedKeySet(keys, str(obj.body.get(_FAULT, "")), bool(obj.body.get(_NOT_FETCHED)))
