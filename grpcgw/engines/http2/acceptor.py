"""Accepts the connections of a listening socket: a few in each turn of the loop, so that many do not stop the RPCs.

Where they must wait, because too many handshakes run or no file descriptor is left, they wait in the kernel. The
loop's own servers accept all at once, and end for good at some errors.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import time
from collections.abc import Callable

from grpcgw.logs import DefectLog

log = logging.getLogger(__name__)

MOST_AT_ONCE = 2
"""Connections in one turn of the loop; each takes about 0.1 ms."""
BUSY_S = 0.02
"""Pause while `is_busy`."""
EXHAUSTED_S = 0.1
"""Pause where the system has no descriptor or memory."""
LOG_EVERY_S = 60.0

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """In the loop's thread only, but for `fault`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        make_protocol: Callable[[], asyncio.Protocol],
        is_busy: Callable[[], bool],
    ) -> None:
        """`listening` does not block, and belongs to the acceptor. `is_busy`: whether new connections should wait."""
        self._loop, self._listening, self._make_protocol, self._is_busy = loop, listening, make_protocol, is_busy
        self.fault = ""
        """Why it accepts none now; empty: it does."""
        self._defects = DefectLog(log)
        self._logged_at_s = -LOG_EVERY_S
        self._opening: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def close(self) -> None:
        """Does nothing the second time."""
        if self._listening.fileno() >= 0:
            if self._pause is None:
                self._loop.remove_reader(self._listening.fileno())
            else:
                self._pause.cancel()
            self._listening.close()

    def _wait(self, pause_s: float) -> None:
        self._loop.remove_reader(self._listening.fileno())
        self._pause = self._loop.call_later(pause_s, self.start)

    def _accept(self) -> None:
        for _ in range(MOST_AT_ONCE):
            if self._is_busy():
                self._wait(BUSY_S)
                return
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                self._on_error(error)
                return
            self.fault = ""
            self._open(connection)

    def _on_error(self, error: OSError) -> None:
        """Other errors are those of a connection that ended before it was accepted (Linux: accept(2))."""
        if error.errno not in _EXHAUSTED:
            return
        self.fault = f"no connection can be accepted: {os.strerror(error.errno).lower()}"
        self._wait(EXHAUSTED_S)
        if time.monotonic() - self._logged_at_s >= LOG_EVERY_S:
            self._logged_at_s = time.monotonic()
            log.error("%s; raise the limit, or lower the number of clients", self.fault)

    def _open(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        opening = self._loop.create_task(self._loop.connect_accepted_socket(self._make_protocol, connection))
        self._opening.add(opening)
        opening.add_done_callback(lambda task: self._on_opened(task, connection))

    def _on_opened(self, opening: asyncio.Task[object], connection: socket.socket) -> None:
        self._opening.discard(opening)
        if opening.cancelled() or opening.exception() is not None:
            connection.close()
            with self._defects.contained("a connection could not be opened"):
                opening.result()
