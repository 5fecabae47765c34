"""The HTTP client of an engine, loaded with the first request, as aiohttp takes 0.2 s and few gateways need it."""

from __future__ import annotations

import asyncio
from typing import Protocol

from grpcgw.model.cluster import UpstreamTls
from grpcgw.model.endpoints import Endpoint
from grpcgw.policy.contract import HttpAnswer, HttpCall


class ClosableClient(Protocol):
    async def fetch(
        self, endpoint: Endpoint, tls: UpstreamTls | None, connect_timeout_s: float, call: HttpCall
    ) -> HttpAnswer: ...
    async def close(self) -> None: ...


class LateHttpClient:
    """The `session.policy_http.HttpTransport` of both engines. Used in one loop, that of the policies' coroutines."""

    def __init__(self) -> None:
        self._client: ClosableClient | None = None

    async def fetch(
        self, endpoint: Endpoint, tls: UpstreamTls | None, connect_timeout_s: float, call: HttpCall
    ) -> HttpAnswer:
        if self._client is None:
            made = await asyncio.to_thread(_load)  # which does not stop the loop of all RPCs
            self._client = self._client or made
        return await self._client.fetch(endpoint, tls, connect_timeout_s, call)

    async def close(self) -> None:
        """Close the connections. Nothing is sent afterwards."""
        if self._client is not None:
            await self._client.close()


def _load() -> ClosableClient:
    from grpcgw.engines.http_client import HttpClient

    return HttpClient()
