"""The request side of an RPC: reads the client's messages one at a time and forwards them to the current try.

It keeps the opening (first message and half-close) for another try until the RPC is committed to one pod, and counts
large messages against the client's limit in this worker.

`FramedRequestSide` does the same for an engine that passes chunks of gRPC frames.
"""

from __future__ import annotations

from collections.abc import Callable

from grpcgw.model.status import Reason, Status, make_status
from grpcgw.policy.contract import MessageStart
from grpcgw.policy.held_messages import UNCOUNTED_BYTES, HeldMessages
from grpcgw.policy.request import Request
from grpcgw.routing.targets import Target
from grpcgw.session.call import Call, Opening
from grpcgw.session.ending import message_too_large
from grpcgw.session.message_reader import frame
from grpcgw.session.message_scanner import PREFIX_BYTES, MessageScanner
from grpcgw.session.pod_try import Try

MAX_OPENING_BYTES = 65_536
"""As many bytes of chunks are kept for another try, and the first chunk in any case."""

NO_MESSAGE = MessageStart(b"", True)


class RequestSide:
    __slots__ = (
        "beyond",
        "count",
        "counted_bytes",
        "cut_off",
        "first",
        "half_closed",
        "lent_bytes",
        "pending",
        "reading",
        "replayable",
        "size_bytes",
        "size_of",
    )

    def __init__(self) -> None:
        self.size_of: Callable[[bytes], int] = len
        """The size of a message in bytes, as limits count it. Called once for each message, before `take`."""
        self.count = self.size_bytes = self.counted_bytes = 0
        """Messages read so far, and their bytes."""
        self.first: bytes | None = None
        """The first message, for as long as the opening may have to be sent again."""
        self.pending: bytes | None = None
        """The last message read, until it is forwarded."""
        self.beyond = self.cut_off = False
        """`beyond`: more was read than the opening; `pending`, if any, is not a part of it. `cut_off`: what was read
        ends in the middle of a message."""
        self.half_closed = self.reading = False
        self.replayable = True
        """Another try could still be sent the whole request."""
        self.lent_bytes = 0
        """What is counted in the worker's `HeldMessages`."""

    @property
    def began(self) -> bool:
        """A part of the request was read."""
        return self.half_closed or self.count > 0 or self.cut_off

    def read(self, call: Call) -> None:
        """Read the next message, unless that is under way or there is none."""
        if not self.reading and not self.half_closed:
            self.reading = True
            call.read()

    def take(self, message: bytes) -> None:
        """The client sent `message`."""
        self.pending = message
        self.count += 1
        self.size_bytes += len(message)
        if self.count == 1:
            self.first = message
        else:
            self.beyond = True

    def uncounted_bytes(self) -> int:
        """Bytes read since the last call."""
        uncounted = self.size_bytes - self.counted_bytes
        self.counted_bytes = self.size_bytes
        return uncounted

    def opening(self) -> Opening:
        """The opening that goes out with the request headers: first message and half-close, if they have arrived."""
        if not self.beyond:
            self.pending = None
        return Opening(self.first, self.half_closed and self.pending is None)

    def forward(self, call: Call, attempt: Try) -> None:
        """Start what is next towards the pod: a message, the half-close, or reading on."""
        if attempt.sending or attempt.status is not None:
            return
        message = self.pending
        if message is not None:
            self.pending = None
            if self.beyond and self.replayable:
                self.commit()
            attempt.send(message, self.half_closed)
        elif self.half_closed and not attempt.half_close_sent:
            attempt.send(None, True)
        if not (attempt.sending or self.half_closed or self.reading):  # as `read` does
            self.reading = True
            call.read()

    def commit(self) -> None:
        """The RPC stays with its current try: the opening is not kept any longer."""
        self.first, self.replayable = None, False

    # --- what a policy gets

    def peek(self, max_bytes: int) -> MessageStart | None:
        """The first message, or `max_bytes` of its frame; None: it is not here yet. Before the first try."""
        if self.first is not None:
            return _cut(frame(self.first), max_bytes)
        return NO_MESSAGE if self.half_closed else None

    def await_first(self, max_bytes: int) -> None:
        """Read on, and hold what comes, until `peek` has its answer."""

    def held(self) -> bytes | None:
        """What was read so far, before the first try; None: nothing."""
        return self.first

    def lend(self, request: Request, held: HeldMessages) -> bool:
        """Count what a policy makes be held; False: the client's limit is reached."""
        return True

    # --- large messages

    def refuse(self, size_bytes: int, target: Target, request: Request, held: HeldMessages) -> Status | None:
        """The status of an RPC with a message too large to be held; None: the message is counted and may be held."""
        refused = _check_limits(size_bytes, target, request)
        if refused is not None or size_bytes <= UNCOUNTED_BYTES:
            return refused
        if held.take(request.peer.key, size_bytes):
            self.lent_bytes += size_bytes
            return None
        what = f"more than {held.limit_bytes} bytes of the client's large messages wait for their readers"
        return make_status(Reason.TOO_MUCH_HELD, f"{target.key}: {what}")

    def give_back(self, request: Request, held: HeldMessages) -> None:
        """Stop counting the messages, once none of them is kept."""
        if self.first is None and self.pending is None:
            held.give(request.peer.key, self.lent_bytes)
            self.lent_bytes = 0

    def release(self, request: Request, held: HeldMessages) -> None:
        """The RPC is over: keep no message."""
        self.first = self.pending = None
        if self.lent_bytes:
            self.give_back(request, held)


class FramedRequestSide(RequestSide):
    """The request side for chunks of gRPC frames.

    `count` is of the messages begun, `size_bytes` is without their prefixes, limits hold for declared lengths, and the
    opening is the first chunks: as many as begin one message at most and have MAX_OPENING_BYTES together, or what a
    policy waits for. Only the latter is counted against the client's limit: an engine with frames bounds what else is
    held by the windows of its streams.
    """

    __slots__ = ("_more", "_opening_bytes", "_scanner")

    def __init__(self) -> None:
        super().__init__()
        self._scanner = MessageScanner()
        self.size_of = self._scanner.feed
        self._opening_bytes = MAX_OPENING_BYTES
        self._more: bytearray | None = None
        """The chunks of the opening after `first`."""

    def refuse(self, size_bytes: int, target: Target, request: Request, held: HeldMessages) -> Status | None:
        return _check_limits(size_bytes, target, request)

    def take(self, message: bytes) -> None:
        self.pending = message
        scanner = self._scanner
        self.count, self.size_bytes, self.cut_off = scanner.count, scanner.size_bytes, not scanner.complete
        if not self.replayable:
            self.beyond = True
        elif self.first is None:
            self.first = message
        elif self.count > 1 or self.size_bytes > self._opening_bytes:
            self.beyond = True
        elif self._more is None:
            self._more = bytearray(message)
        else:
            self._more += message

    def opening(self) -> Opening:
        if self._more is not None:
            self.first = (self.first or b"") + self._more
            self._more = None
        return super().opening()

    def commit(self) -> None:
        super().commit()
        self._more = None

    def peek(self, max_bytes: int) -> MessageStart | None:
        if not self.count:
            return NO_MESSAGE if self.half_closed else None
        whole = self.count > 1 or not self._scanner.is_inside
        if not whole and self.size_bytes + PREFIX_BYTES < max_bytes:
            return None
        held = self.held() or b""
        message = held[: PREFIX_BYTES + int.from_bytes(held[1:PREFIX_BYTES], "big")]
        return _cut(message, max_bytes, whole)

    def await_first(self, max_bytes: int) -> None:
        self._opening_bytes = max(self._opening_bytes, max_bytes)

    def held(self) -> bytes | None:
        if self.first is None:
            return None
        return self.first + (self._more or b"") + (self.pending if self.beyond and self.pending else b"")

    def lend(self, request: Request, held: HeldMessages) -> bool:
        more_bytes = self.size_bytes - self.lent_bytes
        if self.size_bytes <= UNCOUNTED_BYTES or not more_bytes:
            return True
        taken = held.take(request.peer.key, more_bytes)
        self.lent_bytes += more_bytes if taken else 0
        return taken

    def release(self, request: Request, held: HeldMessages) -> None:
        self._more = None
        super().release(request, held)


def _cut(message: bytes, max_bytes: int, whole: bool = True) -> MessageStart:
    return MessageStart(message[:max_bytes], whole and len(message) <= max_bytes)


def _check_limits(size_bytes: int, target: Target, request: Request) -> Status | None:
    """The status of an RPC with a message that is larger than its Mapping or its port allows."""
    limit_bytes = request.port.max_message_bytes
    if size_bytes > target.max_message_bytes:
        return message_too_large(target.key, size_bytes, target.max_message_bytes)
    if size_bytes > limit_bytes:
        what = f"a message of {size_bytes} bytes is larger than the {limit_bytes} of the port"
        return make_status(Reason.MESSAGE_TOO_LARGE, f"{what} (--max-message-bytes, maxMessageBytes)")
    return None
