"""One connection to a pod: what its frames mean where they come at an awkward moment."""

from __future__ import annotations

import asyncio
import logging

import pytest
from abuse.wire import message, raw_frame, request, settings

from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_link import PodLink
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
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
