"""Keeps a `grpc.aio` server running: starts another when one dies. Everything is in one event loop.

A server of grpc.aio ends for good when one request has a path that is not UTF-8: its accepting coroutine raises, and
the public API cannot refuse such a request. RPCs on the dead server continue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

import grpc.aio

log = logging.getLogger(__name__)

WATCH_S = 0.1
"""How often the server is checked. Also the shortest time between two starts."""

MakeServer = Callable[[], Awaitable[grpc.aio.Server]]


class LastingServer:
    def __init__(self, name: str, make: MakeServer, grace_s: float) -> None:
        """`make` starts and returns a server, on the same ports each time; it raises if it cannot. `grace_s`: how long
        RPCs on a dead server may continue.
        """
        self._name, self._make, self._grace_s = name, make, grace_s
        self._server: grpc.aio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._stopping = False
        self._dead: dict[grpc.aio.Server, asyncio.Task[None]] = {}
        self.fault = ""
        """Why no server runs now; empty: one runs. Any thread may read it."""

    async def start(self) -> None:
        """Raises what `make` raises."""
        self._server = await self._make()
        self._watching = asyncio.create_task(self._watch(), name=f"watch over {self._name}")

    async def stop(self, grace_s: float) -> None:
        """Send GOAWAY to clients; returns when the last RPC is over, after `grace_s` at most. Again: sooner."""
        self._stopping = True  # asyncio.wait_for of Python 3.11 may lose a cancellation at the moment of its time-out
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        servers = [*self._dead, *([] if self._server is None else [self._server])]
        await asyncio.gather(*(_end(server, grace_s) for server in servers), *self._dead.values())

    async def _watch(self) -> None:
        while self._server is not None:
            self.fault = await self._wait_for_death(self._server)
            if not self.fault:
                return
            log.error("the server of %s died and is started again: %s", self._name, self.fault)
            self._bury(self._server)
            self._server = None
            await self._replace()

    def _bury(self, server: grpc.aio.Server) -> None:
        burial = asyncio.create_task(_end(server, self._grace_s))
        self._dead[server] = burial
        burial.add_done_callback(lambda _: self._dead.pop(server, None))

    async def _wait_for_death(self, server: grpc.aio.Server) -> str:
        """Why `server` died; empty: it was stopped."""
        try:
            while await server.wait_for_termination(WATCH_S) and not self._stopping:
                pass
        except Exception as error:  # whatever ended it
            return f"{type(error).__name__}: {error}"
        return ""

    async def _replace(self) -> None:
        while self._server is None and not self._stopping:
            try:
                self._server = await self._make()
                self.fault = ""
            except Exception as error:  # `make` may be the host's own, and a port may be taken meanwhile
                self.fault = str(error) or type(error).__name__
                await asyncio.sleep(WATCH_S)


async def _end(server: grpc.aio.Server, grace_s: float) -> None:
    with contextlib.suppress(Exception):  # the first call to stop a dead server raises the exception that ended it
        await server.stop(grace_s)
        return
    await server.stop(grace_s)
