"""Pods that misbehave: an HTTP/2 server on the package `h2` that does with each stream what a test's script says.

A script is a function over a `Stream`; it runs in a thread of its own and may block. When the stream or connection is
gone under it, `Gone` ends it quietly.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
import threading
from collections.abc import Callable
from typing import TypeAlias

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import hyperframe.frame

from dataplane.waiting import PATIENCE_S
from grpcgw.model.endpoints import Endpoint

Header: TypeAlias = tuple[str, str]
Code = h2.errors.ErrorCodes


class Gone(Exception):
    """The gateway reset the stream, or the connection closed. `code`: HTTP/2 error; None: connection lost."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


def frame(message: bytes) -> bytes:
    """A gRPC message as it stands in DATA: uncompressed, with its length."""
    return struct.pack(">BI", 0, len(message)) + message


class Stream:
    """One RPC at the pod's end."""

    def __init__(self, connection: Connection, number: int, headers: list[Header]) -> None:
        self.connection, self.number, self.headers = connection, number, headers
        self.events: queue.Queue[bytes | Gone | None] = queue.Queue()
        self.ended: Gone | None = None
        self.gone = threading.Event()
        self._received = b""

    def header(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def read_message(self) -> bytes | None:
        """The next message; None: the client half-closed."""
        while True:
            if len(self._received) >= 5:
                length = struct.unpack(">I", self._received[1:5])[0]
                if len(self._received) >= 5 + length:
                    message, self._received = self._received[5 : 5 + length], self._received[5 + length :]
                    return message
            data = self.events.get(timeout=PATIENCE_S)
            if data is None:
                return None
            if isinstance(data, Gone):
                raise data
            self._received += data

    def read_all(self) -> list[bytes]:
        """Every message up to the half-close."""
        return list(iter(self.read_message, None))

    def wait_gone(self) -> int | None:
        """Wait until the gateway resets the stream (the code) or the connection is lost (None)."""
        assert self.gone.wait(PATIENCE_S), "the stream was never ended by the gateway"
        assert self.ended is not None
        return self.ended.code

    def read_bytes(self) -> bytes:
        """All DATA up to the half-close, as it came."""
        data = b""
        while (part := self.events.get(timeout=PATIENCE_S)) is not None:
            if isinstance(part, Gone):
                raise part
            data += part
        return data

    def send_headers(self, *extra: Header, status: str = "200", content_type: str = "application/grpc") -> None:
        self._headers([(":status", status), ("content-type", content_type), *extra], end=False)

    def send_message(self, message: bytes) -> None:
        self.send_data(frame(message))

    def send_data(self, data: bytes, pad_bytes: int | None = None) -> None:
        """Send as the flow-control windows allow. `pad_bytes`: of padding in each DATA frame."""
        while data:
            data = data[self.connection.send_some(self, data, pad_bytes) :]

    def end(self, status: int | str = 0, message: str = "", *extra: Header) -> None:
        """Trailers, after headers were sent."""
        self._headers(_trailers(status, message, extra), end=True)

    def end_at_once(self, status: int | str, message: str = "", *extra: Header) -> None:
        """Trailers-only."""
        first = [(":status", "200"), ("content-type", "application/grpc")]
        self._headers([*first, *_trailers(status, message, extra)], end=True)

    def end_http(self, status: str) -> None:
        """An answer of HTTP's, without a body."""
        self._headers([(":status", status), ("content-type", "text/plain")], end=True)

    def end_without_status(self) -> None:
        self.connection.act(lambda h2c: h2c.end_stream(self.number))

    def reset(self, code: int) -> None:
        self.connection.act(lambda h2c: h2c.reset_stream(self.number, code))

    def _headers(self, headers: list[Header], end: bool) -> None:
        self.connection.act(lambda h2c: h2c.send_headers(self.number, headers, end_stream=end))


def _trailers(status: int | str, message: str, extra: tuple[Header, ...]) -> list[Header]:
    return [("grpc-status", str(status)), *([("grpc-message", message)] if message else []), *extra]


Script = Callable[[Stream], None]


def refusing(status: int | str, message: str = "", *extra: Header) -> Script:
    """A pod that hears an RPC out and answers trailers-only."""

    def script(stream: Stream) -> None:
        stream.read_all()
        stream.end_at_once(status, message, *extra)

    return script


class Connection:
    def __init__(self, sock: socket.socket, script: Script, streams: list[Stream], most_streams: int) -> None:
        self._socket, self._script, self._all = sock, script, streams
        config = h2.config.H2Configuration(
            client_side=False,
            header_encoding="utf-8",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=False,
        )
        self._h2 = h2.connection.H2Connection(config)
        first = {h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: most_streams}
        self._h2.local_settings = h2.settings.Settings(client=False, initial_values=first)
        self._window = threading.Condition()
        self._streams: dict[int, Stream] = {}
        self.goaway_received, self.ended = threading.Event(), threading.Event()
        self.pinged, self.ping_answered = threading.Event(), threading.Event()
        self.threads: list[threading.Thread] = []

    def act(self, do: Callable[[h2.connection.H2Connection], object]) -> None:
        """Do something with the connection's state and send what comes of it."""
        with self._window:
            try:
                do(self._h2)
            except (h2.exceptions.StreamClosedError, h2.exceptions.ProtocolError) as error:
                raise Gone(None) from error
            self._flush()

    def write(self, raw: bytes) -> None:
        """Bytes that are no part of HTTP/2's rules."""
        with self._window:
            try:
                self._socket.sendall(raw)
            except OSError as error:
                raise Gone(None) from error

    def goaway(self, last_stream: int, code: int = 0) -> None:
        self.act(lambda h2c: h2c.close_connection(code, last_stream_id=last_stream))

    def begin_to_leave(self, last_stream: int) -> None:
        """GOAWAY, after which streams up to `last_stream` go on; the package `h2` itself ends with it."""
        self.write(hyperframe.frame.GoAwayFrame(0, last_stream_id=last_stream).serialize())

    def allow_streams(self, most: int) -> None:
        """Change SETTINGS_MAX_CONCURRENT_STREAMS."""
        self.act(lambda h2c: h2c.update_settings({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: most}))

    def allow_headers(self, most_bytes: int) -> None:
        """Change SETTINGS_MAX_HEADER_LIST_SIZE. The package `h2` ends the connection over more."""
        self.act(lambda h2c: h2c.update_settings({h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: most_bytes}))

    def ping(self) -> None:
        self.act(lambda h2c: h2c.ping(b"scripted"))

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def freeze(self, until: threading.Event) -> None:
        """Neither read nor write anything meanwhile, as a process that is stopped."""
        with self._window:
            until.wait(PATIENCE_S)

    def send_some(self, stream: Stream, data: bytes, pad_bytes: int | None = None) -> int:
        """Send what the windows allow, waiting until they allow something; how much it was."""
        with self._window:
            while not stream.gone.is_set():
                try:
                    padding = 0 if pad_bytes is None else pad_bytes + 1
                    room = min(len(data), self._h2.local_flow_control_window(stream.number) - padding, 16_384 - padding)
                except h2.exceptions.ProtocolError as error:
                    raise Gone(None) from error
                if room > 0:
                    self._h2.send_data(stream.number, data[:room], pad_length=pad_bytes)
                    self._flush()
                    return room
                self._window.wait(PATIENCE_S)
            raise stream.ended or Gone(None)

    def run(self) -> None:
        """Read until the connection ends, then end every stream still open."""
        with self._socket:
            with contextlib.suppress(OSError, Gone):
                self.act(lambda h2c: h2c.initiate_connection())
                while data := self._socket.recv(65_536):
                    self._take(data)
            with self._window:
                for stream in self._streams.values():
                    self._end(stream, None)
        self.ended.set()
        for thread in self.threads:
            thread.join()

    def _flush(self) -> None:
        try:
            self._socket.sendall(self._h2.data_to_send())
        except OSError as error:
            raise Gone(None) from error

    def _take(self, data: bytes) -> None:
        with self._window:
            try:
                events = self._h2.receive_data(data)
            except h2.exceptions.ProtocolError as error:
                raise Gone(None) from error
            for event in events:
                self._on(event)
            self._flush()
            self._window.notify_all()

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived(stream_id=number, headers=headers):
                stream = self._streams[number] = Stream(self, number, list(headers))
                self._all.append(stream)
                thread = threading.Thread(target=self._play, args=(stream,), name="scripted pod stream")
                self.threads.append(thread)
                thread.start()
            case h2.events.DataReceived(stream_id=number, data=data, flow_controlled_length=length):
                with contextlib.suppress(h2.exceptions.ProtocolError):
                    self._h2.acknowledge_received_data(length, number)
                self._streams[number].events.put(data)
            case h2.events.StreamEnded(stream_id=number):
                self._streams[number].events.put(None)
            case h2.events.StreamReset(stream_id=number, error_code=code, remote_reset=True):
                self._end(self._streams[number], code)
            case h2.events.PingReceived():
                self.pinged.set()
            case h2.events.PingAckReceived():
                self.ping_answered.set()
            case h2.events.ConnectionTerminated():
                self.goaway_received.set()

    def _end(self, stream: Stream, code: int | None) -> None:
        if stream.ended is None:
            stream.ended = Gone(None if code is None else int(code))
            stream.events.put(stream.ended)
            stream.gone.set()
            self._window.notify_all()

    def _play(self, stream: Stream) -> None:
        with contextlib.suppress(Gone):
            self._script(stream)


class ScriptedPod:
    """Listens from the start; every RPC is recorded in `streams`. Without a script it takes RPCs and says nothing.

    `deaf`: takes connections and never says a word, not even SETTINGS. `most_streams`: what SETTINGS allow at once.
    `host`: 0.0.0.0 makes it a pod at each of 127.0.0.0/8.
    """

    def __init__(
        self,
        script: Script = Stream.wait_gone,
        port: int = 0,
        deaf: bool = False,
        most_streams: int = 100,
        host: str = "127.0.0.1",
    ) -> None:
        self.streams: list[Stream] = []
        self.connections: list[Connection] = []
        self._script, self._deaf, self._most_streams = script, deaf, most_streams
        self._silent: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="scripted pod")
        self._accepting.start()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint("127.0.0.1", self.port)

    @property
    def connects(self) -> int:
        """Connections taken so far."""
        return len(self.connections) + len(self._silent)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join()
        for connection in self.connections:
            connection.close()
        for sock in self._silent:
            sock.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._deaf:
                self._silent.append(sock)
                continue
            connection = Connection(sock, self._script, self.streams, self._most_streams)
            self.connections.append(connection)
            thread = threading.Thread(target=connection.run, name="scripted pod connection")
            self._threads.append(thread)
            thread.start()
