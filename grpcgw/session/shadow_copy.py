"""The copy of one RPC for a shadow Mapping: a state machine without I/O, beside the session of the original.

The session passes on what its client sends (`take`), and reports when the original was sent (`open`) and when it is
over (`leave`); the engine reports the events of the shadow's pod (`on_…`). Answers are dropped. A copy never delays or
fails the original: it contains its own defects, and is dropped where its pod is too slow or too many bytes are held.
Copies outlive their originals for a while, so each has a lock; it may be taken under a session's lock, never the other
way round.
"""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable

from grpcgw.balancer.base import Outcome
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status, counts_against_pod
from grpcgw.policy.breakers import Overflow, Permit
from grpcgw.policy.request import Request
from grpcgw.policy.timeouts import bound_deadline
from grpcgw.routing.copy_counters import CopyCounters, Drop
from grpcgw.routing.targets import Shadow, Target
from grpcgw.session.call import Attempt, Call, Opening
from grpcgw.upstream.pod import Pod

log = logging.getLogger(__name__)

MAX_HELD_BYTES = 4 << 20
"""Limit on the messages (or chunks) of one copy that its pod has not taken yet, including the one being sent."""
LINGER_S = 10.0
"""How long a copy may wait for its answer after the original is over, where the Mapping has no `timeout_ms`."""


class Copies:
    """The copies that run in one worker."""

    def __init__(self) -> None:
        self.running: set[Copy] = set()
        self.draining = False

    def begin(self, shadow: Shadow, call: Call, request: Request) -> Copy | None:
        """The copy of an RPC; None: the RPC is in the share that is not copied."""
        target = shadow.choose()
        return None if target is None else Copy(self, target, shadow.counters, call, request)

    def sweep(self, now_s: float) -> None:
        """Drop copies whose time is over. Called from time to time."""
        for copy in self.running.copy():
            copy.sweep(now_s)

    def drain(self, now_s: float) -> None:
        """Drop all copies, and make no more."""
        self.draining = True
        for copy in self.running.copy():
            copy.drop(Drop.DRAINING, now_s)


class Copy:
    """One RPC's copy. Any thread may call any method."""

    __slots__ = (
        "_attempt",
        "_call",
        "_copies",
        "_counted",
        "_counters",
        "_dropped",
        "_given_up",
        "_half_close_sent",
        "_half_closed",
        "_held_bytes",
        "_limit_s",
        "_lock",
        "_over",
        "_permit",
        "_pod",
        "_pod_since_s",
        "_queue",
        "_request",
        "_sending",
        "_sending_bytes",
        "_target",
        "metadata",
    )

    def __init__(self, copies: Copies, target: Target, counters: CopyCounters, call: Call, request: Request) -> None:
        self._copies, self._target, self._counters = copies, target, counters
        self._call: Call | None = call
        self._request: Request | None = request
        self._lock = threading.Lock()
        self.metadata: Metadata = ()
        """The forwarded metadata of the original, before the edits of its Mapping. Set before `open`."""
        self._queue: deque[bytes] = deque()
        self._held_bytes = self._sending_bytes = 0
        self._half_closed = self._half_close_sent = self._sending = False
        self._attempt: Attempt | None = None
        self._pod: Pod | None = None
        self._pod_since_s = 0.0
        self._permit: Permit | None = None
        self._limit_s = math.inf
        self._counted = self._dropped = self._given_up = self._over = False

    # --- the original

    def take(self, message: bytes | None, now_s: float) -> None:
        """The client sent a message, or None: it half-closed."""
        self._contain(lambda: self._take(message, now_s), now_s)

    def open(self, now_s: float) -> None:
        """The original was sent to its pod: send the copy. Does nothing for another try of the original."""
        self._contain(lambda: self._open(now_s), now_s)

    def leave(self, client_gone: bool, now_s: float) -> None:
        """The original is over. A copy with the whole request still runs; one that was cut off is cancelled."""
        self._contain(lambda: self._leave(client_gone, now_s), now_s)

    def _contain(self, step: Callable[[], None], now_s: float) -> None:
        with self._lock:
            if self._over or self._given_up:
                return
            try:
                step()
            except Exception:  # a defect of the copy must not fail the original
                log.exception("defect: a copy for the shadow Mapping %s is dropped", self._target.label)
                self._drop(Drop.DEFECT, now_s)

    def _take(self, message: bytes | None, now_s: float) -> None:
        if message is None:
            self._half_closed = True
        elif self._hold(len(message)):
            self._queue.append(message)
        else:
            self._drop(Drop.TOO_SLOW, now_s)
            return
        self._pump()

    def _hold(self, size_bytes: int) -> bool:
        if self._held_bytes + size_bytes > MAX_HELD_BYTES or not self._counters.hold(size_bytes):
            return False
        self._held_bytes += size_bytes
        return True

    def _open(self, now_s: float) -> None:
        call, request, target = self._call, self._request, self._target
        if call is None or request is None:
            return
        self._call = self._request = None  # a copy that outlives the original must not hold its objects
        pod = self._admit(request, now_s)
        if pod is None:
            return
        edit = target.edit_request
        metadata = self.metadata
        if edit is not None:
            metadata = edit(metadata, request)
        authority = target.authority or request.authority
        if target.tls is None:  # with TLS it is the name in the pod's certificate
            authority = mark_authority(authority)
        deadline_s = bound_deadline(request.deadline_s, target.timeout_ms, now_s)
        opening = self._next()
        self._pod, self._pod_since_s = pod, now_s
        pod.begin()
        try:
            path = target.rewrite(request.path)
            self._attempt = call.open(pod, path, authority, metadata, deadline_s, opening, self)
        except ConnectionError as error:  # the pod left after it was picked
            self._end(Status(Code.UNAVAILABLE, str(error)), now_s)

    def _admit(self, request: Request, now_s: float) -> Pod | None:
        """The pod for the copy; None: it is dropped."""
        target = self._target
        if not self._counters.begin():
            self._drop(Drop.TOO_MANY, now_s)
            return None
        self._counted = True
        self._copies.running.add(self)
        if self._copies.draining:
            self._drop(Drop.DRAINING, now_s)
            return None
        if target.breaker is not None:
            admitted = target.breaker.admit(waits=not target.is_connected())
            if isinstance(admitted, Overflow):
                self._drop(Drop.CIRCUIT_BREAKER, now_s)
                return None
            self._permit = admitted
        key = None if target.make_key is None else target.make_key(request.metadata, request.peer.address)
        pod = target.pick(None, key)
        if pod is None:
            self._drop(Drop.NO_ENDPOINTS, now_s)
        return pod

    def _next(self) -> Opening:
        """The message and half-close to send next, together."""
        self._sending = True
        message = self._queue.popleft() if self._queue else None
        self._sending_bytes = len(message or b"")
        self._half_close_sent = self._half_closed and not self._queue
        return Opening(message, self._half_close_sent)

    def _pump(self) -> None:
        while self._attempt is not None and not self._sending:
            if not self._queue and (self._half_close_sent or not self._half_closed):
                return
            following = self._next()
            if self._attempt.send(following.message, following.half_close):
                self._note_sent()

    def _leave(self, client_gone: bool, now_s: float) -> None:
        if self._attempt is None:
            self._end(_CANCELLED, now_s)
        elif self._half_closed and not client_gone:
            if self._target.timeout_ms is None:  # else the copy has a deadline of its own
                self._limit_s = now_s + LINGER_S
        else:
            self._give_up()

    # --- the shadow's pod; `Session` documents each event

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        if ok:  # else the status follows
            self._contain(self._go_on_sending, now_s)

    def _go_on_sending(self) -> None:
        self._note_sent()
        self._pump()

    def _note_sent(self) -> None:
        self._sending = False
        self._held_bytes -= self._sending_bytes
        self._counters.give_back(self._sending_bytes)
        if self._permit is not None:
            self._permit.connected()

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        pass

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        if message is not None:  # None: the status follows
            self._contain(self._go_on_reading, now_s)

    def _go_on_reading(self) -> None:
        if self._attempt is not None:
            self._attempt.read()

    def on_no_more_replies(self) -> None:
        pass

    def on_pod_status(self, status: Status, now_s: float) -> None:
        with self._lock:
            self._end(status, now_s)

    # --- the gateway

    def sweep(self, now_s: float) -> None:
        if now_s >= self._limit_s:
            self.drop(Drop.NO_ANSWER, now_s)

    def on_defect(self, now_s: float) -> None:
        """The engine caught an exception in one of the calls above."""
        self.drop(Drop.DEFECT, now_s)

    def drop(self, reason: Drop, now_s: float) -> None:
        with self._lock:
            if not self._over and not self._given_up:
                self._drop(reason, now_s)

    # --- the end

    def _drop(self, reason: Drop, now_s: float) -> None:
        self._counters.drop(reason)
        self._dropped = True
        if self._attempt is None:
            self._end(_CANCELLED, now_s)
        else:
            self._give_up()

    def _give_up(self) -> None:
        """Cancel the try; its status still arrives."""
        self._given_up = True
        self._queue.clear()
        if self._attempt is not None:
            self._attempt.cancel()

    def _end(self, status: Status, now_s: float) -> None:
        if self._over:
            return
        self._over = True
        self._attempt = self._call = self._request = None
        self._queue.clear()
        counters, pod = self._counters, self._pod
        self._copies.running.discard(self)
        counters.give_back(self._held_bytes)
        if self._permit is not None:
            self._permit.release()
        if self._counted:
            counters.end(None if self._dropped else status.code)
        if pod is not None:
            self._end_try(pod, status, now_s)

    def _end_try(self, pod: Pod, status: Status, now_s: float) -> None:
        failed = counts_against_pod(status)
        duration_s = now_s - self._pod_since_s
        pod.end(duration_s, (status.details or Code(status.code).name) if failed else "")
        outcome = Outcome(status.code, failed, duration_s, status.trailers)
        self._target.done(pod, outcome, now_s)


_CANCELLED = Status(Code.CANCELLED, "")


def mark_authority(authority: str) -> str:
    """`:authority` with `-shadow` before its port, as Envoy marks copies. An IPv6 address stays as it is."""
    if not authority or authority.startswith("["):
        return authority
    host, colon, port = authority.partition(":")
    return f"{host}-shadow{colon}{port}"
