"""Counts the gRPC messages of a byte stream that is cut anywhere, and their bytes, without copying them. Pure.

A message has a prefix of 5 bytes: the compressed flag, and the length as 4 bytes, big-endian (gRPC over HTTP/2,
"Length-Prefixed-Message"). The flag is not looked at: a compressed message counts with its compressed length.
"""

from __future__ import annotations

from struct import Struct

PREFIX_BYTES = 5
_unpack_length = Struct(">xI").unpack_from
"""Half the time of `int.from_bytes`."""


class MessageScanner:
    """One direction of one RPC."""

    __slots__ = ("_left", "_prefix", "complete", "count", "size_bytes")

    def __init__(self) -> None:
        self.count = 0
        """Messages begun so far: those whose prefix is complete."""
        self.size_bytes = 0
        """Their bytes so far, without the prefixes."""
        self.complete = True
        """The stream ends with a whole message."""
        self._left = 0
        """Bytes of the current message that are still to come."""
        self._prefix = b""
        """What was read of a prefix that is not complete."""

    @property
    def is_inside(self) -> bool:
        """The stream ends within a message, after its prefix."""
        return self._left > 0

    def feed(self, chunk: bytes) -> int:
        """The largest declared length of the messages that begin in `chunk`, in bytes; 0 also where none begins."""
        declared = len(chunk) - PREFIX_BYTES
        if declared >= 0 and self.complete and _unpack_length(chunk)[0] == declared:  # nearly all are one message
            self.count += 1
            self.size_bytes += declared
            return declared
        return self._scan(chunk)

    def _scan(self, chunk: bytes) -> int:
        if self._prefix:
            chunk = self._prefix + chunk
        at, end, largest, begun = self._left, len(chunk), 0, 0
        last = end - PREFIX_BYTES
        while at <= last:  # in a frame of empty messages 13,000 times
            declared = _unpack_length(chunk, at)[0]
            begun += 1
            at += PREFIX_BYTES + declared
            if declared > largest:
                largest = declared
        self._prefix = chunk[at:] if at < end else b""
        self._left = max(0, at - end)
        self.count += begun
        self.size_bytes += end - PREFIX_BYTES * begun - len(self._prefix)
        self.complete = not self._left and not self._prefix
        return largest
