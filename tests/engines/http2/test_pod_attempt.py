"""A try on a stream to a pod: what it gives back to the connection, and that its end is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from grpcgw.engines.http2.h2 import DataReceived, Http2, ResponseReceived, TrailersReceived, open_client
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.session.call import Opening

STREAM = 1
HEAD = ResponseReceived(STREAM, ((b":status", b"200"), (b"content-type", b"application/grpc")), False)
OK = TrailersReceived(STREAM, ((b"grpc-status", b"0"),))


class Connection:
    """A pod and its one connection."""

    is_dirty = is_lost = False

    def __init__(self, turn: Turn, timers: Timers) -> None:
        self.turn, self.timers = turn, timers
        self.http: Http2 = open_client(65_536)
        self.acknowledged_bytes = 0

    def acknowledge(self, stream_id: int, size_bytes: int) -> None:
        self.acknowledged_bytes += size_bytes

    def is_written(self, stream_id: int, writer: PodAttempt) -> bool:
        return True

    def queued_bytes(self, stream_id: int) -> int:
        return 0

    def is_too_large(self, fields_bytes: int) -> bool:
        return False

    def forget(self, stream_id: int, reset: bool) -> None: ...
    def give_up(self, attempt: PodAttempt) -> None: ...
    def flush(self) -> None: ...
    def fail(self, why: str) -> None: ...


class Events:
    """Reads `most` chunks of the answer, and no more."""

    def __init__(self, most: int = 1) -> None:
        self._most = most
        self.read: Callable[[], None] = lambda: None
        self.messages: list[bytes] = []
        self.statuses: list[Status] = []
        self.fails = False

    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...

    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None:
        if self.fails:
            raise ValueError("a defect")

    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        if message is not None:
            self.messages.append(message)
            if len(self.messages) < self._most:
                self.read()

    def on_pod_status(self, status: Status, now_s: float) -> None:
        self.statuses.append(status)

    def on_defect(self, now_s: float) -> None:
        self.on_end()

    def on_end(self) -> None: ...


def play(*steps: Callable[[PodAttempt], object], events: Events) -> Connection:
    """Take the steps one a turn of the loop; the connection that they leave."""

    async def run() -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(Turn(loop), Timers(loop))
        attempt = PodAttempt(connection, None, events, [], Opening(b"sent", True), None, is_large=False)
        events.read, events.on_end = attempt.read, attempt.cancel  # type: ignore[method-assign]
        attempt.on_open(connection, STREAM)
        for step in steps:
            step(attempt)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        return connection

    return asyncio.run(run())


def data(size_bytes: int) -> Callable[[PodAttempt], None]:
    return lambda attempt: attempt.on_data(DataReceived(STREAM, bytes(size_bytes), False))


@pytest.mark.parametrize("most", [2, 9])
def test_what_was_read_is_given_back_when_the_status_comes_later(most: int) -> None:
    """What is not, is lost to the connection's window: after 2 GiB its pod could send nothing any more."""
    events = Events(most)
    connection = play(
        lambda attempt: attempt.on_response(HEAD),
        data(100),
        data(200),
        lambda attempt: attempt.on_trailers(OK),
        events=events,
    )
    assert len(events.messages) == 2
    assert connection.acknowledged_bytes == 300


def test_what_was_sent_is_not_kept() -> None:
    """A stream may last for days, and its first message have any length: whether it is sent again is the session's."""
    kept: list[bytes | None] = []
    play(lambda attempt: kept.append(attempt.first.message), events=Events())
    assert kept == [None]


def test_what_was_read_is_given_back_with_the_status() -> None:
    events = Events()
    connection = play(
        lambda attempt: attempt.on_response(HEAD), data(100), lambda attempt: attempt.on_trailers(OK), events=events
    )
    assert [status.code for status in events.statuses] == [0]
    assert connection.acknowledged_bytes == 100


def test_a_try_that_is_cancelled_reports_the_status_that_waited_for_its_messages() -> None:
    """Else the pod would count the RPC as running for ever."""
    events = Events()
    play(
        lambda attempt: attempt.on_response(HEAD),
        data(100),
        data(200),
        lambda attempt: attempt.on_trailers(OK),
        lambda attempt: attempt.cancel(),
        lambda attempt: attempt.cancel(),
        events=events,
    )
    assert (len(events.messages), [status.code for status in events.statuses]) == (1, [0])


def test_a_try_that_a_defect_ends_still_reports_its_status(caplog: pytest.LogCaptureFixture) -> None:
    events = Events()
    events.fails = True
    play(lambda attempt: attempt.on_response(HEAD), lambda attempt: None, events=events)
    assert len(events.statuses) == 1
    assert "defect" in caplog.text
