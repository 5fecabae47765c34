"""The URL of a Redis server, which may have a password: it is shown without."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import urlsplit


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
    if not good:
        raise ValueError("this is no URL of a Redis server: it should be redis://host:6379/0, or rediss:// for TLS")
    return RedisUrl(text)
