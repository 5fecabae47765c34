"""HTTP requests to the Kubernetes API server: address, credentials, JSON objects, streams of watches.

Errors of libraries become `ApiAway` (no usable answer), `ApiRefused` (an HTTP status) or `UserError` (credentials that
cannot be loaded) here. Keeps no state but the connection pool. Runs in the control process's loop.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from kubernetes.aio import client, config

from grpcgw import __version__
from grpcgw.discovery.http_errors import explain_failure
from grpcgw.errors import GrpcgwError, UserError

_MAX_REFUSAL_BYTES = 64 * 1024
_KEEPALIVE_PROBES = 3
_DONE = (200, 201)
"""201: created."""

# The package's own signatures for these carry no types.
_load_kubeconfig: Callable[..., Awaitable[object]] = config.load_kube_config
_load_service_account: Callable[..., None] = config.load_incluster_config


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """How to find the API server and its credentials. All unset: the pod's service account if there is one, else
    the default kubeconfig (`KUBECONFIG`, `~/.kube/config`)."""

    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False
    """Use the pod's service account only."""


class ApiAway(GrpcgwError):
    """The API server gave no usable answer: not reached, silent, cut off, or not speaking its protocol."""


class ConnectionLost(ApiAway):
    """A stream was cut off after it began: a load balancer dropped it, or the server ended. A retry will show which."""


class ApiRefused(GrpcgwError):
    """The API server answered with an HTTP status other than success."""

    def __init__(self, status: int, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{status} {message}")
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        """Retry-After of the answer; 0.0: none."""

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (401, 429) or self.status >= 500


class KubernetesApi:
    """One API server. `connect` first; requests may then run concurrently."""

    def __init__(self, access: ClusterAccess, connect_timeout_s: float = 10.0) -> None:
        self._access = access
        self._connect_timeout_s = connect_timeout_s
        # Each watch holds a connection, also one for each named Secret: a limit would block them all.
        self._configuration = client.Configuration(connection_pool_maxsize=0)
        self._client: client.ApiClient | None = None
        self._renewal = asyncio.Lock()

    async def connect(self) -> None:
        """Load address and credentials, without a request. Raises UserError if they are missing or broken."""
        await self._load()
        try:
            self._client = client.ApiClient(self._configuration)
        except OSError as error:  # such as ssl.SSLError: an invalid CA or client certificate
            raise UserError(f"{self._describe()}: a certificate in it cannot be used: {error}") from error
        self._client.user_agent = f"grpcgw/{__version__}"

    async def aclose(self) -> None:
        if self._client is not None:
            close: Callable[[], Awaitable[None]] = self._client.close
            await close()

    async def get(self, path: str, query: Mapping[str, str], timeout_s: float) -> dict[str, object]:
        """The JSON object at `path`, read completely within `timeout_s`. Raises ApiAway, ApiRefused."""
        async with self._request(path, query, whole_s=timeout_s) as response:
            return await self._read_object(path, response)

    async def write(self, method: str, path: str, body: Mapping[str, object], timeout_s: float) -> dict[str, object]:
        """POST (create), PUT (replace) or PATCH (merge, RFC 7386) `body`; returns the new object.

        Raises ApiAway, also if it is unknown whether the server carried it out, and ApiRefused.
        """
        async with self._request(path, {}, method, body, whole_s=timeout_s) as response:
            return await self._read_object(path, response)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], silence_s: float, probe: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body at `path` in chunks as they arrive, until the server ends it.

        Entering waits for the status, `silence_s` at most. Later, after each `silence_s` without a byte, `probe` is
        awaited; an exception of it ends the stream. TCP keepalive detects a peer that disappeared, also within
        `silence_s`. Raises ApiAway and ApiRefused on entering, ConnectionLost when the connection is lost; a body that
        ends properly ends the iteration.
        """
        async with self._request(path, query, status_s=silence_s) as response:
            _watch_over(response, silence_s)
            yield self._read_chunks(response.content, silence_s, probe)

    async def _read_chunks(
        self, content: aiohttp.StreamReader, silence_s: float, probe: Callable[[], Awaitable[None]]
    ) -> AsyncIterator[bytes]:
        while True:
            try:
                async with asyncio.timeout(silence_s):
                    chunk = await content.readany()
            except TimeoutError:
                if content.exception() is not None:  # the kernel's: ETIMEDOUT
                    raise ConnectionLost(f"{self._configuration.host}: the connection timed out") from None
                await probe()
                continue
            except (aiohttp.ClientError, OSError) as error:
                raise ConnectionLost(f"{self._configuration.host}: {explain_failure(error)}") from error
            if not chunk:
                return
            yield chunk

    async def _read_object(self, path: str, response: aiohttp.ClientResponse) -> dict[str, object]:
        text = await response.read()
        try:
            document: object = json.loads(text)
        except RecursionError as error:
            raise ApiAway(f"{self._configuration.host}{path} has an object that is nested too deeply") from error
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise ApiAway(f"{self._configuration.host}{path} did not answer with a JSON object: is it an API server?")
        return document

    @asynccontextmanager
    async def _request(
        self,
        path: str,
        query: Mapping[str, str],
        method: str = "GET",
        body: Mapping[str, object] | None = None,
        *,
        status_s: float | None = None,
        whole_s: float | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """`status_s` limits the time until the status, `whole_s` that until the caller has read the answer."""
        token = self._configuration.api_key.get("BearerToken")
        try:
            async with asyncio.timeout(whole_s):
                async with asyncio.timeout(status_s):
                    response = await self._send(path, query, method, body)
                try:
                    if response.status not in _DONE:
                        raise await _read_refusal(response)
                    yield response
                finally:
                    # A watch is never read to its end: close it, so that its connection does not return to the pool.
                    response.close()
        except ApiRefused as refusal:
            if refusal.status == 401:
                await self._renew(token)
            raise
        except TimeoutError as error:
            raise ApiAway(f"{self._configuration.host} was silent for too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ApiAway(f"{self._configuration.host}: {explain_failure(error)}") from error

    async def _send(
        self,
        path: str,
        query: Mapping[str, str],
        method: str,
        body: Mapping[str, object] | None,
    ) -> aiohttp.ClientResponse:
        if self._client is None:
            raise RuntimeError("connect() comes before the first request")
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        method, url, headers, sent, _ = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={} if body is None else {"Content-Type": kind},
            body=None if body is None else dict(body),
            auth_settings=["BearerToken"],
        )
        # `total` of aiohttp is not used: it loses a cancellation of the task that comes together with the time-out
        # (aiohttp issue 5979), and whoever cancelled the task would wait for it without end.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout_s)
        answer = await self._client.call_api(method, url, headers, sent, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response

    async def _renew(self, rejected: str | None) -> None:
        """Read the credentials again, as a kubeconfig or exec plugin may have newer ones: once for all rejected calls.
        The caller's next try uses them. A new client certificate needs a restart."""
        async with self._renewal:
            if self._configuration.api_key.get("BearerToken") == rejected:
                await self._load()

    async def _load(self) -> None:
        try:
            if self._uses_service_account():
                _load_service_account(client_configuration=self._configuration)
                return
            path = str(self._access.kubeconfig) if self._access.kubeconfig else None
            # persist_config=True would write to the user's file.
            await _load_kubeconfig(path, self._access.context, self._configuration, persist_config=False)
        except (TypeError, KeyError) as error:  # a part is missing or has another type
            reason = "it should be a file with clusters, users and contexts, as kubectl config view shows"
            raise UserError(f"{self._describe()} cannot be used: {reason}") from error
        except (config.ConfigException, OSError, yaml.YAMLError, ValueError) as error:
            raise UserError(f"{self._describe()} cannot be used: {error}") from error

    def _uses_service_account(self) -> bool:
        if self._access.in_cluster:
            return True
        explicit = self._access.kubeconfig or self._access.context
        return not explicit and "KUBERNETES_SERVICE_HOST" in os.environ

    def _describe(self) -> str:
        if self._uses_service_account():
            return "the pod's service account"
        name = f"kubeconfig {self._access.kubeconfig or config.KUBE_CONFIG_DEFAULT_LOCATION}"
        return f"{name}, context {self._access.context}" if self._access.context else name


def _watch_over(response: aiohttp.ClientResponse, silence_s: float) -> None:
    """Enable TCP keepalive: the kernel notices within `silence_s` that the peer is gone (RFC 9293, 3.8.4)."""
    peer = None if response.connection is None else response.connection.transport
    if peer is None:
        return
    connection = peer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle_s, interval_s = max(1, round(silence_s / 2)), max(1, round(silence_s / 2 / _KEEPALIVE_PROBES))
    options = {
        "TCP_KEEPIDLE": idle_s,
        "TCP_KEEPINTVL": interval_s,
        "TCP_KEEPCNT": _KEEPALIVE_PROBES,
        "TCP_USER_TIMEOUT": (idle_s + interval_s * _KEEPALIVE_PROBES) * 1000,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # systems other than Linux lack some options and have defaults of their own
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def _read_refusal(response: aiohttp.ClientResponse) -> ApiRefused:
    """The error in an answer: the message of its Status object, else the HTTP reason."""
    text = await response.content.read(_MAX_REFUSAL_BYTES)
    try:
        document: object = json.loads(text)
    except ValueError:
        document = None
    message = document.get("message") if isinstance(document, dict) else None
    after = response.headers.get("Retry-After", "")
    return ApiRefused(response.status, str(message or response.reason), float(after) if after.isdecimal() else 0.0)
