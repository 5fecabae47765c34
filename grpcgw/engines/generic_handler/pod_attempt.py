"""A try of an RPC on one pod, and the owner of a try, whose session gets its events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, replace
from types import AsyncGeneratorType
from typing import Any

import grpc
import grpc.aio

from grpcgw.engines.generic_handler.core_deadlines import deadline_passed
from grpcgw.engines.generic_handler.pod_connection import PodConnection, Spawn
from grpcgw.model.codes import Code
from grpcgw.model.endpoints import PodState
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import POD_LEFT, Reason, Status
from grpcgw.policy.timeouts import upstream_deadline
from grpcgw.session.call import Opening, TryEvents
from grpcgw.session.forwarding import is_sendable

log = logging.getLogger(__name__)

WRITE_FAILED = "Internal error from Core"
"""grpc.aio's text for an RPC that was over before a message was written."""
LOOK_S = 0.005
"""Interval of looking at a connection that is being established."""
LOST_STATUS_S = 1.0
"""How long after a write that failed the pod's own status may still come."""
LOST_STATUS_TURNS = 200
"""How often the RPC's status is read in that time. While the loop is held up, at most one of these turns passes."""
RPC_ENDED = (grpc.aio.BaseError, grpc.RpcError, asyncio.InvalidStateError, asyncio.CancelledError)
"""Exceptions of grpc.aio for a read or write on an RPC that is over; its status is reported separately."""


class AttemptOwner:
    """Whose try it is: `session` gets the events of the current `attempt`."""

    session: TryEvents
    attempt: PodAttempt | None = None

    def __init__(self, spawn: Spawn) -> None:
        self._spawn = spawn

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` in the engine's loop. What it raises ends the RPC, and nothing else."""
        return self._spawn(self._contain(work))

    async def _contain(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:  # a defect in one RPC must not end the loop that serves all
            self.end_for_defect()

    def end_for_defect(self) -> None:
        """An event could not be handled. For an exception that is being handled."""
        log.exception("defect: an event of an RPC could not be handled")
        try:
            self.session.on_defect(time.monotonic())
        except Exception:  # two defects in one RPC: the others must go on
            log.exception("defect: an RPC could not be ended")


@dataclass(frozen=True, slots=True)
class Outgoing:
    """The opening of a try, before its messages. `deadline_s` is monotonic."""

    path: str
    authority: str
    metadata: Metadata
    deadline_s: float | None

    def left_s(self) -> float | None:
        if self.deadline_s is None:
            return None
        now_s = time.monotonic()
        return max(0.0, upstream_deadline(self.deadline_s, now_s) - now_s)


class PodAttempt:
    """One try on one pod.

    Nothing in grpcio's public API proves that a pod did not see an RPC. So a channel that is not connected gets no RPC:
    the RPC waits here, where it provably reached no pod.
    """

    def __init__(self, owner: AttemptOwner, connection: PodConnection, outgoing: Outgoing) -> None:
        self._owner, self._connection, self._outgoing = owner, connection, outgoing
        self._call: Any = None
        self._replies: AsyncIterator[bytes]
        self._replies_ended = False
        self._ended: asyncio.Future[Status] = asyncio.get_running_loop().create_future()
        self._sending: asyncio.Task[None] | None = None
        self._since_s = time.monotonic()

    def begin(self, first: Opening) -> None:
        """Raises ConnectionError if the connection was closed in the meantime."""
        if self._connection.connectivity(self._outgoing.authority) is PodState.READY:
            self._start(first)
        else:
            self._owner.spawn(self._start_connected(first))

    def _start(self, first: Opening) -> None:
        outgoing = self._outgoing
        try:
            start = self._connection.channel(outgoing.authority).stream_stream(outgoing.path)
            self._call = start(metadata=outgoing.metadata, timeout=outgoing.left_s())
        except grpc.aio.UsageError as closed:
            raise ConnectionError(str(closed)) from closed
        self._replies = aiter(self._call)  # after a failed write, `read` reads nothing
        self._call.add_done_callback(self._note_status)
        self.send(first.message, first.half_close)
        self._owner.spawn(self._receive_headers())
        self._owner.spawn(self._read())
        self._owner.spawn(self._receive_status())

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
                self._end(Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", cause=Reason.TIMEOUT))
            else:
                await asyncio.sleep(LOOK_S)  # grpc.aio's own waiting may outlast the channel
        self._report_never_sent()

    def _report_never_sent(self) -> None:
        session, now_s = self._owner.session, time.monotonic()
        session.on_pod_sent(False, now_s)
        session.on_pod_headers(None, now_s)
        session.on_pod_message(None, now_s)
        session.on_pod_status(self._ended.result(), now_s)

    def read(self) -> None:
        self._owner.spawn(self._read())

    def send(self, message: bytes | None, half_close: bool) -> bool:
        self._sending = self._owner.spawn(self._send(message, half_close))
        return False

    def cancel(self) -> None:
        if self._call is None or not self._call.cancel():
            self._end(Status(Code.CANCELLED, ""))

    async def _send(self, message: bytes | None, half_close: bool) -> None:
        ok = True
        try:
            if message is not None:
                await self._call.write(message)
            if half_close:
                await self._call.done_writing()
        except RPC_ENDED:
            ok = False
        if self._current():
            self._owner.session.on_pod_sent(ok, time.monotonic())

    async def _receive_headers(self) -> None:
        headers: Metadata = ()
        with contextlib.suppress(*RPC_ENDED):
            headers = tuple(await self._call.initial_metadata() or ())
        if self._current():
            self._owner.session.on_pod_headers(headers, time.monotonic())

    async def _read(self) -> None:
        try:
            message = await anext(self._replies)
        except (StopAsyncIteration, *RPC_ENDED):
            message, self._replies_ended = None, True
        if self._current():
            self._owner.session.on_pod_message(message, time.monotonic())

    async def _receive_status(self) -> None:
        status = await self._ended
        if self._current():
            self._owner.session.on_pod_status(status, time.monotonic())
        if isinstance(self._replies, AsyncGeneratorType) and not self._replies.ag_running:
            await self._replies.aclose()  # otherwise asyncio runs a task for it

    def _note_status(self, _: object) -> None:
        """Called for the first status that grpc.aio gives the RPC, and for no other.

        A write that fails because the pod has ended the RPC gives it one too (grpc issue 36066). If that is processed
        before the pod's status, which happens where several loops share grpc.aio's events, the pod's status replaces
        it a moment later without a callback. If nothing is being written, the first status is the pod's own.
        """
        is_writing = self._sending is not None and not self._sending.done()
        self._end_with_pods_status(LOST_STATUS_TURNS if is_writing else 0)

    def _end_with_pods_status(self, turns: int) -> None:
        """End with the RPC's status. It may be a failed write's until the last reply is read, and `turns` longer: core
        gives the pod's status after the replies.
        """
        if self._ended.done():
            return
        status = _result(self._read_status())
        if turns and status.code == Code.INTERNAL and status.details == WRITE_FAILED:
            loop, left = asyncio.get_running_loop(), turns - self._replies_ended
            loop.call_later(LOST_STATUS_S / LOST_STATUS_TURNS, self._end_with_pods_status, left)
        else:
            self._end(status)

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
        status = Status(code.value[0], details, tuple(await self._call.trailing_metadata() or ()), cause)
        if deadline_passed(status, self._outgoing.deadline_s, self._since_s, time.monotonic()):
            return replace(status, cause=Reason.TIMEOUT)
        return status

    def _current(self) -> bool:
        return self._owner.attempt is self


def _result(coroutine: Coroutine[Any, Any, Status]) -> Status:
    """The result of a coroutine that has nothing to wait for."""
    try:
        coroutine.send(None)
    except StopIteration as returned:
        status: Status = returned.value
        return status
    raise AssertionError("the status of an RPC that is over had to be waited for")


class UnaryAttempt(PodAttempt):
    """A unary RPC, sent whole: its status cannot meet a write that is still under way."""

    def _start(self, first: Opening) -> None:
        outgoing = self._outgoing
        try:
            start = self._connection.channel(outgoing.authority).unary_unary(outgoing.path)
            self._call = start(first.message or b"", metadata=outgoing.metadata, timeout=outgoing.left_s())
        except grpc.aio.UsageError as closed:
            raise ConnectionError(str(closed)) from closed
        self._call.add_done_callback(self._note_status)
        self._owner.spawn(self._report())

    async def _report(self) -> None:
        status = await self._ended
        headers, reply = (), None
        if status.code == Code.OK:
            headers, reply = tuple(await self._call.initial_metadata() or ()), await self._call
        if self._current():
            session, now_s = self._owner.session, time.monotonic()
            session.on_pod_sent(True, now_s)
            session.on_pod_headers(headers, now_s)
            session.on_pod_message(reply, now_s)
            session.on_pod_status(status, now_s)


class CopyOwner(AttemptOwner):
    """Owns the try of an RPC's copy, which may outlive the RPC."""

    def __init__(self, spawn: Spawn, copy: TryEvents) -> None:
        super().__init__(spawn)
        self.session = copy


class PolicyRpcOwner(AttemptOwner):
    """Owns the try of a policy's own RPC."""

    def __init__(self, rpc: AttemptOwner, events: TryEvents) -> None:
        super().__init__(rpc._spawn)
        self._rpc, self.session = rpc, events

    def end_for_defect(self) -> None:
        self._rpc.end_for_defect()
