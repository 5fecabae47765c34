"""ConsulResolver: the instances of a service that pass their health checks, from a Consul agent.

Owns the blocking queries (one at a time per watched cluster), their pace and their credentials. Does not use the store.
While an agent is away the instances known before stay. Runs in the control process's event loop.

Protocol: Consul's HTTP API, `/v1/health/service` and "Blocking Queries".
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from random import Random
from urllib.parse import quote

import aiohttp

from grpcgw.discovery.backoff import Backoff
from grpcgw.discovery.http_errors import explain_failure
from grpcgw.discovery.resolvers.address_families import explain_disabled, is_enabled
from grpcgw.discovery.resolvers.resolver import Publish
from grpcgw.discovery.resolvers.watch_tasks import Watch, WatchTasks
from grpcgw.errors import GrpcgwError
from grpcgw.model.cluster import DEFAULT_ADDRESSING, Addressing, Cluster, ConsulAgent
from grpcgw.model.endpoints import Endpoint, EndpointSet

_MAX_REFUSAL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class ConsulPace:
    """Time-outs and pauses of queries; tests shorten them."""

    wait_s: float = 60.0
    """How long an agent holds a query while nothing changes (it adds up to a sixteenth)."""
    grace_s: float = 10.0
    """How much later than that an answer may arrive before the query times out."""
    connect_s: float = 5.0
    pause_s: float = 0.1
    """Pause after each answer: changes in quick succession arrive together, and queries are not more frequent."""
    retry_base_s: float = 0.2
    retry_cap_s: float = 30.0
    """Back-off after failures."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Access to Consul agents, from the variables that Consul's own tools read; the same for all agents."""

    token: str = field(default="", repr=False)
    token_file: str = ""
    """Read for every query, as token renewal replaces the file."""
    tls: bool = False
    """Whether an address without a scheme means https."""
    ca_file: str = ""
    """Empty: the system's roots."""
    certificate_file: str = ""
    key_file: str = ""
    server_name: str = ""
    """The name that an agent's certificate must have; empty: its host."""


def read_credentials(environment: Mapping[str, str]) -> Credentials:
    return Credentials(
        token=environment.get("CONSUL_HTTP_TOKEN", ""),
        token_file=environment.get("CONSUL_HTTP_TOKEN_FILE", ""),
        tls=environment.get("CONSUL_HTTP_SSL", "").lower() in ("1", "t", "true"),
        ca_file=environment.get("CONSUL_CACERT", ""),
        certificate_file=environment.get("CONSUL_CLIENT_CERT", ""),
        key_file=environment.get("CONSUL_CLIENT_KEY", ""),
        server_name=environment.get("CONSUL_TLS_SERVER_NAME", ""),
    )


class AgentAway(GrpcgwError):
    """A Consul agent gave no usable answer; the text says why and, where that is known, what to do."""


class ConsulResolver:
    """Resolver by Consul. `credentials` default to the environment's."""

    def __init__(
        self, *, credentials: Credentials | None = None, pace: ConsulPace | None = None, random: Random | None = None
    ) -> None:
        self._pace = pace or ConsulPace()
        self._random = random or Random()
        self._client = _Client(read_credentials(os.environ) if credentials is None else credentials, self._pace)
        self._followers = WatchTasks(self._follow)

    async def run(self) -> None:
        """Query agents until cancelled."""
        try:
            await self._followers.run()
        finally:
            await self._client.aclose()

    def watch(self, cluster: Cluster, publish: Publish) -> Callable[[], None]:
        return self._followers.add(Watch(cluster, publish))

    async def _follow(self, watch: Watch) -> None:
        agent, name = watch.cluster.consul, watch.cluster.service.name
        assert agent is not None, "the compiler gives each Consul cluster its agent"
        retry = Backoff(self._pace.retry_base_s, self._pace.retry_cap_s, self._random)
        index = 0
        while True:
            try:
                answer = await self._client.ask(agent, name, index)
                watch.offer(read_instances(answer.instances, watch.cluster.addressing))
                index = next_index(index, answer.index)
                retry.reset()
                await asyncio.sleep(self._pace.pause_s)
            except AgentAway as failure:
                # An agent that restarted may count from the beginning: the next query must not wait for the old index.
                index = 0
                what = f"Consul agent {agent.address} ({agent.datacenter}), service {name}: {failure}"
                watch.fail(agent.hide(what))
                await asyncio.sleep(retry.next_s())


@dataclass(frozen=True, slots=True)
class _Answer:
    index: str
    """X-Consul-Index as received."""
    instances: list[object]


class _Client:
    """HTTP to all agents. Errors of aiohttp become AgentAway here."""

    def __init__(self, credentials: Credentials, pace: ConsulPace) -> None:
        self._credentials = credentials
        self._pace = pace
        self._session: aiohttp.ClientSession | None = None
        self._tls: ssl.SSLContext | None = None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def ask(self, agent: ConsulAgent, service: str, index: int) -> _Answer:
        """The passing instances: at once for index 0, otherwise on a change or after `wait_s`. Raises AgentAway."""
        wait_ms = round(1000 * self._pace.wait_s)
        query = {"passing": "1", "dc": agent.datacenter, "index": str(index), "wait": f"{wait_ms}ms"}
        if not index:
            del query["index"], query["wait"]
        url = f"{agent_url(agent.address, self._credentials.tls)}/v1/health/service/{quote(service, safe='')}"
        longest_s = self._pace.wait_s * 17 / 16 + self._pace.grace_s
        try:
            async with asyncio.timeout(longest_s):
                return await self._get(url, query)
        except TimeoutError as error:
            raise AgentAway("it was silent for too long") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._tls = None  # its files may have been replaced
            raise AgentAway(explain_failure(error)) from error

    async def _get(self, url: str, query: Mapping[str, str]) -> _Answer:
        # A redirect is not followed: it would send the token to another host.
        async with self._open_session().get(
            url,
            params=query,
            headers=self._headers(),
            ssl=self._tls_context() if url.startswith("https:") else True,
            server_hostname=self._credentials.server_name or None,
            timeout=self._timeout(),
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                said = (await response.content.read(_MAX_REFUSAL_BYTES)).decode(errors="replace").strip()
                raise AgentAway(explain_refusal(response.status, said or response.reason or ""))
            document = json.loads(await response.read())
            if not isinstance(document, list):
                raise AgentAway("it did not answer with a list: is it a Consul agent?")
            return _Answer(response.headers.get("X-Consul-Index", ""), document)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Every watch holds a connection most of the time: aiohttp's limit of 100 would block the others.
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self._session

    def _headers(self) -> dict[str, str]:
        given = self._credentials
        token = Path(given.token_file).read_text().strip() if given.token_file else given.token
        return {"X-Consul-Token": token} if token else {}

    def _timeout(self) -> aiohttp.ClientTimeout:
        # `total` of aiohttp is not used: it loses a cancellation of the task that comes together with the time-out
        # (aiohttp issue 5979), and the resolver would never end.
        return aiohttp.ClientTimeout(total=None, sock_connect=self._pace.connect_s)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            given = self._credentials
            context = ssl.create_default_context(cafile=given.ca_file or None)
            if given.certificate_file:
                context.load_cert_chain(given.certificate_file, given.key_file or None)
            self._tls = context
        return self._tls


def agent_url(address: str, tls: bool) -> str:
    """Scheme and authority of an agent: as written, or with the scheme of CONSUL_HTTP_SSL."""
    return address.rstrip("/") if "://" in address else f"{'https' if tls else 'http'}://{address}"


def explain_refusal(status: int, said: str) -> str:
    """The error for the operator if an agent answers with an HTTP status other than 200."""
    match status:
        case 403 | 401:
            return f"it denies access ({said}): CONSUL_HTTP_TOKEN needs service:read and node:read"
        case 429:
            return "it limits this client's requests: raise limits.http_max_conns_per_client of the agent"
        case _:
            return f"{status} {said}"


def next_index(before: int, header: str) -> int:
    """The index for the next query from the X-Consul-Index of an answer: 0 (do not wait) if the agent restarted its
    count, or sent none. Rules of "Blocking Queries", implementation details."""
    after = int(header) if header.isascii() and header.isdecimal() else 0
    return after if after >= max(before, 1) else 0


def read_instances(instances: list[object], addressing: Addressing = DEFAULT_ADDRESSING) -> EndpointSet:
    """The endpoints in an answer of `/v1/health/service`, with an error that names instances that cannot be used."""
    found: dict[Endpoint, Endpoint] = {}
    unusable: list[str] = []
    for instance in instances:
        for endpoint in _read_instance(instance, unusable):
            found.setdefault(endpoint, endpoint)
    error = ""
    if unusable:
        error = f"Consul's {', '.join(sorted(unusable))} left out: an instance needs an IP address and a port"
    enabled = tuple(endpoint for endpoint in sorted(found) if is_enabled(endpoint.address, addressing))
    if found and not enabled and not error:
        error = explain_disabled("Consul has passing instances", addressing)
    return EndpointSet(enabled, error)


def _read_instance(instance: object, unusable: list[str]) -> Iterator[Endpoint]:
    service, node = _part(instance, "Service"), _part(instance, "Node")
    name, port = str(service.get("ID") or "instance without ID"), service.get("Port")
    address = service.get("Address") or node.get("Address")
    try:
        if type(port) is not int or not 0 < port < 65536:
            raise ValueError
        yield Endpoint(str(ip_address(str(address))), port, name)
    except ValueError:
        unusable.append(f"{name} ({address}:{port})")


def _part(instance: object, name: str) -> Mapping[str, object]:
    part = instance.get(name) if isinstance(instance, dict) else None
    return part if isinstance(part, dict) else {}
