"""Writes fields of protobuf messages by hand, where loading the generated code or filling messages costs more. Pure.

Source: protobuf.dev/programming-guides/encoding. Concatenated fields are a message, and a message may be a field.
"""

from __future__ import annotations


def number_field(field: int, value: int) -> bytes:
    """A field of type varint; 0 is not written. `field`: below 16."""
    return bytes([field << 3]) + _varint(value) if value else b""


def bytes_field(field: int, value: bytes) -> bytes:
    """A field of type bytes, string or message. `field`: below 16."""
    size = len(value)
    if size < 0x80:  # as of most
        return bytes((field << 3 | 2, size)) + value
    if size < 0x4000:
        return bytes((field << 3 | 2, size & 0x7F | 0x80, size >> 7)) + value
    return bytes([field << 3 | 2]) + _varint(size) + value


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)
