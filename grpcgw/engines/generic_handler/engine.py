"""The engine on grpcio's public API: sessions driven by a `grpc.GenericRpcHandler` of `grpc.aio`.

Slower than the completion-queue engine, and for whoever cannot or will not use grpcio's private parts: `LoopProxy` also
is how grpcgw is embedded in another `grpc.aio` server. The engine runs one in a loop and thread of its own. What the
public API hides it cannot do: the client's `:authority` is not visible to a handler (docs/data-plane.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from grpcgw import __version__
from grpcgw.engines.contract import REFUSING_S, ServerOptions, channel_arguments, pod_target, sweep_interval_s
from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.engines.generic_handler.port import HandlerPort
from grpcgw.engines.health_probe import CHECK_METHOD, encode_request, judge_answer
from grpcgw.engines.pod_credentials import make_credentials
from grpcgw.listeners.open_ports import SOME_PORT, Ports, PortView
from grpcgw.logs import DefectLog
from grpcgw.model.balancing import HealthCheck
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import PodState
from grpcgw.model.listener import Listener
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import POD_LEFT, Reason, Status
from grpcgw.policy.client_certificates import read_certificate
from grpcgw.policy.held_messages import HeldMessages
from grpcgw.policy.request import Request, parse_peer
from grpcgw.policy.timeouts import upstream_deadline
from grpcgw.session.call import JOIN_WINDOW_S, Attempt, CopyEvents, Opening
from grpcgw.session.forwarding import is_sendable
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Connection, Pod, close_connections

log = logging.getLogger(__name__)

REFRESH_S = 0.05
CUT_OFF_S = 1.0
"""How long an RPC that was ended because its port closes may take to be over, before grpc cuts it off."""
NO_DEADLINE_S = 1e9
"""A remaining time beyond this is grpcio's way to say that there is no deadline."""

_STATES = {
    grpc.ChannelConnectivity.IDLE: PodState.IDLE,
    grpc.ChannelConnectivity.CONNECTING: PodState.CONNECTING,
    grpc.ChannelConnectivity.READY: PodState.READY,
    grpc.ChannelConnectivity.TRANSIENT_FAILURE: PodState.FAILING,
    grpc.ChannelConnectivity.SHUTDOWN: PodState.FAILING,
}
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}
"""grpc.aio takes numbers as well, but UNAUTHENTICATED's for one it does not know."""
WRITE_FAILED = "Internal error from Core"
"""grpc.aio's words for an RPC that was over before a message was written."""
LOST_STATUS_S = 1.0
"""How long after a write that failed the pod's own status may still come."""
LOST_STATUS_TURNS = 20
"""Parts of that time, each waited for by itself: while the loop is held up, at most one of them passes."""
_SOME_TLS_PORT = PortView(tls=True, asks_clients=True)
_ENDED = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError)
"""What grpc.aio raises for reading or writing on an RPC that is over; its status comes another way."""


class _PodConnection:
    """The channels to one pod, made in the engine's loop when they are first looked at.

    One for each `:authority` that Mappings ask for: the public API takes no authority per call.
    """

    def __init__(self, engine: LoopProxy, address: str, settings: ConnectionSettings) -> None:
        self._engine, self._address, self._settings = engine, address, settings
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._woken = False
        self.closed = False

    def channel(self, authority: str = "") -> grpc.aio.Channel:
        tls = self._settings.tls
        if tls is not None and authority == (tls.authority or tls.server_name):
            authority = ""  # it is the channel's own
        if authority not in self._channels:
            self._channels[authority] = self._open(authority)
        return self._channels[authority]

    def _open(self, authority: str) -> grpc.aio.Channel:
        target, tls = pod_target(self._address), self._settings.tls
        arguments = self._engine.channel_arguments(self._settings)
        if authority:
            arguments.append(("grpc.default_authority", authority))
        if tls is None:
            return grpc.aio.insecure_channel(target, arguments)
        return grpc.aio.secure_channel(target, make_credentials(tls), arguments)

    def connectivity(self, authority: str) -> PodState:
        """Of the channel for `authority`, which is made to connect. FAILING once it is closed."""
        if self.closed:
            return PodState.FAILING
        return _STATES[self.channel(authority).get_state(try_to_connect=True)]

    def explain(self) -> str:
        return "the connection is closed" if self.closed else "there is no connection to it"

    def state(self) -> PodState:
        # A connection that may rest is woken once, to know that it can be; afterwards by its RPCs alone.
        rests = self._settings.idle_timeout_ms is not None
        state = _STATES[self.channel().get_state(try_to_connect=not (rests and self._woken))]
        self._woken |= state is PodState.READY
        return state

    def check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        self._engine.spawn(self._check_health(check, report))

    async def _check_health(self, check: HealthCheck, report: Callable[[str], None]) -> None:
        ask = self.channel(check.authority).unary_unary(CHECK_METHOD)
        call = ask(encode_request(check), timeout=check.timeout_ms / 1000)
        code = await call.code()
        reply = await call if code is grpc.StatusCode.OK else None
        if not self.closed:
            report(judge_answer(check, code.value[0], await call.details() or "", reply))

    def close(self) -> None:
        self.closed = True
        for channel in self._channels.values():
            self._engine.spawn(channel.close(None))


@dataclass(frozen=True, slots=True)
class _Outgoing:
    """What a try says before its messages. `deadline_s` is monotonic."""

    path: str
    authority: str
    metadata: Metadata
    deadline_s: float | None

    def left_s(self) -> float | None:
        if self.deadline_s is None:
            return None
        now_s = time.monotonic()
        return max(0.0, upstream_deadline(self.deadline_s, now_s) - now_s)


class _Attempt:
    """One try on one pod.

    Nothing in grpcio's public API proves that a pod did not see an RPC. So what is not connected is given no RPC: it
    waits here, where it provably went nowhere.
    """

    def __init__(self, rpc: _Rpc | _Copying, connection: _PodConnection, outgoing: _Outgoing) -> None:
        self._rpc, self._connection, self._outgoing = rpc, connection, outgoing
        self._call: Any = None
        self._ended: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[None] | None = None

    def begin(self, first: Opening) -> None:
        """Raises ConnectionError where the connection was closed meanwhile."""
        if self._connection.connectivity(self._outgoing.authority) is PodState.READY:
            self._start(first)
        else:
            self._rpc.spawn(self._start_connected(first))

    def _start(self, first: Opening) -> None:
        outgoing = self._outgoing
        try:
            start = self._connection.channel(outgoing.authority).stream_stream(outgoing.path)
            self._call = start(metadata=outgoing.metadata, timeout=outgoing.left_s())
        except grpc.aio.UsageError as closed:
            raise ConnectionError(str(closed)) from closed
        self._call.add_done_callback(self._note_status)
        self.send(first.message, first.half_close)
        self._rpc.spawn(self._receive_headers())
        self._rpc.spawn(self._read())
        self._rpc.spawn(self._receive_status())

    async def _start_connected(self, first: Opening) -> None:
        outgoing = self._outgoing
        while not self._ended.done():
            state = self._connection.connectivity(outgoing.authority)
            left_s = outgoing.left_s()
            if state is PodState.READY:
                try:
                    self._start(first)
                    return
                except ConnectionError as closed:
                    self._end(Status(Code.UNAVAILABLE, str(closed), cause=Reason.CONNECT_FAILED))
            elif state is PodState.FAILING:
                self._end(Status(Code.UNAVAILABLE, self._connection.explain(), cause=Reason.CONNECT_FAILED))
            elif left_s is not None and not left_s:
                self._end(Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded"))
            else:
                await asyncio.sleep(JOIN_WINDOW_S)  # grpc.aio's own waiting may outlast the channel
        self._report_never_sent()

    def _report_never_sent(self) -> None:
        session, now_s = self._rpc.session, time.monotonic()
        session.on_pod_sent(False, now_s)
        session.on_pod_headers(None, now_s)
        session.on_pod_message(None, now_s)
        session.on_pod_status(self._ended.result(), now_s)

    def read(self) -> None:
        self._rpc.spawn(self._read())

    def send(self, message: bytes | None, half_close: bool) -> None:
        self._sending = self._rpc.spawn(self._send(message, half_close))

    def cancel(self) -> None:
        if self._call is None:
            self._end(Status(Code.CANCELLED, ""))
        else:
            self._call.cancel()

    async def _send(self, message: bytes | None, half_close: bool) -> None:
        ok = True
        try:
            if message is not None:
                await self._call.write(message)
            if half_close:
                await self._call.done_writing()
        except _ENDED:
            ok = False
        if self._current():
            self._rpc.session.on_pod_sent(ok, time.monotonic())

    async def _receive_headers(self) -> None:
        headers: Metadata = ()
        with contextlib.suppress(*_ENDED):
            headers = tuple(await self._call.initial_metadata() or ())
        if self._current():
            self._rpc.session.on_pod_headers(headers, time.monotonic())

    async def _read(self) -> None:
        try:
            message = await self._call.read()
        except _ENDED:
            message = grpc.aio.EOF
        if self._current():
            self._rpc.session.on_pod_message(None if message is grpc.aio.EOF else message, time.monotonic())

    async def _receive_status(self) -> None:
        status = await self._ended
        if self._current():
            self._rpc.session.on_pod_status(status, time.monotonic())

    def _note_status(self, _: object) -> None:
        """Called for each status grpc.aio gives the RPC.

        A write that fails because the pod has ended the RPC gives it one too, before or after the pod's: it must be
        read before the next replaces it, and only the pod's counts. Once in thousands that never comes. Where nothing
        is being written these are the pod's own words.
        """
        status = _result(self._read_status())
        is_writing = self._sending is not None and not self._sending.done()
        if is_writing and status.code == Code.INTERNAL and status.details == WRITE_FAILED:
            self._await_pods_status(status, LOST_STATUS_TURNS)
        else:
            self._end(status)

    def _await_pods_status(self, status: Status, turns: int) -> None:
        """End with `status` unless the pod's own comes first."""
        if not turns:
            self._end(status)
        elif not self._ended.done():
            loop = asyncio.get_running_loop()
            loop.call_later(LOST_STATUS_S / LOST_STATUS_TURNS, self._await_pods_status, status, turns - 1)

    def _end(self, status: Status) -> None:
        if not self._ended.done():
            self._ended.set_result(status)
            if self._sending is not None:
                # grpc.aio lets a write wait for ever where the RPC ended before it had a connection. It has begun by
                # the time that this is called.
                asyncio.get_running_loop().call_soon(self._sending.cancel)

    async def _read_status(self) -> Status:
        code = await self._call.code()
        if code is grpc.StatusCode.CANCELLED and self._connection.closed:
            return Status(Code.UNAVAILABLE, POD_LEFT, cause=Reason.CONNECTION_LOST)
        details = await self._call.details() or ""
        unsendable = code is grpc.StatusCode.INTERNAL and not is_sendable(self._outgoing.metadata)
        cause = Reason.BAD_METADATA if unsendable else None
        return Status(code.value[0], details, tuple(await self._call.trailing_metadata() or ()), cause)

    def _current(self) -> bool:
        return self._rpc.attempt is self


def _result(coroutine: Coroutine[Any, Any, Status]) -> Status:
    """What a coroutine returns that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        status: Status = returned.value
        return status
    raise AssertionError("the status of an RPC that is over had to be waited for")


class _Rpc:
    """One RPC on the client's side: the session's `Call`. Everything happens in the engine's loop."""

    def __init__(self, engine: LoopProxy, port: PortView, path: str, metadata: Metadata, context: Any) -> None:
        self._engine, self.port, self._context = engine, port, context
        self._over: asyncio.Future[tuple[Metadata | None, bytes | None, Status]] = (
            asyncio.get_running_loop().create_future()
        )
        self._join: asyncio.TimerHandle | None = None
        self.attempt: _Attempt | None = None
        now_s = time.monotonic()
        left_s = context.time_remaining()
        deadline_s = now_s + left_s if left_s is not None and left_s < NO_DEADLINE_S else None
        request = Request(path, "", metadata, deadline_s, parse_peer(context.peer()), time.time(), port)
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
        with contextlib.suppress(*_ENDED):
            if headers:
                await self._context.send_initial_metadata(headers)
            if message is not None:
                await self._context.write(message)
        self._context.set_code(_STATUS_CODES.get(status.code, grpc.StatusCode.UNKNOWN))
        self._context.set_details(status.details)
        self._context.set_trailing_metadata(status.trailers)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._engine.spawn(self._contain(work))

    async def _contain(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # a defect in one RPC must not end the loop that serves all
            self._end_for_defect()

    def _tell(self, event: Callable[[float], None]) -> None:
        try:
            event(time.monotonic())
        except Exception:  # as in _contain
            self._end_for_defect()

    def _end_for_defect(self) -> None:
        """For an exception that is being handled."""
        log.exception("defect: an event of an RPC could not be handled")
        try:
            self.session.on_defect(time.monotonic())
        except Exception:  # two defects in one RPC: the others must go on
            log.exception("defect: an RPC could not be ended")

    def on_join_expired(self) -> None:
        self._tell(self.session.on_join_expired)

    def sweep(self) -> None:
        self._tell(self.session.on_sweep)

    def end_for_drain(self) -> None:
        self._tell(self.session.on_drained)

    # --- what the session asks for

    def read(self) -> None:
        self.spawn(self._read())

    async def _read(self) -> None:
        try:
            message = await self._context.read()
            if message is grpc.aio.EOF:
                # A half-close, or a client that is gone: core says the same of both. It closes a stream that is cut
                # off in one step, so that grpc.aio cancels `serve` before it answers a second question.
                message = await self._context.read()
        except _ENDED:
            return  # `serve` ends as well
        if not self._over.cancelled():
            self.session.on_request_message(None if message is grpc.aio.EOF else message, time.monotonic())

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        self.spawn(self._send(headers, message))

    async def _send(self, headers: Metadata | None, message: bytes | None) -> None:
        ok = True
        try:
            if headers is not None:
                await self._context.send_initial_metadata(headers)
            if message is not None:
                await self._context.write(message)
        except _ENDED:
            ok = False
        self.session.on_client_sent(ok, time.monotonic())

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        if not self._over.done():
            self._over.set_result((None if headers_sent else headers, message, status))

    def abort(self, status: Status) -> None:
        self.finish(None, None, status, True)

    def join(self, delay_s: float = JOIN_WINDOW_S) -> None:
        self.leave()
        loop = asyncio.get_running_loop()
        self._join = loop.call_later(delay_s, self.on_join_expired)

    def leave(self) -> None:
        if self._join is not None:
            self._join.cancel()
            self._join = None

    def open(
        self,
        pod: Pod,
        path: str,
        authority: str,
        metadata: Metadata,
        deadline_s: float | None,
        first: Opening,
        copy: CopyEvents | None = None,
    ) -> Attempt:
        connection = pod.connection
        assert isinstance(connection, _PodConnection)
        owner = self if copy is None else _Copying(self._engine, copy)
        owner.attempt = attempt = _Attempt(owner, connection, _Outgoing(path, authority, metadata, deadline_s))
        attempt.begin(first)
        return attempt


class _Copying:
    """Stands in for the RPC where a try is a copy's, which may outlive it."""

    def __init__(self, engine: LoopProxy, copy: CopyEvents) -> None:
        self._engine, self.session = engine, copy
        self.attempt: _Attempt | None = None

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._engine.spawn(self._contain(work))

    async def _contain(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # as in _Rpc
            log.exception("defect: an event of a copy could not be handled")
            self.session.on_defect(time.monotonic())


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio publishes no types
    """Takes every method: what is served is the snapshot's business."""

    def __init__(self, engine: LoopProxy, port: PortView | None) -> None:
        self._engine, self._port = engine, port

    def service(self, details: Any) -> Any:
        async def behaviour(_: Any, context: Any) -> None:
            port = self._port or self._engine.see_port(context)
            await self._engine.serve(port, details.method, tuple(details.invocation_metadata), context)

        return grpc.stream_stream_rpc_method_handler(behaviour)


class LoopProxy:
    """RPCs of one event loop, which is whoever's it is made to `start` in; all but `serving` belongs to that loop."""

    def __init__(self, max_metadata_bytes: int, first_turn: int = 0, drain_time_s: float = 30.0) -> None:
        self._max_metadata_bytes = max_metadata_bytes
        self.serving = Serving(self._connect, first_turn, drain_time_s, max_metadata_bytes)
        self._active: set[_Rpc] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._house: asyncio.Task[None] | None = None

    def handler(self, port: PortView | None = None) -> grpc.GenericRpcHandler:
        """For a `grpc.aio` server that runs in this loop. Without `port` it is somebody else's."""
        return _Handler(self, port)

    async def start(self, settle_s: float) -> None:
        """Keep connections to the pods from now on; returns when each is tried, at the latest after `settle_s`."""
        self._house = asyncio.get_running_loop().create_task(self._keep_house(), name="housekeeping")
        limit_s = time.monotonic() + settle_s
        while time.monotonic() < limit_s:
            self._refresh(time.monotonic())
            if self.serving.clusters.settled():
                return
            await asyncio.sleep(JOIN_WINDOW_S)

    def refuse(self) -> None:
        """Take no new RPCs from now on."""
        self.serving.begin_drain(time.monotonic())
        for rpc in self._active.copy():
            rpc.sweep()

    async def finish(self, limit_s: float, port: PortView | None = None) -> None:
        """Wait until the last RPC (of `port`) is over, at most `limit_s`; then end the rest with UNAVAILABLE."""
        limit = time.monotonic() + limit_s
        while self._running(port) and time.monotonic() < limit:  # noqa: ASYNC110 - rare: no event for every RPC
            await asyncio.sleep(REFRESH_S)
        for rpc in self._running(port):
            rpc.end_for_drain()

    def _running(self, port: PortView | None) -> list[_Rpc]:
        return [rpc for rpc in self._active if port is None or rpc.port is port]

    async def stop(self) -> None:
        """Close every connection; returns when nothing runs any more."""
        if self._house is not None:
            self._house.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._house
        close_connections(self.serving.clusters.pods())
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- for RPCs and connections

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """Run `work`, and keep it from being collected while it runs. It must contain its own exceptions."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def see_port(self, context: Any) -> PortView:
        """Of an RPC that came in by somebody else's port."""
        return _SOME_TLS_PORT if context.auth_context().get("transport_security_type") == [b"ssl"] else SOME_PORT

    async def serve(self, port: PortView, path: str, metadata: Metadata, context: Any) -> None:
        rpc = _Rpc(self, port, path, metadata, context)
        self._active.add(rpc)
        try:
            await rpc.serve()
        finally:
            self._active.discard(rpc)

    def channel_arguments(self, settings: ConnectionSettings) -> list[tuple[str, int | str]]:
        return channel_arguments(self._max_metadata_bytes, f"grpcgw/{__version__}", settings)

    def _connect(self, address: str, settings: ConnectionSettings) -> Connection:
        return _PodConnection(self, address, settings)

    async def _keep_house(self) -> None:
        defects = DefectLog(log)
        next_sweep_s = 0.0
        while True:
            now_s = time.monotonic()
            pause_s = REFRESH_S
            try:
                if now_s >= next_sweep_s:
                    next_sweep_s = now_s + sweep_interval_s(self.serving.snapshot)
                    for rpc in self._active.copy():
                        rpc.sweep()
                pause_s = min(self._refresh(now_s), max(0.0, next_sweep_s - now_s))
            except Exception:  # without it dead pods stay and no RPC is ended in time: it must go on
                defects.note("housekeeping stumbled")
            await asyncio.sleep(pause_s)

    def _refresh(self, now_s: float) -> float:
        """How soon to do it again, in seconds."""
        close_connections(self.serving.refresh(now_s))
        return REFRESH_S if self.serving.clusters.settled() else JOIN_WINDOW_S


class GenericHandlerEngine:
    """A `LoopProxy` with a loop, a thread and ports of its own."""

    name = "generic-handler"

    def __init__(self, options: ServerOptions, first_turn: int = 0, drain_time_s: float = 30.0) -> None:
        self._options, self._drain_time_s = options, drain_time_s
        self._proxy = LoopProxy(options.max_metadata_bytes, first_turn, drain_time_s)
        self.serving = self._proxy.serving
        self.serving.held = HeldMessages(options.max_message_bytes)
        self.ports = Ports(self._open_port)
        self._closing_ports: set[HandlerPort] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpcgw loop", daemon=True)

    # --- called from outside the loop

    def start(self, settle_s: float) -> None:
        self._thread.start()
        self._run(self._proxy.start(settle_s))

    def drain(self, limit_s: float) -> None:
        self._run(self._refuse(min(REFUSING_S, limit_s)))
        self.ports.update(())
        self._run(self._drain(limit_s))

    def stop(self) -> None:
        if self._thread.is_alive():
            if not self.serving.draining:
                self.drain(0.0)
            self._run(self._proxy.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _open_port(self, listener: Listener, view: PortView) -> HandlerPort:
        handler = self._proxy.handler(view)
        port = HandlerPort(self._options, listener, view, handler, self._note_closing, self._drain_time_s)
        self._run(port.start())
        return port

    def _note_closing(self, port: HandlerPort) -> None:
        self._loop.call_soon_threadsafe(self._begin_to_close, port)

    # --- in the loop

    def _begin_to_close(self, port: HandlerPort) -> None:
        self._closing_ports.add(port)
        self._proxy.spawn(self._see_out(port))

    async def _see_out(self, port: HandlerPort) -> None:
        await self._stop_port(port, self._drain_time_s)
        self._closing_ports.discard(port)

    async def _stop_port(self, port: HandlerPort, limit_s: float) -> None:
        # The server says goodbye to its clients at once, and waits a little longer than the proxy does.
        await asyncio.gather(port.stop(limit_s + CUT_OFF_S), self._proxy.finish(limit_s, port.view))

    async def _refuse(self, pause_s: float) -> None:
        self._proxy.refuse()
        await asyncio.sleep(pause_s)

    async def _drain(self, limit_s: float) -> None:
        await asyncio.gather(*(self._stop_port(port, limit_s) for port in self._closing_ports))
