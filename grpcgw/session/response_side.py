"""The response side of an RPC: passes headers, replies and the status to the client, one thing at a time.

It holds at most one reply: the one that waits for what goes out with it, or for the client to take the one before.

`FramedResponseSide` does the same for an engine that passes chunks of gRPC frames.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.metadata_editor import EditMetadata
from grpcgw.policy.request import Request
from grpcgw.session.call import Call
from grpcgw.session.message_scanner import MessageScanner


class ResponseSide:
    __slots__ = (
        "_request",
        "added",
        "count",
        "counted_bytes",
        "edit",
        "headers",
        "headers_sent",
        "held",
        "sending",
        "size_bytes",
        "size_of",
        "whole",
    )

    def __init__(self, request: Request) -> None:
        self._request = request
        self.edit: EditMetadata | None = None
        """The Mapping's changes to the pod's headers; None: it makes none."""
        self.added: Metadata = ()
        """What policies add after that, also to the trailers of an answer without headers."""
        self.headers: Metadata = ()
        """The pod's initial metadata as the client got it; empty before."""
        self.size_of: Callable[[bytes], int] = len
        """The size of a reply in bytes, as limits count it. Called once for each reply, before `take`."""
        self.count = self.size_bytes = self.counted_bytes = 0
        """Replies read so far, and their bytes."""
        self.held: bytes | None = None
        """A reply that was not sent to the client yet."""
        self.sending = self.headers_sent = False
        self.whole = True
        """What was read so far ends with a whole reply."""

    def take(self, message: bytes) -> None:
        """The pod sent a reply. The one before was sent."""
        self.held = message
        self.count += 1
        self.size_bytes += len(message)

    def uncounted_bytes(self) -> int:
        """Bytes read since the last call."""
        uncounted = self.size_bytes - self.counted_bytes
        self.counted_bytes = self.size_bytes
        return uncounted

    def send_headers(self, call: Call, headers: Metadata) -> None:
        """Send the pod's headers, and the held reply with them."""
        held, self.held = self.held, None
        self.headers = self._edited(headers)
        self.sending = not call.send(self.headers, held)
        self.headers_sent = True  # not where that has a defect

    def send_held(self, call: Call) -> None:
        """Send the held reply."""
        held, self.held = self.held, None
        self.sending = not call.send(None, held)

    def finish(self, call: Call, headers: Metadata, status: Status) -> bool:
        """Send the status, and before it what was not sent yet; returns whether the answer is trailers-only."""
        held, self.held = self.held, None
        if self.headers_sent:
            call.finish(None, held, status, True)
            return False
        if headers or held is not None:  # a trailers-only answer has no headers, and gets none
            self.headers = headers = self._edited(headers)
        elif self.added:
            status = replace(status, trailers=(*status.trailers, *self.added))
        call.finish(headers, held, status, False)
        return not headers and held is None

    def _edited(self, headers: Metadata) -> Metadata:
        headers = headers if self.edit is None else self.edit(headers, self._request)
        return (*headers, *self.added) if self.added else headers


class FramedResponseSide(ResponseSide):
    """The response side for chunks of gRPC frames: `count` is of the replies begun, a size is the declared length."""

    __slots__ = ("_scanner",)

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._scanner = MessageScanner()
        self.size_of = self._scanner.feed

    def take(self, message: bytes) -> None:
        self.held = message
        scanner = self._scanner
        self.count, self.size_bytes, self.whole = scanner.count, scanner.size_bytes, scanner.complete
