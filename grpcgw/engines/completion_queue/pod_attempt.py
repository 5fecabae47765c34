"""A try of an RPC on one pod, and the owner of a try: its lock guards the try, its session gets the events."""

from __future__ import annotations

import contextlib
import logging
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from grpcgw.engines.completion_queue.core import (
    CANCELLED,
    HALF_CLOSE,
    NO_FLAGS,
    RECEIVE_HEADERS,
    RECEIVE_MESSAGE,
    RECEIVE_STATUS,
    SEND_HEADERS,
    SEND_MESSAGE,
    Event,
    ignore,
)
from grpcgw.engines.completion_queue.pod_connection import PodConnection
from grpcgw.engines.core_texts import core_cause, deadline_passed
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import POD_LEFT, Reason, Status
from grpcgw.session.call import Opening, PolicyRpcEvents, TryEvents

log = logging.getLogger(__name__)


class AttemptOwner:
    """Whose try it is: `session` gets the events of the current `attempt`, under `lock`."""

    __slots__ = ("attempt", "lock", "session")

    lock: AbstractContextManager[object]
    session: TryEvents
    attempt: PodAttempt | None

    def release(self) -> None:
        """The attempt is over."""
        raise NotImplementedError

    def end_for_defect(self) -> None:
        """An event could not be handled. For an exception that is being handled."""
        raise NotImplementedError


class PodAttempt:
    """One try on one pod. Its events reach the session (or the copy) only while it is the RPC's current try."""

    __slots__ = ("_answered", "_call", "_connection", "_deadline_s", "_since_s", "over", "owner")

    def __init__(
        self, owner: AttemptOwner, connection: PodConnection, deadline_s: float | None, since_s: float
    ) -> None:
        """`deadline_s`, `since_s`: the attempt's, on the monotonic clock."""
        self.owner, self._connection = owner, connection
        self._deadline_s, self._since_s = deadline_s, since_s
        self._call: Any = None
        self._answered = False
        """Headers were reported before the status: the status is the pod's, unless there is other proof."""
        self.over = False

    def open(self, path: bytes, authority: bytes, metadata: Metadata, deadline_s: float | None, first: Opening) -> None:
        """As `Attempt.open`. Raises ConnectionError if the connection was closed."""
        opening: tuple[Any, ...] = (SEND_HEADERS(metadata, NO_FLAGS),)
        if first.message is not None:
            opening += (SEND_MESSAGE(first.message, NO_FLAGS),)
        # Headers and status have events of their own: `_cause` depends on which of them comes first.
        if first.half_close:
            # Nothing more will be sent: the session needs to know that this was written only with the headers.
            sending, on_headers = ((*opening, HALF_CLOSE), ignore), self._on_whole
        else:
            sending, on_headers = (opening, self._on_sent), self._on_headers
        # Sending is last: headers that came before they were requested would be reported first, even if core made them.
        batches = (
            ((RECEIVE_HEADERS(NO_FLAGS),), on_headers),
            ((RECEIVE_MESSAGE(NO_FLAGS),), self._on_message),
            ((RECEIVE_STATUS(NO_FLAGS),), self._on_status),
            sending,
        )
        try:
            self._call = self._connection.integrated_call(
                NO_FLAGS, path, authority, deadline_s, metadata, None, batches, None
            )
        except ValueError as closed:  # the channel was closed after the pod was picked
            raise ConnectionError(str(closed)) from closed

    def read(self) -> None:
        # False once the call is over: its status follows, and nothing is left to read.
        if not self._call.operate((RECEIVE_MESSAGE(NO_FLAGS),), self._on_message):
            self.owner.session.on_no_more_replies()

    def send(self, message: bytes | None, half_close: bool) -> None:
        operations = () if message is None else (SEND_MESSAGE(message, NO_FLAGS),)
        self._call.operate((*operations, HALF_CLOSE) if half_close else operations, self._on_sent)

    def cancel(self) -> None:
        self._call.cancel(CANCELLED, "the RPC ended on the client's side")

    def _on_whole(self, event: Event) -> None:
        owner = self.owner
        headers = event.batch_operations[0].initial_metadata() if event.success else None
        with owner.lock:
            self._answered = event.success
            if owner.attempt is self:
                now_s = time.monotonic()
                owner.session.on_pod_sent(event.success, now_s)
                owner.session.on_pod_headers(headers, now_s)

    def _on_sent(self, event: Event) -> None:
        owner = self.owner
        with owner.lock:
            if owner.attempt is self:
                owner.session.on_pod_sent(event.success, time.monotonic())

    def _on_headers(self, event: Event) -> None:
        owner = self.owner
        headers = event.batch_operations[0].initial_metadata() if event.success else None
        with owner.lock:
            self._answered = event.success
            if owner.attempt is self:
                owner.session.on_pod_headers(headers, time.monotonic())

    def _on_message(self, event: Event) -> None:
        owner = self.owner
        with owner.lock:
            if owner.attempt is self:
                owner.session.on_pod_message(event.batch_operations[0].message(), time.monotonic())

    def _on_status(self, event: Event) -> None:
        owner = self.owner
        received = event.batch_operations[0]
        with owner.lock:
            self.over = True
            code, details, now_s = received.code(), received.details(), time.monotonic()
            status = Status(code, details, received.trailing_metadata())
            if code:
                status = replace(status, cause=self._cause(status, now_s))
            if owner.attempt is self:
                owner.session.on_pod_status(status, now_s)
                owner.release()

    def _cause(self, status: Status, now_s: float) -> Reason | None:
        """Why core ended the call, if it provably was core: the status comes before headers, or without any.

        Core reports a pod's headers when it has read them, and its status after them. If core ends a call itself, it
        reports the status first and then, for the headers that never came, an empty list, or nothing if the call never
        became a stream. All events come through one queue, in that order.
        """
        if self._connection.closing and POD_LEFT in status.details:
            return Reason.CONNECTION_LOST
        if deadline_passed(status, self._deadline_s, self._since_s, now_s):
            return Reason.TIMEOUT
        return None if self._answered else core_cause(status.code, status.details)


class CopyOwner(AttemptOwner):
    """Owns the try of an RPC's copy, which may outlive the RPC."""

    __slots__ = ()

    lock = contextlib.nullcontext()
    """A copy locks itself."""

    def __init__(self, copy: TryEvents) -> None:
        self.session, self.attempt = copy, None

    def release(self) -> None:
        self.attempt = None

    def end_for_defect(self) -> None:
        log.exception("defect: an event of a copy could not be handled")
        try:
            self.session.on_defect(time.monotonic())
        except Exception:
            log.exception("defect: a copy could not be ended")


class PolicyRpcOwner(AttemptOwner):
    """Owns the try of a policy's own RPC. Its events come under the lock of the RPC that the policy decides on."""

    __slots__ = ("_events", "_rpc")

    def __init__(self, rpc: AttemptOwner, events: PolicyRpcEvents) -> None:
        self._rpc, self.lock = rpc, rpc.lock
        self.session = self._events = events
        self.attempt = None

    def release(self) -> None:
        if self._events.is_over:  # else the answer is still to come, after the status
            self.attempt = None

    def end_for_defect(self) -> None:
        self._rpc.end_for_defect()


def contain(handler: object) -> None:
    """End only the RPC whose event could not be handled. For an exception that is being handled."""
    owner = getattr(handler, "__self__", None)
    if isinstance(owner, PodAttempt):
        owner = owner.owner
    if isinstance(owner, AttemptOwner):
        owner.end_for_defect()
    else:
        log.exception("defect: an event could not be handled")
