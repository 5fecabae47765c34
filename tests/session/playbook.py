"""One RPC step by step: each step is an event an engine may report, and returns what the session asked for in answer.

    rpc = Rpc(Gateway())
    assert rpc.starts() == [READ, COALESCE]
    assert rpc.client_sends(b"hi") == [READ]
    assert rpc.client_half_closes() == [Open(1, b"hi", half_close=True)]

The ports are strict: whatever no engine could carry out (two reads at a time, a send after the end) fails at once, and
so does an event that no engine could report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import REASON_KEY, Reason, Status
from grpcgw.policy.contract import CoroutineWork, RunningWork
from grpcgw.policy.request import Peer, Request
from grpcgw.session.call import Attempt, Opening, PolicyRpcEvents, Timer, TryEvents
from grpcgw.session.session import Session
from grpcgw.upstream.pod import Pod
from tests.session.gateway import LABEL, SERVICE, Gateway

METHOD = f"{SERVICE}Greet"
OK = Status(Code.OK, "")
CONNECT_FAILED = Status(
    Code.UNAVAILABLE, "failed to connect to all addresses; last error: x", cause=Reason.CONNECT_FAILED
)
STREAM_REFUSED = Status(Code.UNAVAILABLE, "Stream removed (RST_STREAM …)", cause=Reason.STREAM_REFUSED)
CONNECTION_LOST = Status(Code.UNAVAILABLE, "Stream removed (Socket closed)", cause=Reason.CONNECTION_LOST)
DEADLINE = Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded", cause=Reason.TIMEOUT)
CANCELLED = Status(Code.CANCELLED, "the RPC ended on the client's side")

# --- what a session asks for


@dataclass(frozen=True)
class Do:
    what: str


READ = Do("read from the client")
COALESCE = Do("set the timer of the coalescing window")
BACK_OFF = Do("set the timer of a retry")
POLICY_TIMER = Do("set the timer of a policy's verdict")
CANCEL_POLICY = Do("cancel what a policy waits for")
COALESCE_S = 0.005
"""How long the engine of these tests takes for it."""
_TIMERS = {Timer.COALESCE: COALESCE, Timer.RETRY: BACK_OFF, Timer.POLICY: POLICY_TIMER}
READ_POD = Do("read from the pod")
CANCEL_POD = Do("cancel the try")


@dataclass(frozen=True)
class Open:
    """`pod`: the last number of its address. The rest is compared only where a test looks at it."""

    pod: int
    message: bytes | None = None
    half_close: bool = False
    path: str = field(default="", compare=False)
    authority: str = field(default="", compare=False)
    metadata: Metadata = field(default=(), compare=False)
    deadline_s: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class SendPod:
    message: bytes | None
    half_close: bool = False


@dataclass(frozen=True)
class Send:
    headers: Metadata | None
    message: bytes | None = None


@dataclass(frozen=True)
class Finish:
    """`headers` is None where they had been sent."""

    status: Status
    headers: Metadata | None = ()
    message: bytes | None = None


@dataclass(frozen=True)
class Abort:
    status: Status


def reason_of(asked: list[Asked]) -> str:
    """`x-grpcgw-reason` of the status that a step ended with; empty where a pod's own was passed on."""
    return str(dict(ended_with(asked).trailers).get(REASON_KEY, ""))


def ended_with(asked: list[Asked]) -> Status:
    (status,) = [step.status for step in asked if isinstance(step, Finish | Abort)]
    return status


@dataclass(frozen=True)
class Ask:
    """An RPC of a policy's own. `pod`: the last number of its address."""

    pod: int
    message: bytes
    path: str = field(default="", compare=False)
    deadline_s: float = field(default=0.0, compare=False)


@dataclass(frozen=True)
class Run:
    """A coroutine of a policy."""


Asked = Do | Open | SendPod | Send | Finish | Abort | Ask | Run


class FakeWork:
    """A coroutine that the engine runs, until the test says what comes of it."""

    def __init__(self, rpc: Rpc, on_result: Callable[[object, float], None]) -> None:
        self._rpc, self.on_result = rpc, on_result

    def cancel(self) -> None:
        self._rpc.asked.append(CANCEL_POLICY)


class FakePolicyAttempt:
    """A policy's own RPC on a pod."""

    def __init__(self, rpc: Rpc, events: PolicyRpcEvents) -> None:
        self._rpc, self.events = rpc, events

    def read(self) -> None:
        raise AssertionError("a unary RPC has one reply")

    def send(self, message: bytes | None, half_close: bool) -> None:
        raise AssertionError("a unary RPC is sent whole")

    def cancel(self) -> None:
        self._rpc.asked.append(CANCEL_POLICY)


class FakeAttempt:
    """One try, of the RPC or of its copy, and what an engine still owes of it."""

    def __init__(self, rpc: Rpc, pod: Pod, first: Opening, copy: TryEvents | None) -> None:
        self._rpc, self.pod, self._copy = rpc, pod, copy
        self.sending: tuple[bytes | None, bool] | None = (first.message, first.half_close)
        self.reading = self.headers_due = self.status_due = True
        self.half_closed = first.half_close
        self.cancelled = False

    def read(self) -> None:
        assert not self.reading, "two reads from the pod at a time"
        assert self.status_due, "a read from a try that is over"
        self._note(READ_POD)
        if self._rpc.nothing_left_to_read:
            (self._copy or self._rpc.session).on_no_more_replies()
        else:
            self.reading = True

    def send(self, message: bytes | None, half_close: bool) -> bool:
        assert self.sending is None, "two sends to the pod at a time"
        assert not self.half_closed, "a send after the half-close"
        assert message is not None or half_close, "a send of nothing"
        self._note(SendPod(message, half_close))
        self.half_closed = half_close
        if not self._rpc.writes_at_once:
            self.sending = message, half_close
        return self._rpc.writes_at_once

    def cancel(self) -> None:
        assert self.status_due, "a try that is over was cancelled"
        assert not self.cancelled, "cancelled twice"
        self.cancelled = True
        self._note(CANCEL_POD)

    def _note(self, asked: Asked) -> None:
        (self._rpc.asked if self._copy is None else self._rpc.copied).append(asked)

    @property
    def over(self) -> bool:
        return not (self.status_due or self.headers_due or self.reading or self.sending)


class FakeCall:
    """The client's side. Ends once."""

    carries_frames = False

    def __init__(self, rpc: Rpc) -> None:
        self._rpc = rpc
        self.reading = self.sending = self.headers_sent = self.ended = False
        self.timer: Timer | None = None
        self.delay_s = self.due_s = 0.0

    def read(self) -> None:
        assert not self.reading, "two reads from the client at a time"
        assert not self.ended, "a read after the end"
        self.reading = True
        self._rpc.asked.append(READ)

    def send(self, headers: Metadata | None, message: bytes | None) -> bool:
        assert not self.sending, "two sends to the client at a time"
        assert not self.ended, "a send after the end"
        assert self.headers_sent is (headers is None), "headers go out once, before any message"
        assert headers is not None or message is not None, "a send of nothing"
        self.headers_sent = True
        self.sending = not self._rpc.writes_at_once
        self._rpc.asked.append(Send(headers, message))
        return self._rpc.writes_at_once

    def finish(self, headers: Metadata | None, message: bytes | None, status: Status, headers_sent: bool) -> None:
        assert not self.sending, "the status while a message is being sent"
        assert headers_sent is self.headers_sent, "the engine is told what it was asked for"
        assert headers_sent is (headers is None), "headers go out once"
        self._end()
        self._rpc.asked.append(Finish(status, headers, message))

    def abort(self, status: Status) -> None:
        assert self.sending, "aborted although nothing is being sent"
        self._end()
        self._rpc.asked.append(Abort(status))

    def _end(self) -> None:
        assert not self.ended, "ended twice"
        self.ended = True

    def set_timer(self, timer: Timer, delay_s: float) -> None:
        assert not self.ended, "a timer after the end"
        self.timer, self.delay_s, self.due_s = timer, delay_s, self._rpc.now_s + delay_s
        self._rpc.asked.append(_TIMERS[timer])

    def coalesce(self) -> None:
        self.set_timer(Timer.COALESCE, COALESCE_S)

    def cancel_timer(self) -> None:
        self.timer = None

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
        assert not self.ended, "a pod was asked after the end"
        number = int(pod.endpoint.address.rpartition(".")[2])
        asked = self._rpc.asked if copy is None else self._rpc.copied
        asked.append(Open(number, first.message, first.half_close, path, authority, metadata, deadline_s))
        if number in self._rpc.closed_pods:
            raise ConnectionError("Cannot invoke RPC on closed channel!")
        attempt = FakeAttempt(self._rpc, pod, first, copy)
        (self._rpc.attempts if copy is None else self._rpc.copies).append(attempt)
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
        assert not self.ended, "a policy's server was asked after the end"
        number = int(pod.endpoint.address.rpartition(".")[2])
        if number in self._rpc.defective_pods:
            raise RuntimeError("a defect in the engine")
        self._rpc.asked.append(Ask(number, message, path, deadline_s))
        if number in self._rpc.closed_pods:
            raise ConnectionError("Cannot invoke RPC on closed channel!")
        attempt = FakePolicyAttempt(self._rpc, events)
        self._rpc.policy_attempts.append(attempt)
        return attempt

    def run(self, work: CoroutineWork, on_result: Callable[[object, float], None]) -> RunningWork:
        assert not self.ended, "a coroutine was run after the end"
        self._rpc.asked.append(Run())
        running = FakeWork(self._rpc, on_result)
        self._rpc.works.append(running)
        return running


class FramedCall(FakeCall):
    carries_frames = True


class Rpc:
    """A session with its two ports. `now_s` is the clock: set it before a step that happens later."""

    def __init__(
        self,
        gateway: Gateway,
        path: str = METHOD,
        *,
        metadata: Metadata = (),
        deadline_s: float | None = None,
        now_s: float = 0.0,
        frames: bool = False,
    ) -> None:
        """`frames`: the engine passes chunks of gRPC frames, not messages."""
        self.gateway, self.path = gateway, path
        self.now_s = now_s
        self.asked: list[Asked] = []
        self.attempts: list[FakeAttempt] = []
        self.copied: list[Asked] = []
        """What the copy asked for, all along."""
        self.copies: list[FakeAttempt] = []
        self.policy_attempts: list[FakePolicyAttempt] = []
        self.works: list[FakeWork] = []
        self.defective_pods: set[int] = set()
        """An RPC of a policy to one of them raises."""
        self.closed_pods: set[int] = set()
        self.nothing_left_to_read = False
        self.writes_at_once = False
        """Both ports say of what is sent that the next may follow."""
        self.call = FramedCall(self) if frames else FakeCall(self)
        request = Request(path, "gateway.example", metadata, deadline_s, Peer("192.0.2.7"))
        self.session = Session(gateway, self.call, request, now_s)

    @property
    def attempt(self) -> FakeAttempt:
        return self.attempts[-1]

    def _answer(self) -> list[Asked]:
        assert not (self.call.ended and self.call.timer), "a timer was left behind"
        asked, self.asked = self.asked, []
        return asked

    # --- the client

    def starts(self, client_left: bool = False) -> list[Asked]:
        self.session.start(self.now_s, client_left)
        return self._answer()

    def client_sends(self, message: bytes) -> list[Asked]:
        return self._client_gives(message)

    def client_sends_last(self, message: bytes) -> list[Asked]:
        """The engine knows of the half-close when it passes the message."""
        return self._client_gives(message, last=True)

    def client_half_closes(self) -> list[Asked]:
        return self._client_gives(None)

    def _client_gives(self, message: bytes | None, last: bool = False) -> list[Asked]:
        assert self.call.reading, "nothing is being read from the client"
        self.call.reading = False
        self.session.on_request_message(message, self.now_s, last)
        return self._answer()

    def client_takes(self, ok: bool = True) -> list[Asked]:
        """What was being sent to the client is written."""
        assert self.call.sending, "nothing is being sent to the client"
        self.call.sending = False
        self.session.on_client_sent(ok, self.now_s)
        return self._answer()

    def client_leaves(self, by_client: bool = False) -> list[Asked]:
        """Cancelled, past its deadline, or its connection is gone. `by_client`: the engine knows that."""
        self.call.ended = True
        self.session.on_client_closed(self.now_s, by_client)
        return self._answer()

    # --- the pod of the current try

    def pod_takes(self, ok: bool = True) -> list[Asked]:
        """What was being sent to the pod is written."""
        assert self.attempt.sending is not None, "nothing is being sent to the pod"
        self.attempt.sending = None
        self.session.on_pod_sent(ok, self.now_s)
        return self._answer()

    def pod_headers(self, *headers: tuple[str, str | bytes]) -> list[Asked]:
        return self._pod_answers(headers)

    def pod_never_answers(self) -> list[Asked]:
        """What stands for the headers of a try that was never sent."""
        return self._pod_answers(None)

    def _pod_answers(self, headers: Metadata | None) -> list[Asked]:
        assert self.attempt.headers_due, "headers come once"
        self.attempt.headers_due = False
        self.session.on_pod_headers(headers, self.now_s)
        return self._answer()

    def pod_replies(self, message: bytes) -> list[Asked]:
        return self._pod_gives(message)

    def pod_has_no_more(self) -> list[Asked]:
        return self._pod_gives(None)

    def _pod_gives(self, message: bytes | None) -> list[Asked]:
        assert self.attempt.reading, "nothing is being read from the pod"
        self.attempt.reading = False
        self.session.on_pod_message(message, self.now_s)
        return self._answer()

    def pod_ends(self, status: Status = OK) -> list[Asked]:
        assert self.attempt.status_due, "a status comes once"
        self.attempt.status_due = False
        self.session.on_pod_status(status, self.now_s)
        return self._answer()

    def try_fails(self, status: Status) -> list[Asked]:
        """Nothing ever came from the pod: all that an engine reports of such a try, in the order it usually does."""
        attempt, asked = self.attempt, []
        if attempt.sending:
            asked += self.pod_takes(ok=False)
        if attempt.reading:
            asked += self.pod_has_no_more()
        asked += self.pod_ends(status)
        return asked + (self.pod_never_answers() if status.cause is Reason.CONNECT_FAILED else self.pod_headers())

    # --- policies

    def coroutine_ends(self, result: object) -> list[Asked]:
        self.works[-1].on_result(result, self.now_s)
        return self._answer()

    def server_answers(self, message: bytes | None, status: Status = OK, status_first: bool = False) -> list[Asked]:
        """All that an engine reports of a policy's own RPC, in one of the orders there are."""
        events = self.policy_attempts[-1].events
        if status_first:
            events.on_pod_status(status, self.now_s)
        events.on_pod_sent(True, self.now_s)
        events.on_pod_headers((), self.now_s)
        events.on_pod_message(message, self.now_s)
        if not status_first:
            events.on_pod_status(status, self.now_s)
        return self._answer()

    # --- time, and the gateway itself

    def timer_expires(self) -> list[Asked]:
        timer = self.call.timer
        assert timer is not None, "no timer is set"
        self.call.timer = None
        self.now_s = max(self.now_s, self.call.due_s)
        self.session.on_timer(timer, self.now_s)
        return self._answer()

    def sweep(self) -> list[Asked]:
        self.session.on_sweep(self.now_s)
        return self._answer()

    def drain_ends(self) -> list[Asked]:
        self.session.on_drained(self.now_s)
        return self._answer()

    def defect(self) -> list[Asked]:
        self.session.on_defect(self.now_s)
        return self._answer()

    # --- shorthand

    def is_sent_unary(self, message: bytes = b"hi") -> list[Asked]:
        """Start a unary RPC, up to its opening on a pod."""
        asked = self.starts() + self.client_sends(message)
        return asked + (self.client_half_closes() if self.call.reading else [])

    def is_answered_unary(self, message: bytes = b"yo", status: Status = OK) -> list[Asked]:
        """All of a pod's unary answer, as it comes."""
        asked = self.pod_takes() + self.pod_headers(("server", "pod")) + self.pod_replies(message)
        return asked + self.pod_ends(status)

    # --- afterwards

    def codes(self) -> dict[int, int]:
        """How many RPCs through this Mapping ended with which status, over all RPCs on the gateway."""
        codes: Counter[int] = Counter()
        for report in self.gateway.counters.reports():
            codes.update(report.codes if report.mapping == LABEL else {})
        return codes
