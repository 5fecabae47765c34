"""A model of everything around a session: a client with a script, pods with theirs, and what grpc core may report when.

`World` plays one `Scenario`: at each step it lists the events that could happen now, and the scenario's schedule says
which one does. The ports of `playbook` check each single answer; `World` checks what holds all along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.resilience import CircuitBreaker, RetryPolicy
from grpcgw.model.status import Status
from tests.session.frames import cut, frame
from tests.session.gateway import LABEL, Gateway
from tests.session.playbook import (
    CANCELLED,
    CONNECT_FAILED,
    CONNECTION_LOST,
    DEADLINE,
    OK,
    STREAM_REFUSED,
    Abort,
    Asked,
    FakeAttempt,
    Finish,
    Open,
    Rpc,
    Send,
)

HEADERS = (("server", "pod"),)
ANSWERS = (OK, Status(Code.NOT_FOUND, "no such user", (("k", "v"),)))
UNREACHED = (CONNECT_FAILED, STREAM_REFUSED)
RETRIES = 2
DISTURBANCES = ("client leaves", "connection breaks", "time passes", "deadline passes", "quiet for long", "drain ends")

Event = tuple[str, Callable[[], list[Asked]]]


@dataclass(frozen=True)
class Scenario:
    requests: tuple[bytes, ...]
    replies: tuple[bytes, ...]
    ends: tuple[Status, ...]
    """How the pod, or grpc core in its place, ends the first try, the second, …; one beyond these is answered OK."""
    retry_codes: frozenset[int] | None
    """The Mapping's `retry_policy`; None: it has none."""
    limited: bool
    """Whether the Mapping has a circuit breaker, with room for this RPC and one retry."""
    headers: bool
    """Whether the pod sends headers of its own; without any, and without replies, it answers with trailers only."""
    patient: bool
    """Whether the pod answers only once it has all requests."""
    pods: int
    closed_pods: frozenset[int]
    """Pods whose connection is closed between the pick and the send."""
    one_request: bool
    one_reply: bool
    timeout_ms: int | None
    cuts: tuple[int, ...]
    """Where chunks of frames are cut."""
    schedule: tuple[int, ...]
    """Which of the events that are possible happens, step by step; past its end the first one does."""
    disturbances: tuple[tuple[int, str], ...]
    """What else happens, after how many steps."""


class PodModel:
    """What one try meets: what its pod has received, and what is still on its way back."""

    def __init__(self, scenario: Scenario, replies: tuple[bytes, ...], status: Status, attempt: FakeAttempt) -> None:
        self.attempt, self.status = attempt, status
        self.received: list[bytes] = []
        self.half_closed = self.broken = self.never_sent = False
        self.reached = status not in UNREACHED
        self.replies = replies if self.reached else ()
        self.to_come = list(self.replies)
        self.headers = HEADERS if scenario.headers or self.replies else ()
        self.patient = scenario.patient

    def take(self) -> None:
        assert self.attempt.sending is not None
        message, half_close = self.attempt.sending
        if message is not None:
            self.received.append(message)
        self.half_closed |= half_close

    def break_off(self, status: Status) -> None:
        """The try ends by other means than the pod's own: what was not read yet is gone."""
        self.status, self.to_come, self.broken = status, [], True

    @property
    def answers(self) -> bool:
        return not self.patient or self.half_closed or self.broken or not self.reached

    @property
    def may_report_status(self) -> bool:
        """grpc core keeps the status back until every message was read, or the last one is being read."""
        all_read = not self.to_come or (len(self.to_come) == 1 and self.attempt.reading)
        return self.attempt.status_due and self.answers and all_read


class World:
    def __init__(self, scenario: Scenario, frames: bool) -> None:
        """`frames`: the engine passes chunks of gRPC frames, not messages."""
        self.scenario, self.frames = scenario, frames
        self.requests, self.replies = self._pieces(scenario.requests), self._pieces(scenario.replies)
        """What the engine passes, piece by piece."""
        self.to_send = list(self.requests)
        self.delivered: list[bytes] = []
        self.headers: Metadata | None = None
        self.being_sent: bytes | None = None
        self.endings: list[Status] = []
        self.client_gone = self.half_closed = False
        self.pods: list[PodModel] = []
        self.history: list[str] = []
        self.gateway = Gateway(
            scenario.pods,
            timeout_ms=scenario.timeout_ms,
            idle_timeout_ms=60_000,
            retry=None if scenario.retry_codes is None else RetryPolicy(scenario.retry_codes, num_retries=RETRIES),
            circuit_breakers=(CircuitBreaker(max_requests=1, max_retries=1),) if scenario.limited else (),
        )
        self.rpc = Rpc(self.gateway, frames=frames)
        self.rpc.closed_pods = set(scenario.closed_pods)
        counters = self.gateway.counters.of(LABEL, self.rpc.path)
        counters.one_request, counters.one_reply = scenario.one_request, scenario.one_reply

    @property
    def pod(self) -> PodModel:
        return self.pods[-1]

    def _pieces(self, messages: tuple[bytes, ...]) -> tuple[bytes, ...]:
        if not self.frames:
            return messages
        return tuple(cut(b"".join(frame(message) for message in messages), self.scenario.cuts))

    def has_all(self, got: list[bytes], sent: tuple[bytes, ...]) -> bool:
        """Whether what was sent came whole. Chunks may have been joined on their way."""
        return b"".join(got) == b"".join(sent) if self.frames else tuple(got) == sent

    def _is_beginning(self, got: list[bytes], sent: tuple[bytes, ...]) -> bool:
        return b"".join(sent).startswith(b"".join(got)) if self.frames else tuple(got) == sent[: len(got)]

    def play(self) -> None:
        """From the start until nothing is left to be reported."""
        self._do("starts", self.rpc.starts)
        disturbances = sorted(self.scenario.disturbances)
        for step in range(1_000):
            while disturbances and disturbances[0][0] <= step:
                self._disturb(disturbances.pop(0)[1])
            possible = list(self._possible())
            if not possible:
                return
            choice = self.scenario.schedule[step] if step < len(self.scenario.schedule) else 0
            self._do(*possible[choice % len(possible)])
        raise AssertionError("the RPC goes on for ever")

    def _do(self, name: str, event: Callable[[], list[Asked]]) -> None:
        """Let an event happen, and carry out what the session asks for."""
        self.history.append(name)
        asked = event()
        self._note_tries(asked)
        for step in asked:
            if isinstance(step, Finish | Abort):
                self.endings.append(step.status)
            if isinstance(step, Finish) and step.message is not None:
                self.delivered.append(step.message)
            if isinstance(step, Send):
                self.being_sent = step.message
            if isinstance(step, Send | Finish) and step.headers is not None:
                self.headers = step.headers
        if self.pods and self.pod.attempt.cancelled and self.pod.attempt.status_due:
            self.pod.break_off(CANCELLED)
        self._check()

    def _note_tries(self, asked: list[Asked]) -> None:
        for attempt in self.rpc.attempts[len(self.pods) :]:
            tries = len(self.pods)
            status = self.scenario.ends[tries] if tries < len(self.scenario.ends) else OK
            self.pods.append(PodModel(self.scenario, self.replies, status, attempt))
            if tries:
                self._check_repeat(next(step for step in reversed(asked) if isinstance(step, Open)))

    # --- what may happen

    def _possible(self) -> Iterator[Event]:
        yield from self._client_events()
        if self.pods:
            yield from self._pod_events()
        if self.rpc.call.timer:
            yield "timer expires", self.rpc.timer_expires

    def _client_events(self) -> Iterator[Event]:
        rpc, over = self.rpc, self.client_gone or bool(self.endings)
        if rpc.call.reading and not over:
            if self.to_send:
                yield "client sends", lambda: rpc.client_sends(self.to_send.pop(0))
                if len(self.to_send) == 1:
                    yield "client sends its last message", self._send_last
            else:
                yield "client half-closes", self._half_close
        if rpc.call.sending:
            yield ("client takes nothing", lambda: rpc.client_takes(ok=False)) if over else ("client takes", self._take)

    def _send_last(self) -> list[Asked]:
        self.half_closed = True
        return self.rpc.client_sends_last(self.to_send.pop())

    def _half_close(self) -> list[Asked]:
        self.half_closed = True
        return self.rpc.client_half_closes()

    def _take(self) -> list[Asked]:
        if self.being_sent is not None:
            self.delivered.append(self.being_sent)
        return self.rpc.client_takes()

    def _pod_events(self) -> Iterator[Event]:
        rpc, pod, attempt = self.rpc, self.pod, self.pod.attempt
        if attempt.sending:
            if pod.status is not CONNECT_FAILED and not pod.broken and attempt.status_due:
                yield "pod takes", self._pod_takes
            else:
                yield "pod takes nothing", lambda: rpc.pod_takes(ok=False)
        if attempt.headers_due and pod.status is CONNECT_FAILED:
            yield "nothing was sent to the pod", self._never_send
        elif attempt.headers_due:
            if pod.reached:
                yield "pod sends headers", lambda: rpc.pod_headers(*pod.headers)
            if pod.broken or not pod.reached:
                yield "pod sends no headers", rpc.pod_headers
        if attempt.reading and pod.to_come and pod.answers:
            yield "pod replies", lambda: rpc.pod_replies(pod.to_come.pop(0))
        elif attempt.reading and pod.answers:
            yield "pod has no more", rpc.pod_has_no_more
        if pod.may_report_status:
            yield "pod ends", lambda: rpc.pod_ends(pod.status)

    def _never_send(self) -> list[Asked]:
        self.pod.never_sent = True
        return self.rpc.pod_never_answers()

    def _pod_takes(self) -> list[Asked]:
        self.pod.take()
        return self.rpc.pod_takes()

    def _disturb(self, what: str) -> None:
        rpc = self.rpc
        if what == "client leaves" and not self.client_gone:
            self.client_gone = True
            self._do(what, rpc.client_leaves)
        elif what == "connection breaks" and self.pods and self.pod.attempt.status_due:
            self.pod.break_off(CONNECTION_LOST)
        elif what == "deadline passes" and self.scenario.timeout_ms is not None:
            rpc.now_s = 10.0
            if self.pods and self.pod.attempt.status_due:
                self.pod.break_off(DEADLINE)
        elif what == "time passes":
            self._do(what, rpc.sweep)
        elif what == "quiet for long":
            rpc.now_s += 100.0
            self._do(what, rpc.sweep)
        elif what == "drain ends":
            self._do(what, rpc.drain_ends)

    # --- what holds at every step

    def _check(self) -> None:
        assert len(self.endings) <= 1
        for pod in self.pods:
            assert self._is_beginning(pod.received, self.requests), "requests lost or out of order"
            assert self.half_closed or not pod.attempt.half_closed, "a request looks complete that is not"
        assert self._is_beginning(self.delivered, self.replies), "replies lost or out of order"
        if self.pods and not self.rpc.session.finished and not self.pod.broken:
            self._check_flow()

    def _check_flow(self) -> None:
        """Each way, the session reads on only when what it read last was written: it holds one message at most.

        And one more request, the first one, while it waits for what may come along. Of chunks, the whole opening.
        """
        if self.pod.reached:
            assert len(self.pod.replies) - len(self.pod.to_come) - len(self.delivered) <= 1
        if self.pod.reached and not self.frames:
            assert len(self.requests) - len(self.to_send) - len(self.pod.received) <= 2

    def _check_repeat(self, opened: Open) -> None:
        last, now = self.pods[-2:]
        codes = self.scenario.retry_codes
        allowed = last.status in UNREACHED or last.never_sent or (codes is not None and last.status.code in codes)
        assert allowed, "a try was repeated that may have reached its pod"
        assert len(self.pods) <= 2 + (0 if codes is None else RETRIES), "too many tries"
        other = self.gateway.targets[0].has_other(last.attempt.pod)
        assert last.attempt.pod is not now.attempt.pod or not other, "the same pod was tried again"
        assert not self.delivered, "repeated although the client has an answer"
        again = opened.message or b""
        if self.frames:
            assert again.startswith(b"".join(last.received)), "what the last pod was sent is not sent again"
        else:
            assert last.received in ([], [opened.message]), "what the last pod was sent is not sent again"
        assert not last.half_closed or opened.half_close
