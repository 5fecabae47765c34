"""Cuts what a client sends into parts that cost little each: by frames, as bytes tell nothing of what they cause.

64 KiB may be four DATA frames, 2,000 RPCs, or 800 header blocks that HPACK unpacks to 60 KB each. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

PREFACE_BYTES = 24
"""RFC 9113, 3.4."""
HEADER_BYTES = 9
"""Of a frame: length, type, flags, stream (RFC 9113, 4.1)."""
_HEADERS, _CONTINUATION = 1, 9


@dataclass(frozen=True, slots=True)
class PartLimits:
    """What one part has at most. More than one RPC only where the limit allows it; a frame may be cut anywhere."""

    size_bytes: int
    frames: int
    rpcs: int
    """Frames that begin an RPC."""
    block_bytes: int
    """Of header blocks: a byte may be a field, which takes as long as some hundred bytes of DATA."""


class PartCutter:
    """One direction of one connection. Must see all of its bytes."""

    __slots__ = ("_begun", "_in_block", "_left")

    def __init__(self) -> None:
        self._left = PREFACE_BYTES
        """Bytes of the current frame that are still to come."""
        self._in_block = False
        """They are of a header block."""
        self._begun = b""
        """The part of a frame's header."""

    def cut(self, data: bytes | memoryview, limits: PartLimits) -> int:
        """The size of the first part of `data`, in bytes; the next call is about what follows it."""
        at, end = self._left, min(len(data), limits.size_bytes)
        frames, rpcs, block_bytes = limits.frames, limits.rpcs, limits.block_bytes
        if self._in_block:
            end = min(end, block_bytes) if at > block_bytes else end
            block_bytes -= at
        while at < end:
            if not frames:
                end = at
                break
            begun = self._begun
            after = at + HEADER_BYTES - len(begun)
            if after > end:
                self._begun = begun + bytes(data[at:end])
                at = end
                break
            if begun:
                header = begun + bytes(data[at:after])
                length, kind = int.from_bytes(header[:3], "big"), header[3]
            else:
                length, kind = data[at] << 16 | data[at + 1] << 8 | data[at + 2], data[at + 3]
            if kind == _HEADERS:
                if not rpcs:
                    end = at
                    break
                rpcs -= 1
            self._begun = b""
            self._in_block = kind in (_HEADERS, _CONTINUATION)
            frames -= 1
            at = after + length
            if self._in_block:
                if length > block_bytes:
                    end = min(end, after + block_bytes)
                block_bytes -= length
        self._left = at - end
        return end
