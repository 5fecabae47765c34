"""The client's side of one RPC on a grpc.aio handler: the session's `Call`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import grpc
import grpc.aio

from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.engines.generic_handler.coroutine_loop import CoroutineLoop
from grpcgw.engines.generic_handler.pod_attempt import (
    RPC_ENDED,
    AttemptOwner,
    CopyOwner,
    Outgoing,
    PodAttempt,
    PolicyRpcOwner,
    UnaryAttempt,
)
from grpcgw.engines.generic_handler.pod_connection import PodConnection
from grpcgw.listeners.open_ports import PortView
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.client_certificates import read_certificate
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.request import Request, parse_peer
from grpcgw.session.call import Attempt, Opening, PolicyRpcEvents, Timer, TryEvents
from grpcgw.session.forwarding import has_own_keys, trim
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod

COALESCE_WINDOW_S = 0.005
"""How long to wait for what usually arrives together: grpc.aio reports each part by itself, microseconds apart."""

NO_DEADLINE_S = 1e9
"""grpcio reports "no deadline" as a remaining time beyond this."""
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
"""grpc.aio takes numbers as well, but UNAUTHENTICATED's for one it does not know."""


class RpcEngine(Protocol):
    """What an RPC uses of its engine."""

    serving: Serving
    coroutines: CoroutineLoop

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run `work` in the engine's loop; it contains its own exceptions."""
        ...


class ClientRpc(AttemptOwner):
    carries_frames = False

    """Everything happens in the engine's loop."""

    def __init__(self, engine: RpcEngine, port: PortView, path: str, metadata: Metadata, context: Any) -> None:
        super().__init__(engine.spawn)
        self._engine, self.port, self._context = engine, port, context
        self._over: asyncio.Future[tuple[Metadata | None, bytes | None, Status]] = (
            asyncio.get_running_loop().create_future()
        )
        self._timer: asyncio.TimerHandle | None = None
        self._sends_headers = False
        self._aborted_with: Status | None = None
        now_s = time.monotonic()
        left_s = context.time_remaining()
        deadline_s = now_s + left_s if left_s is not None and left_s < NO_DEADLINE_S else None
        request = Request(path, "", trim(metadata), deadline_s, parse_peer(context.peer()), time.time(), port)
        request.has_own_keys = has_own_keys(request.metadata)
        if engine.serving.wants_certificate(port):
            request.certificate = read_certificate(context.auth_context())
        self.session: Exchange = begin_exchange(engine.serving, self, request, now_s)

    async def serve(self) -> None:
        """The RPC from start to end; cancelled by grpc.aio when the client is gone."""
        self._tell(self.session.start)
        try:
            headers, message, status = await self._over
        except asyncio.CancelledError:
            self.session.on_client_closed(time.monotonic())
            raise
        with contextlib.suppress(*RPC_ENDED):
            if headers:
                await self._context.send_initial_metadata(headers)
            if message is not None:
                await self._context.write(message)
        self._context.set_code(_STATUS_CODES.get(status.code, grpc.StatusCode.UNKNOWN))
        self._context.set_details(status.details)
        self._context.set_trailing_metadata(status.trailers)

    def _tell(self, event: Callable[[float], None]) -> None:
        try:
            event(time.monotonic())
        except Exception:  # a defect in one RPC must not end the loop that serves all
            self.end_for_defect()

    def _expire(self, timer: Timer) -> None:
        self._timer = None
        try:
            self.session.on_timer(timer, time.monotonic())
        except Exception:  # as in _tell
            self.end_for_defect()

    def sweep(self) -> None:
        self._tell(self.session.on_sweep)

    def end_for_drain(self) -> None:
        self._tell(self.session.on_drained)

    # --- the session's port

    def read(self) -> None:
        self.spawn(self._read())

    async def _read(self) -> None:
        try:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                # A half-close, or a client that is gone: core reports both alike. It closes a stream that is cut off in
                # one step, so that grpc.aio cancels `serve` before it answers a second read.
                message = await self._context.read()
        except RPC_ENDED:
            return  # `serve` ends as well
        if not self._over.cancelled():
            self.session.on_request_message(None if message is grpc.aio.EOF else message, time.monotonic())

    def send(self, headers: Metadata | None, message: bytes | None) -> bool:
        self._sends_headers = headers is not None
        self.spawn(self._send(headers, message))
        return False

    async def _send(self, headers: Metadata | None, message: bytes | None) -> None:
        ok = True
        try:
            if headers is not None:
                await self._context.send_initial_metadata(headers)
                self._sends_headers = False
            if message is not None and self._aborted_with is None:
                await self._context.write(message)
        except RPC_ENDED:
            ok = False
        self._sends_headers = False
        if self._aborted_with is not None:
            self.abort(self._aborted_with)
        self.session.on_client_sent(ok, time.monotonic())

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        if not self._over.done():
            self._over.set_result((None if headers_sent else headers, message, status))

    def abort(self, status: Status) -> None:
        if self._sends_headers:
            # grpc.aio would send headers again with the status; core refuses that, and the client got no status.
            self._aborted_with = status
        else:
            self.finish(None, None, status, True)

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        self.cancel_timer()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._expire, timer)

    def coalesce(self) -> None:
        self.set_timer(Timer.COALESCE, COALESCE_WINDOW_S)

    def cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def open(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float | None,
        first: Opening,
        copy: TryEvents | None = None,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, PodConnection)
        owner: AttemptOwner = self if copy is None else CopyOwner(self._engine.spawn, copy)
        owner.attempt = attempt = PodAttempt(owner, connection, Outgoing(path, authority, metadata, deadline_s))
        attempt.begin(first)
        return attempt

    def ask(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float,
        message: bytes,
        events: PolicyRpcEvents,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, PodConnection)
        owner = PolicyRpcOwner(self, events)
        owner.attempt = attempt = UnaryAttempt(owner, connection, Outgoing(path, authority, metadata, deadline_s))
        attempt.begin(Opening(message, True))
        return attempt

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        loop = asyncio.get_running_loop()

        def report(result: object) -> None:
            loop.call_soon_threadsafe(self._on_coroutine, on_result, result)

        return self._engine.coroutines.run(work, report)

    def _on_coroutine(self, on_result: Callable[[object, float], None], result: object) -> None:
        try:
            on_result(result, time.monotonic())
        except Exception:  # as in `_contain`
            self.end_for_defect()
