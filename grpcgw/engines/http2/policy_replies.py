"""The answer to a policy's own RPC: reads the message out of its frames, since policies take whole messages."""

from __future__ import annotations

from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status
from grpcgw.session.call import PolicyRpcEvents
from grpcgw.session.message_reader import BadMessage, MessageReader, find_whole

_SEVERAL = Status(Code.INTERNAL, "it sent more than one message", cause=Reason.BAD_RESPONSE)
MAX_ANSWER_BYTES = 64 << 20
"""Far above the limit of any destination, which the policy's RPC enforces itself."""


class PolicyReplies:
    """The events of such an RPC, as its try reports them; `events` gets the first message whole."""

    def __init__(self, events: PolicyRpcEvents) -> None:
        self._events = events
        self._reader: MessageReader | None = None
        """None: nothing of the message is here yet."""
        self._answered = self._several = False
        self.attempt: PodAttempt | None = None
        """Set before the first event."""

    def on_pod_sent(self, ok: bool, now_s: float) -> None:
        self._events.on_pod_sent(ok, now_s)

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        self._events.on_pod_headers(headers, now_s)

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        if self._answered:
            if message is not None:
                self._refuse_several()
            return
        if message is None:
            self._answer(None, now_s)
            return
        whole = find_whole(message) if self._reader is None else None  # as of most
        if whole is not None:
            self._answer(whole, now_s)
        else:
            self._read(message, now_s)

    def _read(self, chunk: bytes, now_s: float) -> None:
        """A part of the message, or a compressed one."""
        if self._reader is None:
            encoding = "identity" if self.attempt is None else self.attempt.message_encoding()
            self._reader = MessageReader(MAX_ANSWER_BYTES, encoding)
        try:
            messages = self._reader.feed(chunk)
        except BadMessage as bad:
            self._fail(str(bad), now_s)
            return
        if messages:
            self._answer(messages[0], now_s)
            if len(messages) > 1:
                self._refuse_several()
        elif self.attempt is not None:
            self.attempt.read()

    def _answer(self, message: bytes | None, now_s: float) -> None:
        self._answered = True
        self._events.on_pod_message(message, now_s)
        if message is not None and self.attempt is not None:  # another one would keep back the status
            self.attempt.read()

    def _refuse_several(self) -> None:
        self._several = True
        if self.attempt is not None:
            self.attempt.fail(_SEVERAL)

    def _fail(self, why: str, now_s: float) -> None:
        if self.attempt is not None:
            self.attempt.fail(Status(Code.INTERNAL, why, cause=Reason.BAD_RESPONSE))
        self._answer(None, now_s)

    def on_no_more_replies(self) -> None:
        self._events.on_no_more_replies()

    def on_pod_status(self, status: Status, now_s: float) -> None:
        self.attempt = None  # it leads back here: both would wait for the garbage collector
        self._events.on_pod_status(_SEVERAL if self._several and status.code == Code.OK else status, now_s)

    def on_defect(self, now_s: float) -> None:
        self._events.on_defect(now_s)
