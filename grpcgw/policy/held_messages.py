"""Limits the bytes of one client's large messages that the worker holds while their readers are slow.

The gateway holds one message per direction and RPC, but a client may have a thousand RPCs, and a kilobyte of gzip is a
megabyte here. No I/O; any thread may call.
"""

from __future__ import annotations

import threading

UNCOUNTED_BYTES = 65_536
"""Messages up to this size are not counted: the streams of a connection bound their number."""
MESSAGES = 4
"""The worker holds as much for one client as so many of the largest messages."""

Client = tuple[str, int]
"""Address and port of a connection, or of the client behind a trusted proxy (port 0)."""


class HeldMessages:
    def __init__(self, max_message_bytes: int) -> None:
        self.limit_bytes = MESSAGES * max_message_bytes
        self._lock = threading.Lock()
        self._held: dict[Client, int] = {}

    def take(self, client: Client, size_bytes: int) -> bool:
        """Count a message; False: the limit of the client is reached. Its first message is always taken."""
        with self._lock:
            held = self._held.get(client, 0)
            if held and held + size_bytes > self.limit_bytes:
                return False
            self._held[client] = held + size_bytes
            return True

    def give(self, client: Client, size_bytes: int) -> None:
        """Messages that were taken are not held any more."""
        with self._lock:
            left = self._held[client] - size_bytes
            if left:
                self._held[client] = left
            else:
                del self._held[client]

    def total_bytes(self) -> int:
        with self._lock:
            return sum(self._held.values())
