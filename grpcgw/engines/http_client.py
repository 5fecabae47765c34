"""The HTTP/1.1 client of an engine, for policies: connections to pods are kept open and reused. By aiohttp."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
from yarl import URL

from grpcgw.engines.http2.tls_contexts import make_client_context
from grpcgw.errors import UserError
from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.endpoints import Endpoint
from grpcgw.policy.contract import HttpAnswer, HttpCall

MAX_ANSWER_BYTES = 65_536
"""Of a body; the rest is not read, and the connection closed."""
MAX_CONNECTIONS = 256
"""To one pod, of one worker; requests beyond wait for one, within the policy's time-out."""
IDLE_S = 15.0
"""Many servers keep a connection longer. One that closes it sooner, while a request is on its way, is asked again."""


class HttpClient:
    """Used in one loop."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._contexts: dict[UpstreamTls, ssl.SSLContext] = {}

    async def fetch(
        self, endpoint: Endpoint, tls: UpstreamTls | None, connect_timeout_s: float, call: HttpCall
    ) -> HttpAnswer:
        """See `session.policy_http.HttpTransport`. The session that waits bounds the time."""
        try:
            async with self._open_session().post(
                _url(endpoint, tls, call.path),
                data=call.body,
                headers=call.headers,
                ssl=True if tls is None else self._context(tls),
                server_hostname=None if tls is None else tls.server_name or None,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
                allow_redirects=False,
            ) as response:
                body = await _read_body(response.content)
                return HttpAnswer(response.status, tuple(response.headers.items()), body)
        except (aiohttp.ClientConnectorError, aiohttp.ServerTimeoutError) as error:
            raise ConnectionRefusedError(f"cannot be connected to: {type(error).__name__}") from error
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError) as error:
            raise ConnectionResetError(f"gave no answer: {type(error).__name__}") from error
        except (aiohttp.ClientError, OSError, ValueError, UserError) as error:
            raise ConnectionError(f"gave no answer: {type(error).__name__}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # transports close in the next turn of the loop

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Only addresses are connected to. aiohttp's usual resolver starts a thread that never ends.
            resolver = aiohttp.ThreadedResolver()
            connector = aiohttp.TCPConnector(
                limit=0, limit_per_host=MAX_CONNECTIONS, keepalive_timeout=IDLE_S, resolver=resolver
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                skip_auto_headers=("User-Agent", "Content-Type", "Accept", "Accept-Encoding"),
            )
        return self._session

    def _context(self, tls: UpstreamTls) -> ssl.SSLContext:
        context = self._contexts.get(tls)
        if context is None:
            context = make_client_context(tls)
            context.set_alpn_protocols(["http/1.1"])
            self._contexts = {**dict(list(self._contexts.items())[-15:]), tls: context}
        return context


async def _read_body(content: aiohttp.StreamReader) -> bytes:
    """All of it, or its beginning. A connection whose answer was read to its end is used again."""
    body = b""
    while len(body) < MAX_ANSWER_BYTES and (part := await content.read(MAX_ANSWER_BYTES - len(body))):
        body += part
    return body


def _url(endpoint: Endpoint, tls: UpstreamTls | None, path: str) -> URL:
    host = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    return URL(f"{'http' if tls is None else 'https'}://{host}:{endpoint.port}{path}", encoded=True)
