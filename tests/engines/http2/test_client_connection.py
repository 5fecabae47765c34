"""A client's connection: nothing that was answered is lost with it, and what it sends says whom others wait for."""

from __future__ import annotations

import asyncio
import types
from itertools import pairwise
from typing import Any, cast

import pytest
from abuse.wire import raw_frame

from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.client_limits import ClientLimits
from grpcgw.engines.http2.h2 import NO_ERROR, Http2, StreamReset, open_client
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import QUIET_S, Turn
from grpcgw.policy.request import Peer

LIMITS = ClientLimits(100, 65_536, None, None, None)
REQUEST = [
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":path", b"/test.Pod/Unary"),
    (b":authority", b"gateway.test"),
    (b"content-type", b"application/grpc"),
]
ANSWER = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"0")]


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def open_connection() -> tuple[ClientConnection, Transport, Http2, Timers]:
    """With its client's end."""
    loop = asyncio.get_running_loop()
    timers, transport, client = Timers(loop), Transport(), open_client(65_536)
    engine = types.SimpleNamespace(turn=Turn(loop), timers=timers, active=set())
    connection = ClientConnection(cast(Any, engine), cast(Any, None), LIMITS, None, None, lambda _: None)
    connection.connection_made(transport)
    connection.begin_http2(Peer(""))
    return connection, transport, client, timers


def test_a_client_that_has_just_sent_much_is_none_of_those_that_send_little() -> None:
    """Else a client whose requests are large would have its own and others' handled in small parts."""

    async def run() -> None:
        connection, _, client, timers = open_connection()

        def send(at_s: float, pings: int) -> float:
            """Returns when a client that sends little was last seen."""
            for _ in range(pings):
                client.ping(b"12345678")
            connection.received_at_s = at_s
            connection.accept(client.data_to_send())
            return connection.turn.small_at_s

        assert send(100.0, 1) == 100.0
        assert send(200.0, 200) == 100.0
        for _ in range(50):  # turns of the loop, more than the parts need
            await asyncio.sleep(0)
        assert send(200.0 + QUIET_S / 2, 1) == 100.0
        assert send(200.0 + 2 * QUIET_S, 1) == 200.0 + 2 * QUIET_S
        timers.close()

    asyncio.run(run())


def test_a_connection_that_leaves_waits_until_its_client_reads_the_last_answer() -> None:
    """An answer of trailers alone has no body that waits."""

    async def run() -> None:
        connection, transport, client, timers = open_connection()
        stream_id = client.send_request(REQUEST, end_stream=True)
        connection.receive(client.data_to_send())
        connection.pause_writing()
        connection.http.send_response(stream_id, ANSWER, end_stream=True)
        connection.streams.clear()
        connection._go_away()
        connection.flush()
        assert not transport.ended
        connection.resume_writing()
        connection.flush()
        assert transport.ended
        client.receive_data(transport.written)
        assert any(getattr(event, "headers", ()) == tuple(ANSWER) for event in client.events())
        timers.close()

    asyncio.run(run())


@pytest.mark.parametrize("has_headers", [False, True])
def test_a_status_that_comes_before_the_end_of_the_request_waits_for_a_client_that_does_not_read(
    has_headers: bool,
) -> None:
    """The reset that follows it must not take its place."""

    async def run() -> None:
        connection, transport, client, timers = open_connection()
        stream_id = client.send_request(REQUEST)
        connection.receive(client.data_to_send())
        connection.streams.clear()
        if has_headers:
            connection.http.send_response(stream_id, ANSWER[:2])
            connection.flush()
        connection.pause_writing()
        if has_headers:
            connection.http.send_trailers(stream_id, ANSWER[2:])
        else:
            connection.http.send_response(stream_id, ANSWER, end_stream=True)
        connection.reset_when_sent(stream_id)
        connection.flush()
        connection.resume_writing()
        connection.flush()
        connection.flush()
        client.receive_data(transport.written)
        events = client.events()
        sent = [field for event in events for field in getattr(event, "headers", ())]
        assert sent == ANSWER
        assert [event.error_code for event in events if isinstance(event, StreamReset)] == [NO_ERROR]
        timers.close()

    asyncio.run(run())


def test_much_that_cost_little_does_not_let_many_rpcs_begin_at_once() -> None:
    """Parts are cut by frames: bytes tell nothing of what they cause."""

    async def run() -> list[int]:
        connection, _, client, timers = open_connection()
        connection.turn.hurries = True
        connection.accept(client.data_to_send())
        unknown = raw_frame(0xBB, 0, 0, bytes(16_000))
        for _ in range(50):
            client.send_request(REQUEST)
        connection.postpone(20 * unknown + client.data_to_send())
        running = [0]
        while running[-1] < 50:
            connection.handle_part()
            running.append(len(connection.streams))
        timers.close()
        return running

    running = asyncio.run(run())
    assert running[-1] == 50
    assert max(after - before for before, after in pairwise(running)) == 1
