"""A service of external authorization that can be slow, reset, answer nonsense, or be down; on raw frames.

    python -m bench.moody_auth PORT

Each line of its input is a mood, and is echoed once the service is in it. A process of its own: it must not wait for
the thousand callers of the load.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum

from bench.backend import make_ruling
from bench.echo_pod import HEADERS, TRAILERS
from bench.frames import RST_STREAM, FrameConnection, Headers, make_frame
from grpcgw.cli.demo_processes import HOST, ROOT, free_port
from grpcgw.errors import UserError

SLOW_S = 15.0
RESETS_OF_A_CONNECTION = 50
"""Then the connection itself ends."""
RESET_CODES = (2, 7, 8, 11)
"""INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM."""


class Mood(StrEnum):
    PROMPT = "prompt"
    SLOW = "slow"
    RESETTING = "resetting"
    NONSENSE = "nonsense"
    DOWN = "down"


class MoodyAuth:
    """The process, for who starts it."""

    def __init__(self, port: int, process: asyncio.subprocess.Process) -> None:
        self.port, self._process = port, process

    async def be(self, mood: Mood) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{mood}\n".encode())
        if not await self._process.stdout.readline():
            raise UserError("the AuthService of the soak has ended")


@asynccontextmanager
async def running_auth() -> AsyncIterator[MoodyAuth]:
    """Prompt at first."""
    port, pipe = free_port(0), asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "bench.moody_auth", str(port))
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe)
    try:
        auth = MoodyAuth(port, process)
        await auth.be(Mood.PROMPT)
        yield auth
    finally:
        process.kill()
        await process.wait()


class _Service:
    def __init__(self, port: int) -> None:
        self.port, self.mood = port, Mood.DOWN
        self.connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def be(self, mood: Mood) -> None:
        self.mood = mood
        if mood is Mood.DOWN:
            self.close()
        elif self._server is None:
            self._server = await asyncio.get_running_loop().create_server(lambda: _Connection(self), HOST, self.port)

    def close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()
        for connection in tuple(self.connections):
            connection.close()


class _Connection(FrameConnection):
    def __init__(self, auth: _Service) -> None:
        super().__init__(is_client=False)
        self._auth = auth
        self._resets = itertools.count(1)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._auth.connections.add(self)
        super().connection_made(transport)

    def on_headers(self, stream: int, headers: Headers, ended: bool) -> None:
        pass

    def on_data(self, stream: int, data: memoryview, ended: bool) -> None:
        if ended:
            self._answer(stream)

    def on_lost(self, reason: str) -> None:
        """A stream that the gateway has reset, as it may, or the end of the connection."""
        if self._transport is None:
            self._auth.connections.discard(self)

    def _answer(self, stream: int) -> None:
        match self._auth.mood:
            case Mood.PROMPT:
                self._send(stream, make_ruling(False))
            case Mood.SLOW:
                asyncio.get_running_loop().call_later(SLOW_S, self._send_late, stream)
            case Mood.NONSENSE:
                self._send(stream, b"\xff" * (1 + stream % 100))
            case Mood.RESETTING:
                self._reset(stream)

    def _send_late(self, stream: int) -> None:
        self._send(stream, make_ruling(False))
        self.flush()

    def _send(self, stream: int, message: bytes) -> None:
        self.send_headers(stream, HEADERS)
        self.send_data(stream, memoryview(b"\0" + len(message).to_bytes(4, "big") + message))
        self.send_trailers(stream, TRAILERS)

    def _reset(self, stream: int) -> None:
        number = next(self._resets)
        if number % RESETS_OF_A_CONNECTION == 0:
            self.close()
            return
        code = RESET_CODES[number % len(RESET_CODES)]
        self._out.append(make_frame(RST_STREAM, 0, stream, code.to_bytes(4, "big")))


async def main(port: int) -> None:
    service = _Service(port)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await service.be(Mood(line.strip()))
        print(line, end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
