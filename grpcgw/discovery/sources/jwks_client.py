"""Fetches a JWK Set over HTTP: bounded in time, size and redirects, with the system's certificate authorities.

Errors of aiohttp become `FetchFailed` here.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from urllib.parse import urljoin

import aiohttp

from grpcgw.discovery.http_errors import explain_failure
from grpcgw.discovery.sources.key_sets import FetchedJwks, FetchFailed
from grpcgw.model.jwks import MAX_JWKS_BYTES, InvalidJwks, parse_jwks
from grpcgw.model.key_set_objects import KeySetSource, check_url

TIMEOUT_S = 5.0
MAX_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_AGE = re.compile(r"(?:^|,)\s*max-age\s*=\s*\"?(\d{1,9})", re.IGNORECASE)


async def fetch_jwks(source: KeySetSource, timeout_s: float = TIMEOUT_S) -> FetchedJwks:
    """Raises FetchFailed."""
    try:
        async with asyncio.timeout(timeout_s):
            # A session for each fetch: there is one a minute, and no connection stays open between them.
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
                return await _follow(session, source)
    except TimeoutError as error:
        raise FetchFailed(f"no answer within {timeout_s:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(explain_failure(error)) from error


async def _follow(session: aiohttp.ClientSession, source: KeySetSource) -> FetchedJwks:
    url = source.url
    for _ in range(MAX_REDIRECTS + 1):
        tls: ssl.SSLContext | bool = not source.insecure_tls  # True: the system's authorities
        headers = {"accept": "application/jwk-set+json, application/json"}
        async with session.get(url, headers=headers, ssl=tls, allow_redirects=False) as response:
            if response.status not in _REDIRECTS:
                return await _read(response)
            url = _find_target(source.url, url, response.headers.get("location", ""))
    raise FetchFailed(f"more than {MAX_REDIRECTS} redirects")


def _find_target(asked: str, url: str, location: str) -> str:
    """A redirect may not leave TLS, unless the operator asked for clear text."""
    target = urljoin(url, location)
    try:
        check_url(target)
    except ValueError:
        raise FetchFailed("it redirects to what is no URL of a key set") from None
    if target.startswith("http:") and not asked.startswith("http:"):
        raise FetchFailed("it redirects from https to http")
    return target


async def _read(response: aiohttp.ClientResponse) -> FetchedJwks:
    if response.status != 200:
        raise FetchFailed(f"its answer is {response.status}")
    content = bytearray()
    async for chunk in response.content.iter_any():
        content += chunk
        if len(content) > MAX_JWKS_BYTES:
            raise FetchFailed(f"it is larger than {MAX_JWKS_BYTES // 1024} KiB")
    try:
        keys = parse_jwks(bytes(content))
    except InvalidJwks as error:
        raise FetchFailed(str(error)) from None
    return FetchedJwks(keys, read_max_age(response.headers.get("cache-control", "")))


def read_max_age(cache_control: str) -> float | None:
    """RFC 9111, 5.2."""
    if re.search(r"\bno-(?:store|cache)\b", cache_control, re.IGNORECASE):
        return 0.0
    found = _MAX_AGE.search(cache_control)
    return None if found is None else float(found[1])
