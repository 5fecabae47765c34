"""One connection to a pod: what its frames mean where they come at an awkward moment."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from abuse.wire import acknowledge, block, data, headers_frame, message, raw_frame, request, settings

from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_link import PART_BYTES, PodLink
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
from grpcgw.model.codes import Code
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Reason, Status
from grpcgw.session.call import Opening

GOAWAY = raw_frame(7, 0, 0, bytes(8))
"""It names no stream as processed."""
FIELDS = [(name.encode(), value.encode()) for name, value in request()]


class Transport:
    """Takes what is written."""

    def set_write_buffer_limits(self, high: int) -> None: ...
    def write(self, data: bytes) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


class Pod:
    """Closes a connection that is leaving with its last RPC, as the engine does."""

    def __init__(self, turn: Turn, timers: Timers) -> None:
        self.turn, self.timers = turn, timers
        self.link = PodLink(turn, 65_536, None, self)
        self.link.connection_made(Transport())  # type: ignore[arg-type]
        self.link.data_received(settings())
        self.link.flush()

    def is_too_large(self, fields_bytes: int) -> bool:
        return False

    def give_up(self, attempt: PodAttempt) -> None: ...
    def on_room(self) -> None: ...
    def on_change(self, link: PodLink) -> None:
        if not link.streams and not link.is_lost:
            link.close()


class Events:
    def __init__(self) -> None:
        self.statuses: list[Status] = []

    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None: ...
    def on_no_more_replies(self) -> None: ...
    def on_defect(self, now_s: float) -> None: ...
    def on_pod_status(self, status: Status, now_s: float) -> None:
        self.statuses.append(status)


def test_goaway_before_a_request_is_written_is_proof_that_the_pod_has_it_not() -> None:
    """libnghttp2 then sends nothing at all."""

    async def run() -> list[Status]:
        loop = asyncio.get_running_loop()
        pod, events = Pod(Turn(loop), Timers(loop)), Events()
        assert pod.link.open(PodAttempt(pod, None, events, FIELDS, Opening(message(), True), None, False), 0.0)
        pod.link.data_received(GOAWAY)
        for _ in range(3):
            await asyncio.sleep(0)
        return events.statuses

    assert [status.cause for status in asyncio.run(run())] == [Reason.STREAM_REFUSED]


def test_frames_that_follow_goaway_mean_nothing_any_more(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)

    async def run() -> bool:
        loop = asyncio.get_running_loop()
        pod = Pod(Turn(loop), Timers(loop))
        pod.link.data_received(GOAWAY + settings({3: 7}) + settings())
        return pod.link.is_lost

    assert asyncio.run(run())
    assert not caplog.records


ANSWER = headers_frame(1, block([(":status", "200"), ("content-type", "application/grpc")]))
TRAILERS = headers_frame(1, block([("grpc-status", "0")]), end=True)


def test_what_a_pod_sent_before_it_closed_is_handled_before_the_end() -> None:
    """Of much at once only a part is handled where other clients wait."""

    async def run() -> list[Status]:
        loop = asyncio.get_running_loop()
        pod, events = Pod(Turn(loop), Timers(loop)), Events()
        pod.turn.small_at_s = time.monotonic()
        assert pod.link.open(PodAttempt(pod, None, events, FIELDS, Opening(message(), True), None, False), 0.0)
        pod.link.flush()
        much = b"".join(data(1, bytes(16_000)) for _ in range(3 * PART_BYTES // 16_000))
        pod.link.data_received(acknowledge() + ANSWER + much + TRAILERS)
        assert not events.statuses
        pod.link.connection_lost(None)
        for _ in range(3):
            await asyncio.sleep(0)
        return events.statuses

    assert [status.code for status in asyncio.run(run())] == [Code.OK]


def test_goaway_that_gives_up_an_answered_stream_is_no_defect_of_the_answer() -> None:
    """Nor is it proof that the pod has not seen the RPC."""

    async def run() -> list[Status]:
        loop = asyncio.get_running_loop()
        pod, events = Pod(Turn(loop), Timers(loop)), Events()
        assert pod.link.open(PodAttempt(pod, None, events, FIELDS, Opening(message(), True), None, False), 0.0)
        pod.link.flush()
        pod.link.data_received(acknowledge() + ANSWER + GOAWAY)
        for _ in range(3):
            await asyncio.sleep(0)
        return events.statuses

    assert [(status.code, status.cause) for status in asyncio.run(run())] == [(Code.UNAVAILABLE, Reason.STREAM_RESET)]
