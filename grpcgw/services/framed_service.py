"""Runs a service of the gateway's own, which reads and writes whole messages, where an engine passes gRPC frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.services.local import LocalExchange, ServiceCall
from grpcgw.session.call import Call, Timer
from grpcgw.session.message_reader import BadMessage, MessageReader, frame

MAX_MESSAGE_BYTES = 4 << 20
"""Limit of gRPC libraries, unless they are configured otherwise."""


class _MessageCall:
    """The client's side of the RPC as the service sees it."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.wanted = self.sent = False
        """`wanted`: the service reads the next message. `sent`: what it sent is written, which is to be reported."""

    def read(self) -> None:
        self.wanted = True

    def send(self, headers: Metadata | None, message: bytes | None) -> None:
        self.sent = self.call.send(headers, None if message is None else frame(message))

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        self.call.finish(headers, None if message is None else frame(message), status, headers_sent)

    def abort(self, status: Status) -> None:
        self.call.abort(status)

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        return self.call.run(work, on_result)


class FramedService:
    """The `Exchange` of such an RPC."""

    def __init__(self, call: Call, encoding: str, make: Callable[[ServiceCall], LocalExchange]) -> None:
        """`encoding`: the client's `grpc-encoding`."""
        self._call = _MessageCall(call)
        self._reader = MessageReader(MAX_MESSAGE_BYTES, encoding)
        self._service = make(self._call)
        self._messages: deque[bytes] = deque()
        """Read and not delivered yet."""
        self._half_closed = False

    def start(self, now_s: float, client_left: bool = False) -> None:
        self._service.start(now_s, client_left)
        self._deliver(now_s)

    def on_request_message(self, message: bytes | None, now_s: float, last: bool = False) -> None:
        self._half_closed = last or message is None
        if message is not None:
            try:
                self._messages += self._reader.feed(message)
            except BadMessage as bad:
                self._service.finish(Status(Code.INTERNAL, str(bad)), now_s)
                return
        self._deliver(now_s)

    def _deliver(self, now_s: float) -> None:
        """Report what is due, until nothing is."""
        call, service = self._call, self._service
        while call.sent or (call.wanted and (self._messages or self._half_closed)):
            if call.sent:
                call.sent = False
                service.on_client_sent(True, now_s)
            else:
                call.wanted = False
                service.on_request_message(self._messages.popleft() if self._messages else None, now_s)
        if call.wanted and not service.finished:
            call.call.read()

    def on_client_sent(self, ok: bool, now_s: float) -> None:
        self._service.on_client_sent(ok, now_s)
        self._deliver(now_s)

    def on_client_closed(self, now_s: float, by_client: bool = False) -> None:
        self._service.on_client_closed(now_s, by_client)

    def on_sweep(self, now_s: float) -> None:
        self._service.on_sweep(now_s)
        self._deliver(now_s)

    def on_drained(self, now_s: float) -> None:
        self._service.on_drained(now_s)

    def on_too_much_held(self, now_s: float) -> None:
        self._service.on_too_much_held(now_s)

    def on_defect(self, now_s: float) -> None:
        self._service.on_defect(now_s)

    # Nothing here is sent to a pod.
    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None: ...
    def on_timer(self, timer: Timer, now_s: float) -> None: ...
