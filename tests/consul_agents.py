"""Consul agents for tests: a small emulator that can also misbehave, and a real one where `consul` is installed.

Both are told of services over Consul's own HTTP API, so a test for one is a test for the other. The emulator knows:
register, deregister, TTL checks, `/v1/health/service` with `passing`, `dc`, `index` and `wait`, one token, TLS.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

START_DEADLINE_S = 40.0
NODE_ADDRESS = "127.0.0.1"
TOKEN = "9d0e0e1c-6f0d-4a43-8d1f-5a6f2f5f3c11"


def find_consul() -> str | None:
    """The program, on the path or beside the interpreter (scripts/install-system-packages puts it there)."""
    return shutil.which("consul", path=os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)]))


def kinds_of_agent() -> list[str]:
    """Parameters for a fixture: the agents there are."""
    return ["emulator"] + (["consul"] if find_consul() else [])


@dataclass
class Agent:
    """What tests do to any agent."""

    port: int = 0
    tls: Path | None = None
    """Folder with ca.pem, agent.pem and agent.key; the agent then speaks https alone."""
    mutual: bool = False
    """Only clients that show a certificate are let in; with `tls`."""
    acl: bool = False
    """Only TOKEN is let in."""

    @property
    def address(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start, the first time at any free port, later at the same; services are forgotten."""
        raise NotImplementedError

    async def stop(self) -> None:
        raise NotImplementedError

    async def register(self, service: str, instance: str, port: int, address: str = "", passing: bool = True) -> None:
        check = {"TTL": "1h", "Status": "passing" if passing else "critical"}
        body = {"Name": service, "ID": instance, "Port": port, "Address": address, "Check": check}
        await self._tell("service/register", body)

    async def deregister(self, instance: str) -> None:
        await self._tell(f"service/deregister/{instance}")

    async def set_check(self, instance: str, passing: bool) -> None:
        await self._tell(f"check/{'pass' if passing else 'fail'}/service:{instance}")

    async def _tell(self, what: str, body: dict[str, Any] | None = None) -> None:
        async with self._session() as session, session.put(f"{self.address}/v1/agent/{what}", json=body) as response:
            assert response.status == 200, await response.text()

    def _session(self) -> aiohttp.ClientSession:
        trusted: ssl.SSLContext | bool = True
        if self.tls:
            trusted = ssl.create_default_context(cafile=str(self.tls / "ca.pem"))
            trusted.load_cert_chain(self.tls / "agent.pem", self.tls / "agent.key")
        headers = {"X-Consul-Token": TOKEN} if self.acl else {}
        return aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(ssl=trusted))


@asynccontextmanager
async def open_agent(
    kind: str, folder: Path, *, tls: Path | None = None, mutual: bool = False, acl: bool = False
) -> AsyncIterator[Agent]:
    """A running agent of one of `kinds_of_agent`; `folder` is for its files."""
    agent: Agent = EmulatedAgent(tls=tls, mutual=mutual, acl=acl)
    if kind != "emulator":
        agent = RealAgent(tls=tls, mutual=mutual, acl=acl, folder=folder)
    try:
        await agent.start()
        yield agent
    finally:
        await agent.stop()


class Asked(NamedTuple):
    """One health query as it came in."""

    service: str
    query: dict[str, str]
    token: str
    at_s: float
    """Of `time.monotonic`."""


@dataclass
class EmulatedAgent(Agent):
    datacenter: str = "dc1"
    asked: list[Asked] = field(default_factory=list)
    waiting: int = 0
    """Queries that are held right now."""
    most_waiting: int = 0
    silent: bool = False
    """Accept queries and never answer."""
    hasty: bool = False
    """Answer every query at once, new or not."""
    index_header: str | None = None
    """Sent in place of the index."""
    answer: tuple[int, str, dict[str, str]] | None = None
    """Status, body and headers sent in place of every answer."""
    index: int = 100
    _instances: dict[str, dict[str, Any]] = field(default_factory=dict)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        application = web.Application()
        application.router.add_get("/v1/health/service/{service}", self._health)
        application.router.add_put("/v1/agent/service/register", self._register)
        application.router.add_put("/v1/agent/service/deregister/{id}", self._deregister)
        application.router.add_put("/v1/agent/check/{state}/service:{id}", self._check)
        self._runner = web.AppRunner(application, shutdown_timeout=0.01, access_log=None, handler_cancellation=True)
        await self._runner.setup()
        context = None
        if self.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls / "agent.pem", self.tls / "agent.key")
            if self.mutual:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(self.tls / "ca.pem")
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=context).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        self._instances.clear()
        self.index = 100
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def count_to(self, index: int) -> None:
        """Set the index, also backwards, and wake who waits."""
        self.index = index
        self._changed.set()
        self._changed = asyncio.Event()

    async def _health(self, request: web.Request) -> web.StreamResponse:
        query, token = dict(request.query), request.headers.get("X-Consul-Token", "")
        self.asked.append(Asked(request.match_info["service"], query, token, time.monotonic()))
        if self.acl and token != TOKEN:
            return web.Response(status=403, text="ACL not found")
        if query.get("dc") != self.datacenter:
            return web.Response(status=500, text="No path to datacenter")
        await self._hold(query)
        if self.answer is not None:
            status, text, headers = self.answer
            return web.Response(status=status, text=text, headers=headers)
        service, passing = request.match_info["service"], "passing" in query
        found = [
            {"Node": {"Node": "vm", "Address": NODE_ADDRESS}, "Service": instance["Service"], "Checks": []}
            for instance in self._instances.values()
            if instance["Service"]["Service"] == service and (instance["passing"] or not passing)
        ]
        index = str(self.index) if self.index_header is None else self.index_header
        return web.json_response(found, headers={"X-Consul-Index": index} if index else {})

    async def _hold(self, query: dict[str, str]) -> None:
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            if self.silent:
                await asyncio.Event().wait()
            wait_s = float(query.get("wait", "300000ms").removesuffix("ms")) / 1000
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    if int(query.get("index", "-1")) >= self.index and not self.hasty and self.answer is None:
                        await self._changed.wait()
        finally:
            self.waiting -= 1

    async def _register(self, request: web.Request) -> web.Response:
        body = await request.json()
        service = {"ID": body["ID"], "Service": body["Name"], "Address": body["Address"], "Port": body["Port"]}
        self._instances[body["ID"]] = {"Service": service, "passing": body["Check"]["Status"] == "passing"}
        return self._done()

    async def _deregister(self, request: web.Request) -> web.Response:
        del self._instances[request.match_info["id"]]
        return self._done()

    async def _check(self, request: web.Request) -> web.Response:
        self._instances[request.match_info["id"]]["passing"] = request.match_info["state"] == "pass"
        return self._done()

    def _done(self) -> web.Response:
        self.count_to(self.index + 1)
        return web.Response()


@dataclass
class RealAgent(Agent):
    """`consul agent -dev`: a server of one, in memory, on free ports of the loopback."""

    folder: Path = Path()
    _process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        program = find_consul()
        assert program is not None
        self.port = self.port or free_port()
        settings = self.folder / "agent.json"
        settings.write_text(json.dumps(self._settings()))
        self._process = await asyncio.create_subprocess_exec(
            program, "agent", "-dev", "-bind=127.0.0.1", f"-config-file={settings}",
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        await self._wait_until_up()

    async def stop(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
            self._process = None

    def _settings(self) -> dict[str, Any]:
        ports = {"http": self.port, "https": -1, "grpc": -1, "dns": -1, "serf_wan": -1}
        if self.tls:
            ports |= {"http": -1, "https": self.port}
        settings: dict[str, Any] = {"ports": {**ports, "serf_lan": free_port(), "server": free_port()}}
        if self.tls:
            settings |= {"cert_file": str(self.tls / "agent.pem"), "key_file": str(self.tls / "agent.key")}
        if self.tls and self.mutual:
            settings |= {"ca_file": str(self.tls / "ca.pem"), "verify_incoming": True}
        if self.acl:
            # `master` is what newer agents call `initial_management`; they still take the old name.
            settings["acl"] = {"enabled": True, "default_policy": "deny", "tokens": {"master": TOKEN}}
        return settings

    async def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        async with self._session() as session:
            while not await self._has_leader(session):
                assert time.monotonic() < deadline, "consul does not come up"
                await asyncio.sleep(0.05)

    async def _has_leader(self, session: aiohttp.ClientSession) -> bool:
        assert self._process is not None
        assert self._process.returncode is None, "consul ended: see its configuration above"
        with suppress(aiohttp.ClientConnectionError):
            # Needs a leader, and with ACLs the token to be known.
            async with session.get(f"{self.address}/v1/catalog/nodes") as response:
                return response.status == 200 and bool(await response.json())
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
