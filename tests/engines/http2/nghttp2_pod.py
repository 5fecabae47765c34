"""A pod on libnghttp2 with its default limits: above 1,000 resets at once, or 33 a second, it ends the connection.

Or with the limits of another server. It answers an RPC with OK once its request is whole, and `Join` with its messages
as they come.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Protocol

from dataplane.waiting import PATIENCE_S
from ngh2 import Connection, Role
from ngh2.config import Configuration
from ngh2.events import ConnectionClosed, DataReceived, RequestReceived, StreamClosed, StreamReset
from ngh2.exceptions import NGH2Error

from grpcgw.model.endpoints import Endpoint

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]
ENHANCE_YOUR_CALM = 11


class ResetLimit(Protocol):
    """Of one connection. Times in seconds."""

    def open(self, stream_id: int, now_s: float) -> None: ...
    def end(self, stream_id: int) -> None: ...
    def allows(self, stream_id: int, now_s: float) -> bool:
        """Whether the connection goes on after a reset of this stream."""
        ...


class NoFurtherLimit:
    """libnghttp2's own alone."""

    def open(self, stream_id: int, now_s: float) -> None: ...
    def end(self, stream_id: int) -> None: ...
    def allows(self, stream_id: int, now_s: float) -> bool:
        return True


class NettyLimit(NoFurtherLimit):
    """`Http2MaxRstFrameDecoder` with its defaults: 200 in a window of 30 s, which the first reset after it begins."""

    def __init__(self) -> None:
        self._began_s, self._resets = float("-inf"), 0

    def allows(self, stream_id: int, now_s: float) -> bool:
        if now_s - self._began_s >= 30:
            self._began_s, self._resets = now_s, 0
        self._resets += 1
        return self._resets <= 200


class EnvoyLimit:
    """`overload.premature_reset_total_stream_count` and `…_min_stream_lifetime_seconds` with their defaults: no more
    than half of the streams, or of 500, may be reset within a second."""

    def __init__(self) -> None:
        self._opened_at_s: dict[int, float] = {}
        self._ended = self._premature = 0

    def open(self, stream_id: int, now_s: float) -> None:
        self._opened_at_s[stream_id] = now_s

    def end(self, stream_id: int) -> None:
        self._ended += self._opened_at_s.pop(stream_id, None) is not None

    def allows(self, stream_id: int, now_s: float) -> bool:
        self._premature += now_s - self._opened_at_s.get(stream_id, 0.0) < 1
        self.end(stream_id)
        return 2 * self._premature < max(500, self._ended)


class Nghttp2Pod:
    def __init__(self, make_limit: Callable[[], ResetLimit] = NoFurtherLimit) -> None:
        self._make_limit = make_limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self.connects = self.calls = self.broken = self.closed_streams = self.ended = self.held = 0
        """`calls`: RPCs that came; `held`: those of `Hold`; `ended`: connections; `broken`: those that it
        ended over what came."""
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._lock = threading.Lock()
        self._threads[0].start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE_S)
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(PATIENCE_S)

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            accepted.settimeout(PATIENCE_S)
            self.connects += 1
            self._sockets.append(accepted)
            self._threads.append(threading.Thread(target=self._serve, args=(accepted,), daemon=True))
            self._threads[-1].start()

    def _serve(self, accepted: socket.socket) -> None:
        served = _Served(self._make_limit())
        http = served.http
        try:
            while True:
                accepted.sendall(http.data_to_send())
                data = accepted.recv(65_536)
                if not data:
                    return
                http.receive_data(data)
                if not self._handle(served):
                    break
            accepted.sendall(http.data_to_send())
        except (NGH2Error, OSError):
            return
        finally:
            with self._lock:
                self.ended += 1
            accepted.close()

    def _handle(self, served: _Served) -> bool:
        """False: the connection has ended."""
        http, now_s = served.http, time.monotonic()
        for event in http.events():
            if isinstance(event, RequestReceived):
                self._open(served, event, now_s)
            elif isinstance(event, DataReceived):
                self._on_data(http, event, served.joins)
            elif isinstance(event, StreamReset):
                if not served.limit.allows(event.stream_id, now_s):
                    http.terminate_connection(ENHANCE_YOUR_CALM)
                    self.broken += 1
                    return False
            elif isinstance(event, StreamClosed):
                served.limit.end(event.stream_id)
                with self._lock:
                    self.closed_streams += 1
            elif isinstance(event, ConnectionClosed):
                with self._lock:
                    self.broken += event.error_code != 0
                return False
        return True

    def _open(self, served: _Served, event: RequestReceived, now_s: float) -> None:
        with self._lock:
            self.calls += 1
            self.held += dict(event.headers)[b":path"].endswith(b"/Hold")
        served.limit.open(event.stream_id, now_s)
        if dict(event.headers)[b":path"].endswith(b"/Join"):
            served.joins.add(event.stream_id)
            served.http.send_response(event.stream_id, HEAD)

    def _on_data(self, http: Connection, event: DataReceived, joins: set[int]) -> None:
        if event.stream_id in joins:
            http.send_data(event.stream_id, event.data)
            if event.end_stream:
                http.send_trailers(event.stream_id, OK)
        elif event.end_stream:
            http.send_response(event.stream_id, [*HEAD, *OK], end_stream=True)


class _Served:
    """One connection."""

    def __init__(self, limit: ResetLimit) -> None:
        self.http = Connection(Role.SERVER, Configuration(max_inbound_header_list_size=131_072))
        self.http.initiate_connection({})
        self.limit, self.joins = limit, set[int]()
