"""Reads the server name (SNI, RFC 6066) that a client asks for from the first bytes of its connection. Pure.

The name must be known before the handshake: Python's `ssl` cannot change in the middle of one whether a certificate of
the client is asked for. What OpenSSL would read in another way is refused here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from grpcgw.errors import GrpcgwError

MOST_BYTES = 16_384
"""The longest ClientHello that is read, with its record headers; those with post-quantum keys have about 2,000."""

_HANDSHAKE_RECORD, _CLIENT_HELLO = 22, 1
_RECORD_HEADER_BYTES = 5
_SERVER_NAME_EXTENSION, _HOST_NAME = 0, 0
_LONGEST_NAME = 255


class NoClientHello(GrpcgwError):
    """The bytes are not the beginning of a ClientHello, or it is malformed or too long."""


@dataclass(frozen=True, slots=True)
class ServerName:
    name: str | None
    """In lower case; None: the client names no server."""


def read_server_name(data: bytes) -> ServerName | None:
    """The name in the ClientHello that `data` begins with; None: more bytes are needed.

    Raises NoClientHello, at the latest at MOST_BYTES bytes.
    """
    hello = _join_records(data)
    if hello is None:
        if len(data) >= MOST_BYTES:
            raise NoClientHello(f"the ClientHello is longer than {MOST_BYTES} bytes")
        return None
    names = [body for kind, body in _read_extensions(hello) if kind == _SERVER_NAME_EXTENSION]
    if len(names) > 1:
        raise NoClientHello("the ClientHello has two server names")
    return ServerName(_read_name(names[0]) if names else None)


def _join_records(data: bytes) -> bytes | None:
    """The body of the ClientHello, which may be spread over records; None: it is not complete."""
    hello, at = bytearray(), 0
    while at < len(data):
        _check_record(data, at)
        end = at + _RECORD_HEADER_BYTES + int.from_bytes(data[at + 3 : at + 5])
        hello += data[at + _RECORD_HEADER_BYTES : end]
        if hello and hello[0] != _CLIENT_HELLO:
            raise NoClientHello("the first message is no ClientHello")
        length = int.from_bytes(hello[1:4])
        if len(hello) >= 4 + length > 4:
            return bytes(hello[4 : 4 + length])
        at = end
    return None


def _check_record(data: bytes, at: int) -> None:
    """The header of the record, as much as there is of it."""
    if data[at] != _HANDSHAKE_RECORD or (len(data) > at + 1 and data[at + 1] != 3):
        raise NoClientHello("this is no TLS handshake")
    if len(data) >= at + _RECORD_HEADER_BYTES and not 0 < int.from_bytes(data[at + 3 : at + 5]) <= MOST_BYTES:
        raise NoClientHello("a TLS record has no possible length")


class _Reader:
    """Takes parts of a message; a part that is missing is an error of the ClientHello."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def take(self, count: int) -> bytes:
        part = self._data[self._at : self._at + count]
        if len(part) < count:
            raise NoClientHello("the ClientHello is malformed")
        self._at += count
        return part

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        """A part that begins with its length in `size` bytes."""
        return self.take(self.number(size))

    def end(self) -> None:
        if self:
            raise NoClientHello("the ClientHello is malformed")


def _read_extensions(hello: bytes) -> Iterator[tuple[int, bytes]]:
    reader = _Reader(hello)
    reader.take(2 + 32)  # version, random
    reader.vector(1)  # session
    reader.vector(2)  # ciphers
    reader.vector(1)  # compression
    if not reader:
        return
    extensions = _Reader(reader.vector(2))
    reader.end()
    while extensions:
        yield extensions.number(2), extensions.vector(2)


def _read_name(extension: bytes) -> str:
    """OpenSSL as well takes exactly one name, of a host."""
    outer = _Reader(extension)
    names = _Reader(outer.vector(2))
    outer.end()
    kind, name = names.number(1), names.vector(2)
    names.end()
    if kind != _HOST_NAME or not 0 < len(name) <= _LONGEST_NAME or not all(33 <= letter <= 126 for letter in name):
        raise NoClientHello("the server name in the ClientHello is malformed")
    return name.decode("ascii").lower()
