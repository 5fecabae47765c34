"""The server name is read from the first bytes however they are cut, and nothing else is taken for a ClientHello."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.http2.client_hello import MOST_BYTES, NoClientHello, ServerName, read_server_name


def hello_of(name: str | None) -> bytes:
    """As OpenSSL writes it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name).do_handshake()
    return outgoing.read()


HELLO = hello_of("Greet.Example.com")
GREET = ServerName("greet.example.com")


def record(body: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes([kind]) + version + len(body).to_bytes(2) + body


def hello_with(*extensions: tuple[int, bytes]) -> bytes:
    listed = b"".join(kind.to_bytes(2) + len(body).to_bytes(2) + body for kind, body in extensions)
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + len(listed).to_bytes(2) + listed
    return record(b"\x01" + len(body).to_bytes(3) + body)


def name_extension(*names: bytes, kind: int = 0) -> tuple[int, bytes]:
    listed = b"".join(bytes([kind]) + len(name).to_bytes(2) + name for name in names)
    return 0, len(listed).to_bytes(2) + listed


def test_the_name_of_a_real_client_is_read_in_lower_case() -> None:
    assert read_server_name(HELLO) == GREET
    assert read_server_name(HELLO + b"what follows") == GREET


def test_a_client_may_name_no_server() -> None:
    assert read_server_name(hello_of(None)) == ServerName(None)
    assert read_server_name(hello_with((16, b"\x00\x03\x02h2"))) == ServerName(None)


def test_a_part_of_a_hello_asks_for_more() -> None:
    assert [end for end in range(len(HELLO)) if read_server_name(HELLO[:end]) is not None] == []


@given(st.lists(st.integers(1, len(HELLO) - 6), max_size=20))
def test_records_may_cut_it_anywhere(cuts: list[int]) -> None:
    message, at, records = HELLO[5:], 0, b""
    for cut in [*sorted(set(cuts)), len(message)]:
        records, at = records + record(message[at:cut]), cut
    assert read_server_name(records) == GREET
    assert read_server_name(records[:-1]) is None


@given(st.binary(max_size=200))
def test_garbage_is_refused_or_asks_for_more(data: bytes) -> None:
    for begin in (b"", b"\x16\x03\x01", HELLO[:5], HELLO[:60]):
        read_or_refuse(begin + data)


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_read(at: int, byte: int) -> None:
    read_or_refuse(HELLO[:at] + bytes([byte]) + HELLO[at + 1 :])


def read_or_refuse(data: bytes) -> None:
    try:
        found = read_server_name(data)
    except NoClientHello:
        return
    assert found is None or isinstance(found, ServerName)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        record(b"\x01", kind=23),
        record(b"\x01", version=b"\x02\x00"),
        record(b"\x02\x00\x00\x05hello"),
        record(b""),
        b"\x16\x03\x01\xff\xff",
        record(b"\x01\x00\x00\x02\x03\x03"),
        hello_with(name_extension(b"a.example"), name_extension(b"b.example")),
        hello_with(name_extension(b"a.example", b"b.example")),
        hello_with(name_extension()),
        hello_with(name_extension(b"")),
        hello_with(name_extension(b"a" * 256)),
        hello_with(name_extension(b"a.example\x00.b.example")),
        hello_with(name_extension("ä.example".encode())),
        hello_with(name_extension(b"a.example", kind=1)),
        hello_with((0, b"\x00\x05\x00\x00\x03a.")),
    ],
)
def test_what_openssl_would_refuse_or_read_in_another_way_is_refused(data: bytes) -> None:
    with pytest.raises(NoClientHello):
        read_server_name(data)


def test_an_endless_hello_is_refused() -> None:
    endless = b"".join(record(part) for part in [b"\x01\xff\xff\xff", *[b"x" * 1_000] * 100])
    assert read_server_name(endless[: MOST_BYTES - 1]) is None
    with pytest.raises(NoClientHello, match="longer"):
        read_server_name(endless[:MOST_BYTES])
