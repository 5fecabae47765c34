"""Random frames, valid and not, in random order and cut anywhere: into the binding, and into whole connections.

Nothing but Http2Error is ever raised by the binding, and nothing at all by a connection; every RPC ends with its
connection. `make fuzz` tries thousands.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hyperframe.frame import PingFrame, PriorityFrame
from hypothesis import given
from hypothesis import strategies as st

from abuse.wire import (
    PREFACE,
    acknowledge,
    block,
    data,
    message,
    raw_frame,
    request,
    reset,
    settings,
    window_update,
)
from grpcgw.engines.http2.client_connection import ClientConnection
from grpcgw.engines.http2.client_limits import ClientLimits
from grpcgw.engines.http2.client_rpc import ClientRpc
from grpcgw.engines.http2.h2 import (
    DataReceived,
    Http2,
    Http2Error,
    RequestReceived,
    open_client,
    open_server,
)
from grpcgw.engines.http2.pod_attempt import PodAttempt
from grpcgw.engines.http2.pod_link import PodLink
from grpcgw.engines.http2.timers import Timers
from grpcgw.engines.http2.turn import Turn
from grpcgw.listeners.open_ports import PortView
from grpcgw.model.metadata import Metadata
from grpcgw.model.status import Status
from grpcgw.policy.request import Peer
from grpcgw.session.call import Opening
from grpcgw.session.serving import Serving
from grpcgw.telemetry.client_counters import ClientCounters

MAX_STREAMS, MAX_METADATA_BYTES = 10, 4096
HEADERS, CONTINUATION, END_STREAM, END_HEADERS, PADDED, PRIORITY = 1, 9, 1, 4, 8, 0x20
CHECK = "/grpc.health.v1.Health/Check"
TURNS = 6

RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
TRAILERS = [("grpc-status", "0")]
BLOCKS = [
    block(request(CHECK)),
    block(request("/a.B/C")),
    block(request("/a.B/C", grpc_timeout="1n")),
    block([*request(CHECK), ("x-a", "a" * 900)] * 2),
    block([*request(CHECK), *[(f"x-{n}", "a" * 90) for n in range(60)]]),
    block([("Upper", "x")]),
    block(request(method="GET")),
    block(request(content_type="application/json")),
    block(RESPONSE),
    block([*RESPONSE, *TRAILERS]),
    block([(":status", "503")]),
    block([(":status", "100")]),
    block([(":status", "abc")]),
    block(TRAILERS),
    block([("grpc-status", "x"), ("grpc-message", "%zz%")]),
    b"\x80",
    b"\xff\xff\xff\xff\xff",
    b"",
]

streams = st.sampled_from([0, 1, 1, 3, 3, 5, 7, 9, 21, 2, 4, 2**31 - 1])
numbers = st.sampled_from([0, 1, 2, 100, 16_384, 65_535, 2**24, 2**31 - 1, 2**32 - 1])
bodies = st.sampled_from([b"", b"\0", message(), message()[:3], message(b"", 2**32 - 1), bytes(16_384)])
frames = st.one_of(
    st.builds(
        lambda stream, flags, encoded: raw_frame(HEADERS, flags, stream, encoded),
        streams,
        st.sampled_from([END_HEADERS, END_HEADERS, END_HEADERS | END_STREAM, 0, PADDED, PRIORITY | END_HEADERS]),
        st.sampled_from(BLOCKS),
    ),
    st.builds(data, streams.filter(bool), bodies, st.booleans()),
    st.builds(reset, streams.filter(bool), st.integers(0, 20)),
    st.builds(lambda stream, by: raw_frame(8, 0, stream, by.to_bytes(4, "big")), streams, numbers),
    st.builds(
        lambda key, value: raw_frame(4, 0, 0, key.to_bytes(2, "big") + value.to_bytes(4, "big")),
        st.integers(0, 10),
        numbers,
    ),
    st.builds(
        lambda last, code: raw_frame(7, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big")), numbers, numbers
    ),
    st.builds(
        lambda stream, flags, part: raw_frame(CONTINUATION, flags, stream, part),
        streams,
        st.sampled_from([0, END_HEADERS]),
        st.sampled_from(BLOCKS),
    ),
    st.just(acknowledge()),
    st.just(PingFrame(0, b"fuzzing!").serialize()),
    st.just(PingFrame(0, b"fuzzing!", flags=["ACK"]).serialize()),
    st.just(PriorityFrame(1, depends_on=3, stream_weight=1).serialize()),
    st.just(window_update(0, 2**20)),
    st.builds(raw_frame, st.integers(0, 20), st.integers(0, 255), streams, st.binary(max_size=20)),
    st.binary(max_size=40),
)
floods = st.builds(lambda frame, count: frame * count, frames, st.sampled_from([1, 1, 1, 1, 2, 50]))
FIRST_NEW_STREAM = 101


def on_new_stream(opening: bytes, flags: int, body: bytes, after: list[bytes]) -> Callable[[int], bytes]:
    """A whole stream: headers, then perhaps data, trailers, a reset."""
    return lambda stream: b"".join(
        [
            raw_frame(HEADERS, flags, stream, opening),
            data(stream, body) if body else b"",
            *(part[:5] + stream.to_bytes(4, "big") + part[9:] for part in after),
        ]
    )


endings = st.lists(
    st.sampled_from(
        [
            reset(1),
            reset(1, 0),
            data(1, b"", True),
            raw_frame(HEADERS, END_HEADERS | END_STREAM, 1, block(TRAILERS)),
            window_update(1, 2**20),
        ]
    ),
    max_size=2,
)
whole_streams = st.builds(
    on_new_stream,
    st.sampled_from(BLOCKS),
    st.sampled_from([END_HEADERS, END_HEADERS | END_STREAM]),
    bodies,
    endings,
)


def join(parts: list[bytes | Callable[[int], bytes]]) -> bytes:
    """Every other part on a stream of its own."""
    return b"".join(
        part if isinstance(part, bytes) else part(FIRST_NEW_STREAM + 2 * number) for number, part in enumerate(parts)
    )


answers = st.builds(
    lambda stream, opening, body, after: on_new_stream(opening, END_HEADERS, body, after)(stream),
    st.sampled_from([1, 3, 5, 7, 9]),
    st.sampled_from([block(RESPONSE), block(RESPONSE), *BLOCKS]),
    bodies,
    endings,
)


def mostly(valid: Any) -> st.SearchStrategy[bytes]:
    """Valid parts, and perhaps one that is not: after most of those the connection is over."""
    return st.builds(
        lambda before, bad, after: join([*before, bad, *after]),
        st.lists(valid, max_size=12),
        st.one_of(st.just(b""), floods),
        st.lists(st.one_of(valid, floods), max_size=6),
    )


inputs, pod_inputs = mostly(whole_streams), mostly(answers)
seeds = st.integers(0, 2**32 - 1)


def pieces(whole: bytes, chance: random.Random) -> Iterator[bytes]:
    at = 0
    while at < len(whole):
        size = chance.choice([1, 9, 30, 200, 1_000, 1_000, 5_000])
        yield whole[at : at + size]
        at += size


# --- the binding


def feed(http: Http2, whole: bytes, seed: int, answer: Callable[[Http2, int, random.Random], None]) -> None:
    """Give the bytes to a connection as the engine does: read events, answer some, take what is to be sent."""
    chance = random.Random(seed)
    with contextlib.suppress(Http2Error):
        for piece in pieces(whole, chance):
            http.receive_data(piece)
            for event in http.events():
                if isinstance(event, DataReceived) and event.data:
                    with contextlib.suppress(Http2Error, ValueError):
                        http.acknowledge_received_data(len(event.data), event.stream_id)
                if isinstance(event, RequestReceived | DataReceived):
                    with contextlib.suppress(Http2Error):
                        answer(http, event.stream_id, chance)
                if stream_id := getattr(event, "stream_id", 0):
                    assert http.queued_body_size(stream_id) >= 0
            while http.data_to_send(16_384):
                http.events()


def answer_client(http: Http2, stream_id: int, chance: random.Random) -> None:
    do = chance.randrange(5)
    if do == 0:
        http.send_response(stream_id, [(b":status", b"200")])
    elif do == 1:
        http.send_data(stream_id, bytes(chance.choice([0, 1, 100_000])))
    elif do == 2:
        http.send_trailers(stream_id, [(b"grpc-status", b"0")])
    elif do == 3:
        http.reset_stream(stream_id, chance.randrange(20))


def answer_pod(http: Http2, stream_id: int, chance: random.Random) -> None:
    if chance.randrange(2):
        http.send_data(stream_id, bytes(chance.choice([1, 100_000])), end_stream=bool(chance.randrange(2)))
    else:
        http.reset_stream(stream_id, chance.randrange(20))


@given(whole=inputs, seed=seeds)
def test_the_server_end_of_the_binding_raises_nothing_but_its_own_errors(whole: bytes, seed: int) -> None:
    feed(open_server(MAX_STREAMS, MAX_METADATA_BYTES), PREFACE + settings() + whole, seed, answer_client)


@given(whole=pod_inputs, seed=seeds)
def test_the_client_end_of_the_binding_raises_nothing_but_its_own_errors(whole: bytes, seed: int) -> None:
    http = open_client(MAX_METADATA_BYTES)
    fields = [(name.encode(), value.encode()) for name, value in request()]
    for _ in range(5):
        http.send_request(fields)
    http.data_to_send()
    feed(http, settings() + whole, seed, answer_pod)


# --- whole connections


class Transport:
    """Takes what is written; a slow one says stop now and then."""

    def __init__(self, protocol: Any, chance: random.Random) -> None:
        self._protocol, self._chance = protocol, chance
        self.is_closed = self.is_paused = False

    def write(self, data: bytes) -> None:
        if not self._chance.randrange(4) and not self.is_paused:
            self.is_paused = True
            self._protocol.pause_writing()

    def go_on(self) -> None:
        if self.is_paused and not self.is_closed:
            self.is_paused = False
            self._protocol.resume_writing()

    def set_write_buffer_limits(self, high: int) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        self.is_closed = True

    abort = close


class Engine:
    """An engine without sockets and Mappings: RPCs get the health service, or UNIMPLEMENTED."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.turn, self.timers = Turn(loop), Timers(loop)
        self.serving = Serving(self._connect)
        self.active: set[ClientRpc] = set()
        self.clients = ClientCounters()
        self.max_metadata_bytes = MAX_METADATA_BYTES

    def _connect(self, address: str, settings: object) -> Any:
        raise AssertionError("no Mapping has a pod")

    def run_coroutine(self, work: object, on_result: object) -> Any:
        raise AssertionError("no Mapping has a policy")


async def converse(protocol: Any, transport: Transport, whole: bytes, chance: random.Random) -> None:
    for piece in pieces(whole, chance):
        if transport.is_closed:
            break
        protocol.data_received(piece)
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if not chance.randrange(3):
            transport.go_on()
    for _ in range(TURNS):
        await asyncio.sleep(0)
        transport.go_on()


async def serve(whole: bytes, seed: int) -> None:
    chance, engine = random.Random(seed), Engine()
    limits = ClientLimits(MAX_STREAMS, MAX_METADATA_BYTES, None, None, None)
    lost: list[ClientConnection] = []
    connection = ClientConnection(engine, PortView("fuzz"), limits, None, None, lost.append)
    transport = Transport(connection, chance)
    connection.connection_made(transport)  # type: ignore[arg-type]
    connection.begin_http2(Peer("127.0.0.1", 1))
    await converse(connection, transport, whole, chance)
    connection.connection_lost(None)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert engine.active == set()
    assert connection.streams == {}
    assert lost == [connection]
    engine.timers.close()
    engine.turn.memory.close()


class Events:
    """The session's side of a try: reads on, and takes any order of events but a second status."""

    def __init__(self) -> None:
        self.attempt: PodAttempt | None = None
        self.statuses: list[Status] = []

    def on_pod_sent(self, ok: bool, now_s: float) -> None: ...
    def on_pod_headers(self, headers: Metadata | None, now_s: float) -> None: ...
    def on_pod_message(self, message: bytes | None, now_s: float) -> None:
        if self.attempt is not None and message is not None:
            self.attempt.read()

    def on_pod_status(self, status: Status, now_s: float) -> None:
        self.statuses.append(status)

    def on_no_more_replies(self) -> None: ...
    def on_defect(self, now_s: float) -> None:
        raise AssertionError("a defect")


class Pod:
    """What a try and its connection report to."""

    def __init__(self, engine: Engine) -> None:
        self.turn, self.timers = engine.turn, engine.timers

    def is_too_large(self, fields_bytes: int) -> bool:
        return fields_bytes > MAX_METADATA_BYTES

    def give_up(self, attempt: PodAttempt) -> None: ...
    def on_change(self, link: PodLink) -> None: ...
    def on_room(self) -> None: ...


async def call(whole: bytes, seed: int) -> None:
    chance, engine = random.Random(seed), Engine()
    pod = Pod(engine)
    link = PodLink(engine.turn, MAX_METADATA_BYTES, None, pod)
    transport = Transport(link, chance)
    link.connection_made(transport)  # type: ignore[arg-type]
    link.data_received(settings())
    fields = [(name.encode(), value.encode()) for name, value in request()]
    events = [Events() for _ in range(5)]
    for each in events:
        first = Opening(message(), bool(chance.randrange(2)))
        each.attempt = PodAttempt(pod, None, each, fields, first, None, is_large=False)
        link.open(each.attempt, 0.0)
    link.flush()
    await converse(link, transport, whole, chance)
    link.connection_lost(None)
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert [len(each.statuses) for each in events] == [1] * 5
    engine.timers.close()
    engine.turn.memory.close()


@pytest.fixture
def no_complaints(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.WARNING)
    yield
    assert [record.getMessage() for record in caplog.get_records("call")] == []


@pytest.mark.usefixtures("no_complaints")
@given(whole=inputs, seed=seeds)
def test_a_clients_connection_contains_whatever_comes(whole: bytes, seed: int) -> None:
    asyncio.run(serve(PREFACE + settings() + whole, seed))


@pytest.mark.usefixtures("no_complaints")
@given(whole=pod_inputs, seed=seeds)
def test_a_pods_connection_contains_whatever_comes(whole: bytes, seed: int) -> None:
    asyncio.run(call(whole, seed))


def test_connections_that_broke_leave_no_objects() -> None:
    """What a broken connection held is gone with it."""

    def many() -> int:
        for seed in range(100):
            chance = random.Random(seed)
            parts = [
                raw_frame(HEADERS, END_HEADERS, stream, chance.choice(BLOCKS)) + data(stream, message())
                for stream in range(1, 20, 2)
            ]
            asyncio.run(serve(PREFACE + settings() + b"".join(parts) + chance.randbytes(40), seed))
        gc.collect()
        return len(gc.get_objects())

    many()
    assert many() <= many() + 100
