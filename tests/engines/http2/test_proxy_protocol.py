"""PROXY headers of both versions name the client; whatever is malformed is refused."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.http2.proxy_protocol import (
    MAX_V1_BYTES,
    MAX_V2_BYTES,
    SIGNATURE_V2,
    MalformedProxyHeader,
    ProxyHeader,
    read_proxy_header,
)


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE_V2 + bytes((command, family)) + len(block).to_bytes(2) + block


IPV4 = bytes((192, 0, 2, 7, 10, 0, 0, 1)) + (50123).to_bytes(2) + (443).to_bytes(2)
IPV6 = ip_address("2001:db8::7").packed + ip_address("::1").packed + (50123).to_bytes(2) + (443).to_bytes(2)
A_TLV = b"\x01\x00\x02h2"


@pytest.mark.parametrize(
    ("header", "source"),
    [
        (b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 443\r\n", ("192.0.2.7", 50123)),
        (b"PROXY TCP6 2001:DB8::7 ::1 0 65535\r\n", ("2001:db8::7", 0)),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN anything at all\r\n", None),
        (v2(0x21, 0x11, IPV4), ("192.0.2.7", 50123)),
        (v2(0x21, 0x11, IPV4 + A_TLV * 20), ("192.0.2.7", 50123)),
        (v2(0x21, 0x21, IPV6), ("2001:db8::7", 50123)),
        (v2(0x21, 0x00, b""), None),
        (v2(0x20, 0x00, b""), None),
        (v2(0x20, 0x11, IPV4), None),
        (v2(0x20, 0xFF, A_TLV), None),
        (v2(0x21, 0x11, IPV4.ljust(MAX_V2_BYTES - 16, b"\0")), ("192.0.2.7", 50123)),
    ],
)
def test_header_names_the_client(header: bytes, source: tuple[str, int] | None) -> None:
    assert read_proxy_header(header + b"PRI * HTTP/2.0\r\n") == ProxyHeader(source, len(header))


@pytest.mark.parametrize(
    "data",
    [
        b"PRI * HTTP/2.0\r\n",
        b"\x16\x03\x01",
        b"proxy TCP4 192.0.2.7 10.0.0.1 50123 443\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 443\n\r\n",
        b"PROXY TCP4  192.0.2.7 10.0.0.1 50123 443\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 443 \r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 050123 443\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 65536\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 -1 443\r\n",
        b"PROXY TCP4 192.0.02.7 10.0.0.1 50123 443\r\n",
        b"PROXY TCP4 192.0.2.7 ::1 50123 443\r\n",
        b"PROXY TCP4 ::1 ::1 50123 443\r\n",
        b"PROXY TCP6 192.0.2.7 10.0.0.1 50123 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 50123 443\r\n",
        b"PROXY TCP4 \xd9\xa1.0.2.7 10.0.0.1 50123 443\r\n",
        b"PROXY UDP4 192.0.2.7 10.0.0.1 50123 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES - 1, b"x") + b"\r\n",
        b"PROXY UNKNOWN ".ljust(MAX_V1_BYTES, b"x"),
        v2(0x22, 0x11, IPV4),
        v2(0x11, 0x11, IPV4),
        v2(0x21, 0x12, IPV4),
        v2(0x21, 0x31, bytes(216)),
        v2(0x21, 0x11, IPV4[:-1]),
        v2(0x21, 0x21, IPV6[:-1]),
        SIGNATURE_V2 + b"\x21\x11\xff\xff",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedProxyHeader):
        read_proxy_header(data)


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 443\r\n", v2(0x21, 0x21, IPV6 + A_TLV)])
def test_every_part_of_a_header_asks_for_more(header: bytes) -> None:
    assert [read_proxy_header(header[:end]) for end in range(len(header))] == [None] * len(header)


@given(
    st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", SIGNATURE_V2, SIGNATURE_V2 + b"\x21"]),
    st.binary(max_size=300),
)
def test_garbage_is_refused_or_read_within_its_bounds(begin: bytes, garbage: bytes) -> None:
    data = begin + garbage
    try:
        header = read_proxy_header(data)
    except MalformedProxyHeader:
        return
    if header is None:
        assert len(data) < MAX_V2_BYTES
    else:
        assert header.length <= len(data)


@given(st.ip_addresses(), st.integers(0, 65535))
def test_both_versions_name_the_same_client(address: object, port: int) -> None:
    client = ip_address(str(address))
    packed = client.packed * 2 + port.to_bytes(2) * 2
    text = f"PROXY TCP{client.version} {client} {client} {port} {port}\r\n".encode()
    for header in (text, v2(0x21, 0x11 if client.version == 4 else 0x21, packed)):
        read = read_proxy_header(header)
        assert read is not None
        assert read.source == (str(client), port)
