"""A client's connection that ends: nothing that was answered is lost with it."""

from __future__ import annotations

import asyncio
import types
from typing import Any, cast

from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.client_limits import ClientLimits
from grpcgw.engines.http2.h2 import open_client
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
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
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...


def test_a_connection_that_leaves_waits_until_its_client_reads_the_last_answer() -> None:
    """An answer of trailers alone has no body that waits."""

    async def run() -> None:
        loop = asyncio.get_running_loop()
        timers, transport, client = Timers(loop), Transport(), open_client(65_536)
        engine = types.SimpleNamespace(turn=Turn(loop), timers=timers, active=set())
        connection = ClientConnection(cast(Any, engine), cast(Any, None), LIMITS, None, None, lambda _: None)
        connection.connection_made(transport)
        connection.begin_http2(Peer(""))
        stream_id = client.send_request(REQUEST, end_stream=True)
        connection.receive(client.data_to_send())
        connection.pause_writing()
        connection.http.send_response(stream_id, ANSWER, end_stream=True)
        connection.streams.clear()
        connection._go_away()
        connection.flush()
        assert not transport.closed
        connection.resume_writing()
        connection.flush()
        assert transport.closed
        client.receive_data(transport.written)
        assert any(getattr(event, "headers", ()) == tuple(ANSWER) for event in client.events())
        timers.close()

    asyncio.run(run())
