"""The client's side of one RPC on grpc core's server calls: the session's `Call`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from grpcgw.engines.completion_queue.core import (
    NO_FLAGS,
    RECEIVE_CLOSE,
    RECEIVE_MESSAGE,
    SEND_HEADERS,
    SEND_MESSAGE,
    SEND_STATUS,
    Event,
    cygrpc,
    ignore,
)
from grpcgw.engines.completion_queue.pod_attempt import AttemptOwner, CopyOwner, PodAttempt, PolicyRpcOwner
from grpcgw.engines.completion_queue.pod_connection import PodConnection
from grpcgw.engines.completion_queue.port import QueuePort
from grpcgw.engines.coroutine_loop import CoroutineLoop
from grpcgw.engines.exchange import Exchange, begin_exchange
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.client_certificates import read_certificate
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.request import Peer, Request
from grpcgw.policy.timeouts import upstream_deadline
from grpcgw.session.call import Attempt, Opening, PolicyRpcEvents, Timer, TryEvents
from grpcgw.session.forwarding import trim
from grpcgw.session.serving import Serving
from grpcgw.upstream.pod import Pod

log = logging.getLogger(__name__)

NO_DEADLINE_S = 4e9
"""cygrpc gives "no deadline" as a huge epoch value; taken for a deadline it would end every RPC at once."""


class RpcEngine(Protocol):
    """What an RPC uses of its engine."""

    serving: Serving
    timers: dict[ClientRpc, tuple[float, Timer]]
    """Expiry and purpose of an RPC's timer. Changed under the RPC's lock."""

    coroutines: CoroutineLoop

    def peer(self, call: Any) -> Peer: ...
    def set_timer(self, rpc: ClientRpc, timer: Timer, delay_s: float) -> None: ...
    def forget(self, rpc: ClientRpc) -> None:
        """The RPC is over."""
        ...


class ClientRpc(AttemptOwner):
    """Its events come from several threads; `lock` makes them one at a time for the session."""

    __slots__ = ("_asked_again", "_call", "_closed", "_engine", "port")

    carries_frames = False

    def __init__(self, engine: RpcEngine, port: QueuePort, event: Event, now_s: float) -> None:
        self._engine, self.port, self._call = engine, port, event.call
        self.lock = threading.Lock()
        self._closed = self._asked_again = False
        self.attempt = None
        details = event.call_details
        deadline_s, wall_s = details.deadline, time.time()
        request = Request(
            details.method.decode("utf-8", "replace"),
            details.host.decode("utf-8", "replace"),
            trim(event.invocation_metadata),
            now_s + deadline_s - wall_s if deadline_s < NO_DEADLINE_S else None,
            engine.peer(event.call),
            wall_s,
            port.view,
        )
        if engine.serving.wants_certificate(port.view):
            request.certificate = read_certificate(cygrpc.auth_context(event.call))
        self.session: Exchange = begin_exchange(engine.serving, self, request, now_s)

    def start(self, now_s: float) -> None:
        with self.lock:
            self._call.start_server_batch((RECEIVE_CLOSE(NO_FLAGS),), self._on_closed)
            self.session.start(now_s)

    # --- the session's port

    def read(self) -> None:
        self._call.start_server_batch((RECEIVE_MESSAGE(NO_FLAGS),), self._on_message)

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        operations: tuple[Any, ...] = () if headers is None else (SEND_HEADERS(headers, NO_FLAGS),)
        if message is not None:
            operations += (SEND_MESSAGE(message, NO_FLAGS),)
        self._call.start_server_batch(operations, self._on_sent)

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        operations: tuple[Any, ...] = () if headers_sent else (SEND_HEADERS(headers or (), NO_FLAGS),)
        if message is not None:
            operations += (SEND_MESSAGE(message, NO_FLAGS),)
        operations += (SEND_STATUS(status.trailers, status.code, status.details, NO_FLAGS),)
        self._call.start_server_batch(operations, ignore)

    def abort(self, status: Status) -> None:
        self._call.cancel(status.code, status.details)

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        self._engine.set_timer(self, timer, delay_s)

    def cancel_timer(self) -> None:
        self._engine.timers.pop(self, None)

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
        now_s, wall_deadline_s = time.monotonic(), None
        if deadline_s is not None:
            wall_deadline_s = _to_wall(deadline_s, now_s)
        owner: AttemptOwner = self if copy is None else CopyOwner(copy)
        owner.attempt = attempt = PodAttempt(owner, connection, deadline_s, now_s)
        attempt.open(path.encode(), authority.encode(), metadata, wall_deadline_s, first)
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
        now_s = time.monotonic()
        owner.attempt = attempt = PodAttempt(owner, connection, deadline_s, now_s)
        limit_s = _to_wall(deadline_s, now_s)
        attempt.open(path.encode(), authority.encode(), metadata, limit_s, Opening(message, True))
        return attempt

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        return self._engine.coroutines.run(work, partial(self._on_coroutine, on_result))

    def _on_coroutine(self, on_result: Callable[[object, float], None], result: object) -> None:
        try:
            with self.lock:
                on_result(result, time.monotonic())
        except Exception:  # the loop runs the coroutines of other RPCs
            self.end_for_defect()

    # --- what grpc core reports

    def _on_message(self, event: Event) -> None:
        message = event.batch_operations[0].message()
        with self.lock:
            if self._closed:
                return
            if not event.success:  # not a half-close: a message that core refuses, `_on_closed` follows
                self.session.on_message_refused()
            elif message is None and not self._asked_again:
                # A half-close, or a client that is gone: core reports both alike. It closes a stream that is cut off in
                # one step, so that its answer to a second read comes after `_on_closed`.
                self._asked_again = True
                self.read()
            else:
                self.session.on_request_message(message, time.monotonic())

    def _on_sent(self, event: Event) -> None:
        with self.lock:
            self.session.on_client_sent(event.success, time.monotonic())

    def _on_closed(self, event: Event) -> None:
        self._engine.forget(self)
        with self.lock:
            if event.batch_operations[0].cancelled():
                self.session.on_client_closed(time.monotonic())
            self._closed = True
            self.release()

    def release(self) -> None:
        """Break the reference cycle of an RPC that is over. Without it its objects live until the garbage collector
        runs, and grpc core counts a call as an open stream for as long.
        """
        if self._closed:
            self._call = None
            if self.attempt is not None and self.attempt.over:
                self.attempt = None

    # --- housekeeping

    def expire(self, due: tuple[float, Timer], now_s: float) -> None:
        """End the wait for the timer `due`, unless it was replaced or cancelled."""
        timers = self._engine.timers
        try:
            with self.lock:
                if timers.get(self) is due:
                    del timers[self]
                    self.session.on_timer(due[1], now_s)
        except Exception:  # housekeeping goes on with the other RPCs
            self.end_for_defect()

    def sweep(self, now_s: float) -> None:
        self._tell(self.session.on_sweep, now_s)

    def end_for_drain(self, now_s: float) -> None:
        self._tell(self.session.on_drained, now_s)

    def _tell(self, event: Callable[[float], None], now_s: float) -> None:
        try:
            with self.lock:
                event(now_s)
        except Exception:  # housekeeping goes on with the other RPCs
            self.end_for_defect()

    def end_for_defect(self) -> None:
        """For an exception that is being handled."""
        log.exception("defect: an event of an RPC could not be handled")
        try:
            with self.lock:
                self.session.on_defect(time.monotonic())
        except Exception:  # two defects in one RPC: the others must go on
            log.exception("defect: an RPC could not be ended")


def _to_wall(deadline_s: float, now_s: float) -> float:
    """The deadline for grpc core, in seconds since the epoch. Both arguments are on the monotonic clock."""
    wall_s = time.time()
    return upstream_deadline(wall_s + deadline_s - now_s, wall_s)
