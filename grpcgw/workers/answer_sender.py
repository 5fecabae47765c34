"""Sends a worker's messages to the control process, from any of its threads."""

from __future__ import annotations

import contextlib
import socket
import threading

from grpcgw.workers.messages import Answer, encode


class AnswerSender:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        """While a message is sent: its parts stay together."""

    def send(self, message: Answer) -> None:
        """Blocks while the control process does not read. Raises OSError where it is gone."""
        data = encode(message)
        with self._lock:
            self._connection.sendall(data)

    def send_beside(self, message: Answer) -> None:
        """Does not block: a thread of its own sends it. For rare messages."""
        threading.Thread(target=self._try_to_send, args=(message,), name="message", daemon=True).start()

    def _try_to_send(self, message: Answer) -> None:
        with contextlib.suppress(OSError):  # the control process is gone: the main thread sees it, too
            self.send(message)
