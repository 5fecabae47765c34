"""A pod on libnghttp2 with its default limits: above 1,000 resets at once, or 33 a second, it ends the connection.

It answers an RPC with OK once its request is whole, and `Join` with its messages as they come.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from dataplane.waiting import PATIENCE_S
from ngh2 import Connection, Role
from ngh2.config import Configuration
from ngh2.events import ConnectionClosed, DataReceived, RequestReceived, StreamClosed
from ngh2.exceptions import NGH2Error

from grpcgw.model.endpoints import Endpoint

HEAD = [(b":status", b"200"), (b"content-type", b"application/grpc")]
OK = [(b"grpc-status", b"0")]


class Nghttp2Pod:
    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = Endpoint("127.0.0.1", self._listener.getsockname()[1])
        self.connects = self.calls = self.broken = self.closed_streams = self.ended = 0
        """`calls`: RPCs that came; `ended`: connections; `broken`: those that libnghttp2 ended over what came."""
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
        http = Connection(Role.SERVER, Configuration(max_inbound_header_list_size=131_072))
        http.initiate_connection({})
        joins: set[int] = set()
        try:
            while True:
                accepted.sendall(http.data_to_send())
                data = accepted.recv(65_536)
                if not data:
                    return
                http.receive_data(data)
                if not self._handle(http, joins):
                    break
            accepted.sendall(http.data_to_send())
        except (NGH2Error, OSError):
            return
        finally:
            self.ended += 1
            accepted.close()

    def _handle(self, http: Connection, joins: set[int]) -> bool:
        """False: the connection has ended."""
        for event in http.events():
            if isinstance(event, RequestReceived):
                with self._lock:
                    self.calls += 1
                if dict(event.headers)[b":path"].endswith(b"/Join"):
                    joins.add(event.stream_id)
                    http.send_response(event.stream_id, HEAD)
            elif isinstance(event, DataReceived):
                self._on_data(http, event, joins)
            elif isinstance(event, StreamClosed):
                with self._lock:
                    self.closed_streams += 1
            elif isinstance(event, ConnectionClosed):
                with self._lock:
                    self.broken += event.error_code != 0
                return False
        return True

    def _on_data(self, http: Connection, event: DataReceived, joins: set[int]) -> None:
        if event.stream_id in joins:
            http.send_data(event.stream_id, event.data)
            if event.end_stream:
                http.send_trailers(event.stream_id, OK)
        elif event.end_stream:
            http.send_response(event.stream_id, [*HEAD, *OK], end_stream=True)
