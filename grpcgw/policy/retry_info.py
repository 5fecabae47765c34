"""`grpc-status-details-bin` of a refusal that a client may repeat: google.rpc.Status with a RetryInfo. Pure.

Written by hand: the messages have five fields, and the generated modules cost more start-up time than all of `policy`.
"""

from __future__ import annotations

RETRY_INFO = b"type.googleapis.com/google.rpc.RetryInfo"


def make_retry_details(code: int, message: str, retry_after_ms: int) -> bytes:
    """The serialized google.rpc.Status."""
    seconds, millis = divmod(retry_after_ms, 1000)
    delay = _number(1, seconds) + _number(2, millis * 1_000_000)
    retry_info = _text(1, RETRY_INFO) + _text(2, _text(1, delay))
    return _number(1, code) + _text(2, message.encode(errors="backslashreplace")) + _text(3, retry_info)


def _number(field: int, value: int) -> bytes:
    """A field of type varint; 0 is not written."""
    return bytes([field << 3]) + _varint(value) if value else b""


def _text(field: int, value: bytes) -> bytes:
    """A field of type bytes, string or message."""
    return bytes([field << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
