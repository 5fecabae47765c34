"""An HTTP/2 client on the package `h2`, for what a grpc client hides: frames, and a client that misbehaves."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from urllib.parse import unquote

import h2.config
import h2.connection
import h2.events
import h2.settings
import hyperframe.frame

from dataplane.scripted_pod import Header, frame
from dataplane.waiting import PATIENCE_S


@dataclass
class Answer:
    """What came back on one stream, frame by frame."""

    blocks: list[list[Header]] = field(default_factory=list)
    """Header blocks in order: headers and trailers, or one block for trailers-only."""
    data: bytes = b""
    ended: bool = False
    ended_by_headers: bool = False
    """The last HEADERS frame carried END_STREAM."""
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None

    @property
    def trailers_only(self) -> bool:
        return len(self.blocks) == 1 and self.ended_by_headers and not self.data

    def header(self, name: str) -> str | None:
        """Value in the last block that has it."""
        return next((value for block in reversed(self.blocks) for key, value in block if key == name), None)

    @property
    def status(self) -> int:
        return int(self.header("grpc-status") or "-1")

    @property
    def message(self) -> str:
        return unquote(self.header("grpc-message") or "")


def request_headers(path: str = "/test.Pod/Unary", authority: str = "gateway.test") -> list[Header]:
    """Of a gRPC request."""
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]


def lenient(client: RawClient) -> RawClient:
    """Lets it send what HTTP/2 forbids."""
    client.h2.config.validate_outbound_headers = False
    client.h2.config.normalize_outbound_headers = False
    return client


class _Connection(h2.connection.H2Connection):
    """Goes on after GOAWAY, as RFC 9113 has it; `h2` takes it for the end of the connection."""

    def _receive_goaway_frame(self, frame: hyperframe.frame.GoAwayFrame) -> tuple[list[object], list[object]]:
        return [], [h2.events.ConnectionTerminated()]


class RawClient:
    def __init__(
        self, address: str | socket.socket, initial_window: int = 1 << 20, tls: ssl.SSLContext | None = None
    ) -> None:
        """`address`: or a connection to it. `initial_window`: bytes that each stream may send before this client says
        more, which it never does."""
        if isinstance(address, str):
            host, _, port = address.rpartition(":")
            address = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self.socket = address if tls is None else tls.wrap_socket(address, server_hostname="localhost")
        self.answers: dict[int, Answer] = {}
        self.goaway = False
        self.closed = False
        self.remote_max_streams: int | None = None
        self.h2 = _Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_inbound_headers=False)
        )
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: initial_window}
        )
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 30)  # of the connection: only the streams' windows bound anything
        self.flush()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def flush(self) -> None:
        self.socket.sendall(self.h2.data_to_send())

    def request(
        self,
        method: str,
        *extra: Header,
        messages: Iterable[bytes] = (b"",),
        end: bool = True,
        authority: str = "gateway.test",
    ) -> int:
        """Send a whole RPC, or (not `end`) its beginning; its stream. `method`: of `test.Pod`, or a whole path."""
        path = method if method.startswith("/") else f"/test.Pod/{method}"
        stream = self.begin([*request_headers(path, authority), *extra])
        for message in messages:
            data = frame(message)
            for start in range(0, len(data), 16_384):
                self.h2.send_data(stream, data[start : start + 16_384])
        if end:
            self.h2.end_stream(stream)
        self.flush()
        return stream

    def begin(self, headers: Iterable[Header], end: bool = False) -> int:
        """Open a stream with exactly these headers. Nothing is written to the socket yet."""
        stream = self.h2.get_next_available_stream_id()
        self.answers[stream] = Answer()
        self.h2.send_headers(stream, list(headers), end_stream=end)
        return stream

    def call_with(self, headers: Iterable[Header]) -> Answer:
        """The whole answer to a request of these headers and no message."""
        stream = self.begin(headers, end=True)
        self.flush()
        return self.finish(stream)

    def send_data(self, stream: int, data: bytes, end: bool = False, pad_bytes: int | None = None) -> None:
        """Send in DATA frames of 16 KiB, each as soon as the gateway's windows allow it, unless the RPC ends before."""
        answer, parts = self.answers[stream], [data[at : at + 16_000] for at in range(0, len(data), 16_000)]
        for number, part in enumerate(parts, 1):
            while not answer.over and self.h2.local_flow_control_window(stream) < len(part) + (pad_bytes or 0) + 1:
                assert self.receive(), "the gateway closed the connection"
            if answer.over:
                return
            self.h2.send_data(stream, part, end_stream=end and number == len(parts), pad_length=pad_bytes)
            self.flush()

    def call(self, method: str, *extra: Header, messages: Iterable[bytes] = (b"",), **how: str) -> Answer:
        """A whole RPC and its whole answer."""
        return self.finish(self.request(method, *extra, messages=messages, **how))

    def call_bytes(self, path: bytes) -> Answer:
        """An RPC with any path; its answer as far as it comes."""
        names = b":method", b":scheme", b":path", b":authority", b"te", b"content-type"
        values = b"POST", b"http", path, b"gateway.test", b"trailers", b"application/grpc"
        self.h2.config.validate_outbound_headers = False
        stream = self.h2.get_next_available_stream_id()
        answer = self.answers[stream] = Answer()
        self.h2.send_headers(stream, list(zip(names, values, strict=True)), end_stream=True)
        self.flush()
        while not answer.over and self.receive():
            pass
        return answer

    def finish(self, stream: int) -> Answer:
        answer = self.answers[stream]
        while not answer.over:
            assert self.receive(), "the gateway closed the connection with an RPC unanswered"
        return answer

    def cancel(self, stream: int) -> None:
        self.h2.reset_stream(stream, 8)
        self.flush()

    def receive(self) -> bool:
        """Take what the gateway sent next; False: it closed the connection."""
        try:
            data = self.socket.recv(65_536)
        except ConnectionError:
            data = b""
        self.closed = not data
        for event in self.h2.receive_data(data) if data else ():
            self._on(event)
        with contextlib.suppress(OSError):
            self.flush()
        return not self.closed

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived(stream_id=number) | h2.events.TrailersReceived(stream_id=number):
                answer = self.answers[number]
                answer.blocks.append([(str(key), str(value)) for key, value in event.headers])
                answer.ended_by_headers = event.stream_ended is not None
            case h2.events.DataReceived(stream_id=number, data=data):
                self.answers[number].data += data
            case h2.events.StreamEnded(stream_id=number):
                self.answers[number].ended = True
            case h2.events.StreamReset(stream_id=number, error_code=code):
                self.answers[number].reset = int(code)
            case h2.events.ConnectionTerminated():
                self.goaway = True
            case h2.events.RemoteSettingsChanged(changed_settings=changed):
                limit = changed.get(h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS)
                if limit is not None:
                    self.remote_max_streams = limit.new_value
