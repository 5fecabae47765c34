"""What one client makes this worker hold of large messages that their readers have not taken yet.

One message per direction and RPC is in the gateway's hands, but a client may have a thousand RPCs, and a kilobyte of
gzip is a megabyte here. No I/O; any thread may call.
"""

from __future__ import annotations

import threading

UNCOUNTED_BYTES = 65_536
"""Smaller messages are not counted: their number is bounded by that of a connection's streams."""
MESSAGES = 4
"""A client may make the worker hold as much as so many of the largest messages."""

Client = tuple[str, int]
"""Address and port of a connection, or of the client behind a proxy that is believed (port 0)."""


class HeldMessages:
    def __init__(self, max_message_bytes: int) -> None:
        self.limit_bytes = MESSAGES * max_message_bytes
        self._lock = threading.Lock()
        self._held: dict[Client, int] = {}

    def take(self, client: Client, size_bytes: int) -> bool:
        """Count a message; False: the client makes too much be held already. Its first is taken whatever its size."""
        with self._lock:
            held = self._held.get(client, 0)
            if held and held + size_bytes > self.limit_bytes:
                return False
            self._held[client] = held + size_bytes
            return True

    def give(self, client: Client, size_bytes: int) -> None:
        """What was taken is held no more."""
        with self._lock:
            left = self._held[client] - size_bytes
            if left:
                self._held[client] = left
            else:
                del self._held[client]

    def total_bytes(self) -> int:
        with self._lock:
            return sum(self._held.values())
