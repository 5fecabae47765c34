"""gRPC frames of tests: messages with their prefix, and streams of them cut into chunks."""

from __future__ import annotations

from collections.abc import Iterable


def frame(message: bytes) -> bytes:
    """`message` as it is on the wire, uncompressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    """The chunks of `stream` cut at `places`; places past its end count from its start again. No chunk is empty."""
    ends = sorted({place % len(stream) for place in places} - {0}) if stream else []
    return [chunk for at, end in zip([0, *ends], [*ends, len(stream)], strict=True) if (chunk := stream[at:end])]
