"""The URL of a Redis server, which may have a password: it is shown without."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

OPTIONS = frozenset({"ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile"})
"""Of TLS, after `?`, as redis-py reads them."""
_CHECKS = ("none", "optional", "required")
"""Values of `ssl_cert_reqs`."""


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """`redis://[user:password@]host[:port][/db]`, or `rediss://` for TLS. As text it has neither user nor password."""

    _url: str = field(repr=False)

    def reveal(self) -> str:
        """With the password."""
        return self._url

    def __str__(self) -> str:
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def parse_redis_url(text: str) -> RedisUrl:
    """Raises ValueError, which does not quote the text."""
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good or not (parts.path in ("", "/") or parts.path[1:].isdecimal()):
        raise ValueError("this is no URL of a Redis server: it should be redis://host:6379/0, or rediss:// for TLS")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if options.keys() - (OPTIONS if parts.scheme == "rediss" else ()):
        raise ValueError(f"this URL has an unknown option: rediss:// may have {', '.join(sorted(OPTIONS))}")
    if options.get("ssl_cert_reqs", "none") not in _CHECKS:
        raise ValueError(f"ssl_cert_reqs in this URL should be {', '.join(_CHECKS)}")
    return RedisUrl(text)
