"""Reads whole messages out of gRPC frames, for the gateway's own services and the RPCs of policies. Pure.

Everything else crosses unparsed (`message_scanner`).
"""

from __future__ import annotations

import zlib

from grpcgw.session.message_scanner import PREFIX_BYTES

_ANY_ZLIB_WRAPPER = 47
"""zlib's window bits for gzip and deflate alike."""
_ENCODINGS = frozenset({"gzip", "deflate"})


class BadMessage(Exception):
    """A message that cannot be read. The text says why."""


class MessageReader:
    """One direction of one RPC."""

    def __init__(self, limit_bytes: int, encoding: str = "identity") -> None:
        """`limit_bytes`: of one message, compressed and uncompressed. `encoding`: the sender's `grpc-encoding`."""
        self._limit_bytes, self._encoding = limit_bytes, encoding
        self._held = bytearray()

    def feed(self, chunk: bytes) -> list[bytes]:
        """The messages that end in `chunk`. Raises BadMessage."""
        held = self._held
        held += chunk
        messages = []
        while len(held) >= PREFIX_BYTES:
            end = PREFIX_BYTES + int.from_bytes(held[1:PREFIX_BYTES], "big")
            if end - PREFIX_BYTES > self._limit_bytes:
                raise BadMessage(f"a message of {end - PREFIX_BYTES} bytes is larger than {self._limit_bytes}")
            if len(held) < end:
                break
            messages.append(self._unpack(held[0], bytes(held[PREFIX_BYTES:end])))
            del held[:end]
        return messages

    def _unpack(self, flag: int, message: bytes) -> bytes:
        if not flag:
            return message
        if self._encoding not in _ENCODINGS:
            raise BadMessage(f"a message is compressed by {self._encoding[:32]!r}, which the gateway does not know")
        unpacker = zlib.decompressobj(_ANY_ZLIB_WRAPPER if self._encoding == "gzip" else zlib.MAX_WBITS)
        try:
            unpacked = unpacker.decompress(message, self._limit_bytes + 1)
        except zlib.error as error:
            raise BadMessage(f"a message cannot be uncompressed: {error}") from error
        if len(unpacked) > self._limit_bytes:
            raise BadMessage(f"a message of more than {self._limit_bytes} bytes, uncompressed")
        return unpacked


def find_whole(chunk: bytes) -> bytes | None:
    """The message of a chunk that is one frame, uncompressed; None: it is anything else."""
    if chunk[:1] == b"\0" and int.from_bytes(chunk[1:PREFIX_BYTES], "big") == len(chunk) - PREFIX_BYTES:
        return chunk[PREFIX_BYTES:]
    return None


def frame(message: bytes) -> bytes:
    """The message as a gRPC frame, uncompressed."""
    return bytes(1) + len(message).to_bytes(4, "big") + message
