"""PROXY protocol, versions 1 (text) and 2 (binary): the header by which a load balancer names the client. Pure.

Source: HAProxy's `proxy-protocol.txt`. A port either requires the header or takes none: guessing would let any client
choose its address.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from grpcgw.errors import GrpcgwError

SIGNATURE_V2 = b"\r\n\r\n\0\r\nQUIT\n"
SIGNATURE_V1 = b"PROXY "

MAX_V1_BYTES = 107
"""The longest line of version 1 with its CRLF, by the specification."""
MAX_V2_BYTES = 16 * 1024
"""The longest header of version 2 that is taken: TLVs can hold a client's certificate."""

_V1_ENDPOINTS = re.compile(
    rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})"
)
_V2_FIXED_BYTES = 16
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_UNSPECIFIED = 0x00
_V2_ADDRESSES: dict[int, tuple[type[IPv4Address] | type[IPv6Address], int]] = {
    0x11: (IPv4Address, 4),
    0x21: (IPv6Address, 16),
}
"""By address family and transport (TCP over IPv4, over IPv6): the type and length of an address."""
_MAX_PORT = 65_535


class MalformedProxyHeader(GrpcgwError):
    """The bytes are no PROXY header that this gateway takes; the connection must be closed."""


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    source: tuple[str, int] | None
    """Address and port of the client; None: the header names none (UNKNOWN, LOCAL), so that the connection's own
    address counts. Load balancers send such headers with their health checks."""
    length: int
    """Bytes of the header."""


def read_proxy_header(data: bytes | bytearray) -> ProxyHeader | None:
    """The header at the start of `data`; None: more bytes are needed, at most MAX_V2_BYTES in all.

    Raises MalformedProxyHeader. TLVs are skipped; a checksum among them is not verified.
    """
    if data[:12] == SIGNATURE_V2[: len(data)]:
        return _read_v2(data) if len(data) >= _V2_FIXED_BYTES else None
    if data[:6] == SIGNATURE_V1[: len(data)]:
        return _read_v1(data)
    raise MalformedProxyHeader("no PROXY header, which the Listener requires")


def _read_v1(data: bytes | bytearray) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, MAX_V1_BYTES)
    if end < 0:
        if len(data) >= MAX_V1_BYTES:
            raise MalformedProxyHeader(f"the line of PROXY version 1 is longer than {MAX_V1_BYTES} bytes")
        return None
    return ProxyHeader(_read_v1_source(bytes(data[:end])), end + 2)


def _read_v1_source(line: bytes) -> tuple[str, int] | None:
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return None
    found = _V1_ENDPOINTS.fullmatch(line)
    if found is None:
        raise MalformedProxyHeader("the line of PROXY version 1 is malformed")
    family, source, destination, source_port, destination_port = found.groups()
    kind = IPv4Address if family == b"4" else IPv6Address
    try:
        address, _ = kind(source.decode()), kind(destination.decode())
    except ValueError:
        raise MalformedProxyHeader("an address of PROXY version 1 is malformed") from None
    if max(int(source_port), int(destination_port)) > _MAX_PORT:
        raise MalformedProxyHeader("a port of PROXY version 1 is out of range")
    return str(address), int(source_port)


def _read_v2(data: bytes | bytearray) -> ProxyHeader | None:
    command, family = data[12], data[13]
    if command not in (_V2_LOCAL, _V2_PROXY):
        raise MalformedProxyHeader(f"PROXY version and command are 0x{command:02x}, not 0x20 or 0x21")
    length = _V2_FIXED_BYTES + int.from_bytes(data[14:16])
    if length > MAX_V2_BYTES:
        raise MalformedProxyHeader(f"the header of PROXY version 2 is longer than {MAX_V2_BYTES} bytes")
    if len(data) < length:
        return None
    if command == _V2_LOCAL or family == _V2_UNSPECIFIED:
        return ProxyHeader(None, length)
    return ProxyHeader(_read_v2_source(family, data[_V2_FIXED_BYTES:length]), length)


def _read_v2_source(family: int, block: bytes | bytearray) -> tuple[str, int]:
    """`block`: source address, destination address, source port, destination port, TLVs.

    The specification lets a receiver refuse other families (UDP, UNIX sockets) or serve them with the connection's own
    address, which is the proxy's: rules on client addresses would then take the client for the proxy.
    """
    if family not in _V2_ADDRESSES:
        raise MalformedProxyHeader(f"PROXY address family and transport are 0x{family:02x}, not TCP over IPv4 or IPv6")
    kind, size = _V2_ADDRESSES[family]
    if len(block) < 2 * size + 4:
        raise MalformedProxyHeader("the header of PROXY version 2 is too short for its addresses")
    return str(kind(bytes(block[:size]))), int.from_bytes(block[2 * size : 2 * size + 2])
