"""The ports of a session to its engine: `Call`, the client's side of an RPC, and `Attempt`, one try on one pod.

An engine implements both, and reports what happens by the events of an `Exchange`. No I/O here, and nothing of grpc.

What passes is called a message. An engine that does not parse gRPC frames passes chunks instead: see `carries_frames`.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, NoReturn, Protocol

from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.contract import CoroutineRuntime
from grpcgw.upstream.pod import Pod


class Timer(Enum):
    """What a timer of a session is for."""

    COALESCE = "flush what arrived: the rest of a unary request or reply did not come along"
    POLICY = "decide by the fail mode: a policy gave no verdict in time"
    RETRY = "open the next try: the back-off of a retry is over"


class Call(CoroutineRuntime, Protocol):
    """The client's side of one RPC. Nothing here calls back into the session before it returns."""

    @property
    def carries_frames(self) -> bool:
        """True: each `message` here, in `Opening`, in `Attempt` and in the events is a chunk of gRPC frames as they are
        on the wire (payloads of HTTP/2 DATA), cut anywhere, never empty. False: it is a whole message, uncompressed.

        `ask` takes and answers whole messages in both cases. Set in the class: it never changes.
        """
        ...

    def read(self) -> None:
        """Read the next message or the half-close, or both; answered by `on_request_message`, or by `on_client_closed`
        if the client is gone."""
        ...

    def send(self, headers: Metadata | None, message: bytes | None) -> bool:
        """Send headers, a message, or both. One at a time. True: the next may follow at once; False: that is reported
        by `on_client_sent`."""
        ...

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        """Send what is still to be sent, and the status. Not answered.

        Without `headers_sent`, headers and message the answer is trailers-only.
        """
        ...

    def abort(self, status: Status) -> None:
        """Drop what is still being sent and end the RPC with `status`. Not answered."""
        ...

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        """Call `on_timer(timer)` after `delay_s`. There is one timer at a time: this replaces the one before.

        A timer that was replaced or cancelled does not expire any more.
        """
        ...

    def coalesce(self) -> None:
        """Call `on_timer(Timer.COALESCE)` once what usually arrives together had the time to. How long that takes is
        the engine's to know. It replaces the timer before, as `set_timer` does."""
        ...

    def cancel_timer(self) -> None:
        """Nothing happens where none is set."""
        ...

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
        """Send the RPC to a pod. Headers, the first reply message and the status are read without being asked for.

        Answered by `on_pod_sent` for the opening, `on_pod_headers`, `on_pod_message` and `on_pod_status`, each in any
        case, the status perhaps first. Raises ConnectionError if the pod's connection is closed.

        With `copy` the answers go there, one at a time, for as long as the try lasts: perhaps longer than the RPC.
        """
        ...

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
        """Send a unary RPC of a policy's own to a pod. As `open`, but its events go to `events`, one at a time with
        those of this RPC, and perhaps for longer. Raises ConnectionError likewise."""
        ...


class Attempt(Protocol):
    """One try of an RPC on one pod."""

    def read(self) -> None:
        """Read the next reply; answered by `on_pod_message`."""
        ...

    def send(self, message: bytes | None, half_close: bool) -> bool:
        """Send a message, the half-close, or both. One at a time. True: the next may follow at once; False: that is
        reported by `on_pod_sent`."""
        ...

    def cancel(self) -> None:
        """End the try; its status still arrives."""
        ...


class TryEvents(Protocol):
    """What happens to a try: of the RPC itself, of its copy, or of a policy. `Session` says what each event means."""

    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None: ...
    def on_defect(self, now_s: float) -> None: ...


class PolicyRpcEvents(TryEvents, Protocol):
    """What happens to an RPC of a policy's own."""

    @property
    def is_over(self) -> bool:
        """Nothing is expected of it any more."""
        ...


class Opening(NamedTuple):
    """What goes out together with the request headers."""

    message: bytes | None
    half_close: bool


class _NoCall:
    """The client's side of an RPC that is over: the session drops the real one, and nothing may follow."""

    carries_frames = False

    def _over(self, *_: object) -> NoReturn:
        raise AssertionError("the RPC is over, but something was sent to its client")

    read = send = finish = abort = ask = run = set_timer = coalesce = cancel_timer = open = _over


NO_CALL: Call = _NoCall()
