"""The load of `bench.soak`: callers that never pause and streams that are cancelled; each answer's status is judged."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import grpc.aio

from bench.backend import METHOD, STREAM_METHOD, make_request
from grpcgw.cli.demo_processes import HOST
from tests.jwts import Signer, make_signer, write_jwks

CALLERS, CHANNELS, STREAMS = 1000, 20, 50
DEADLINE_S = 30.0
"""Of each RPC, and far beyond every limit of the gateway: who meets it was forgotten."""
OK, UNAVAILABLE, CANCELLED = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED
OF_CLIENT = "Internal error from Core"
"""What grpc.aio makes, by itself, of a stream that is refused while it sends its first message."""
SERVED, REFUSED_OR_SERVED = frozenset({OK}), frozenset({OK, UNAVAILABLE})


@dataclass(slots=True)
class Phase:
    name: str
    allowed: frozenset[grpc.StatusCode]
    codes: Counter[grpc.StatusCode] = field(default_factory=Counter)
    """Of RPCs that ended in it; a stream that its client cancelled is CANCELLED."""
    wrong: Counter[str] = field(default_factory=Counter)
    """By what clients saw: statuses that neither this phase nor the one in which the RPC began allows."""
    slowest_s: float = 0.0
    running: int = 0
    """RPCs that began in it and have not ended."""


class Issuer:
    """Shows the keys of `signers`, and signs `tokens`."""

    def __init__(self) -> None:
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(write_jwks(*issuer.signers))

            def log_message(self, format: str, *args: object) -> None:
                pass

        first = make_signer("key-0", "ES256")
        self.signers: tuple[Signer, ...] = (first,)
        self.tokens: tuple[str, ...] = ()
        self.sign_by(first)
        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        self.url = f"http://{HOST}:{self._server.server_port}/jwks"

    def sign_by(self, signer: Signer) -> None:
        claims = {"exp": time.time() + 86_400}
        self.tokens = tuple([signer.sign({**claims, "sub": f"user-{number}"}) for number in range(100)])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Load:
    """Callers that never pause, over connections of their own."""

    def __init__(self, port: int, issuer: Issuer) -> None:
        self._issuer, self._stopping = issuer, False
        self.phase = Phase("start", SERVED)
        self.hung = 0
        """RPCs that had not ended long after their deadline."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
        self._channels = [grpc.aio.insecure_channel(f"{HOST}:{port}", options) for _ in range(CHANNELS)]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loops = [self._call_again(number) for number in range(CALLERS)]
        loops += [self._stream_again(number) for number in range(STREAMS)]
        self._tasks = [asyncio.create_task(one) for one in loops]

    async def stop(self) -> None:
        """Let all RPCs end."""
        self._stopping = True
        if self._tasks:
            _, hung = await asyncio.wait(self._tasks, timeout=2 * DEADLINE_S)
            self.hung = len(hung)
            for task in hung:
                task.print_stack()
                task.cancel()
        for channel in self._channels:
            await channel.close()

    async def probe(self) -> bool:
        """Whether an RPC is served now."""
        call = self._channels[0].unary_unary(METHOD)(make_request(), timeout=DEADLINE_S, metadata=self._metadata())
        return await call.code() is OK

    async def wait_until_served(self, seconds: float) -> bool:
        until_s = time.monotonic() + seconds
        while not (served := await self.probe()) and time.monotonic() < until_s:  # noqa: ASYNC110  # no event tells it
            await asyncio.sleep(0.1)
        return served

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {random.choice(self._issuer.tokens)}"),)

    async def _call_again(self, number: int) -> None:
        call = self._channels[number % CHANNELS].unary_unary(METHOD)
        while not self._stopping:
            began, began_s = self._begin()
            rpc = call(make_request(), timeout=DEADLINE_S, metadata=self._metadata())
            self._note(began, await rpc.code(), await rpc.details(), time.monotonic() - began_s)

    async def _stream_again(self, number: int) -> None:
        call = self._channels[number % CHANNELS].stream_stream(STREAM_METHOD)
        while not self._stopping:
            began, began_s = self._begin()
            stream = call(timeout=DEADLINE_S, metadata=self._metadata())
            writing = asyncio.create_task(stream.write(make_request()))
            await asyncio.sleep(random.uniform(0.0, 2.0))
            cancelled = stream.cancel()
            writing.cancel()  # grpc.aio would let it wait for ever
            await asyncio.gather(writing, return_exceptions=True)
            code, details = await stream.code(), await stream.details()
            own = cancelled or details == OF_CLIENT
            self._note(began, code, details, time.monotonic() - began_s, cancelled=own)

    def _begin(self) -> tuple[Phase, float]:
        self.phase.running += 1
        return self.phase, time.monotonic()

    def _note(self, began: Phase, code: grpc.StatusCode, details: str, took_s: float, cancelled: bool = False) -> None:
        phase = self.phase
        began.running -= 1
        phase.codes[CANCELLED if cancelled else code] += 1
        phase.slowest_s = max(phase.slowest_s, took_s)
        if not cancelled and code not in began.allowed | phase.allowed:
            phase.wrong[f"{code.name}: {details}"] += 1
