"""A port recognises TLS, HTTP/2 and HTTP/1 by their first bytes, however they are cut, and refuses the rest."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.http2.first_bytes import (
    HTTP2_PREFACE,
    ClientProtocol,
    Decision,
    FirstBytes,
    NotServed,
)
from grpcgw.engines.http2.proxy_protocol import MAX_V2_BYTES, SIGNATURE_V2
from tests.engines.http2.cuts import cut

PROXY_V1 = b"PROXY TCP4 192.0.2.7 10.0.0.1 50123 443\r\n"
PROXY_V2 = SIGNATURE_V2 + b"\x21\x11\x00\x0f" + bytes((192, 0, 2, 7, 10, 0, 0, 1)) + b"\xc3\xcb\x01\xbb" + b"\x04\0\0"
CLIENT = ("192.0.2.7", 50123)
GET = b"GET /ambassador/v0/check_ready HTTP/1.1\r\nhost: a\r\n\r\n"


class TlsClient:
    """A client of Python's ssl, without a socket."""

    def __init__(self) -> None:
        context = ssl.create_default_context()
        self.incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self.incoming, outgoing, server_hostname="example.test")
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self.hello = outgoing.read()

    def handshake(self) -> None:
        self._tls.do_handshake()


@dataclass(frozen=True)
class Outcome:
    decision: Decision | None = None
    refusal: str = ""
    answer: bytes = b""


def decide(pieces: list[bytes], *, tls: bool = True, clear: bool = True, proxy: bool = False) -> Outcome:
    """What is decided for these pieces. `rest` holds those fed after the decision too."""
    first = FirstBytes(tls, clear, proxy)
    for number, piece in enumerate(pieces):
        try:
            decision = first.feed(piece)
        except NotServed as refused:
            return Outcome(None, str(refused), refused.answer)
        if decision is not None:
            rest = decision.rest + b"".join(pieces[number + 1 :])
            return Outcome(Decision(decision.protocol, decision.source, rest))
    return Outcome()


@pytest.mark.parametrize("header", [b"", PROXY_V1, PROXY_V2])
@pytest.mark.parametrize(
    ("data", "protocol"),
    [
        (b"\x16\x03\x01\x02\x00\x01", ClientProtocol.TLS),
        (HTTP2_PREFACE + b"\0\0\0\4\0\0\0\0\0", ClientProtocol.HTTP2),
        (GET, ClientProtocol.HTTP1),
        (b"OPTIONS * HTTP/1.0\r\n\r\n", ClientProtocol.HTTP1),
        (b"M-SEARCH * HTTP/1.1\r\n", ClientProtocol.HTTP1),
        (b"PRI * HTTP/1.1\r\n", ClientProtocol.HTTP1),
    ],
)
def test_first_bytes_show_protocol_and_client(header: bytes, data: bytes, protocol: ClientProtocol) -> None:
    found = decide([header + data], proxy=bool(header))
    assert found == Outcome(Decision(protocol, CLIENT if header else None, data))


def test_proxys_own_health_check_has_the_address_of_the_connection() -> None:
    found = decide([SIGNATURE_V2 + b"\x20\x00\x00\x00" + GET], proxy=True)
    assert found == Outcome(Decision(ClientProtocol.HTTP1, None, GET))


@pytest.mark.parametrize("data", [b"", b"\x16", HTTP2_PREFACE[:-1], b"PRI", b"GET", b"PROXY", SIGNATURE_V2[:-1]])
def test_a_part_asks_for_more(data: bytes) -> None:
    assert decide([data]) == Outcome()


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x02",
        b"\x80\x2e\x01\x03\x01",
        b"SSH-2.0-OpenSSH_9.2 Debian\r\n",
        b"get / HTTP/1.1\r\n",
        b"\r\n\r\nGET / HTTP/1.1",
        b"G" * 33,
        b"\0",
    ],
)
def test_other_protocols_are_refused_without_an_answer(data: bytes) -> None:
    assert decide([data]) == Outcome(refusal="neither TLS nor HTTP")


@pytest.mark.parametrize("header", [PROXY_V1, PROXY_V2])
def test_header_that_the_port_does_not_ask_for_is_refused(header: bytes) -> None:
    assert "whose Listener does not ask for one" in decide([header + GET]).refusal


@pytest.mark.parametrize("data", [GET, HTTP2_PREFACE, b"\x16\x03\x01", b"PROXY TCP9 a b c d\r\n"])
def test_required_header_that_is_missing_or_malformed_is_refused(data: bytes) -> None:
    found = decide([data], proxy=True)
    assert "PROXY" in found.refusal
    assert not found.answer


def test_tls_client_on_a_clear_text_port_gets_an_alert_that_it_understands() -> None:
    client = TlsClient()
    client.incoming.write(decide([client.hello], tls=False).answer)
    with pytest.raises(ssl.SSLError, match="UNEXPECTED_MESSAGE"):
        client.handshake()


def test_http1_client_on_a_tls_port_gets_a_sentence() -> None:
    found = decide([GET], clear=False)
    assert found.refusal == "clear text on a port for TLS"
    assert found.answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert found.answer.endswith(b"\r\n\r\nThis port takes only TLS; use https.\n")


def test_http2_client_in_clear_text_on_a_tls_port_gets_nothing() -> None:
    assert decide([HTTP2_PREFACE], clear=False) == Outcome(refusal="clear text on a port for TLS")


BEGINNINGS = st.sampled_from([b"", b"\x16\x03\x01", HTTP2_PREFACE, HTTP2_PREFACE[:15], GET, PROXY_V1[:9], b"CONNECT"])
HEADERS = st.sampled_from([b"", PROXY_V1, PROXY_V2, PROXY_V1[:-2], PROXY_V2[:15], SIGNATURE_V2])
CONNECTIONS = st.builds(lambda header, begin, rest: header + begin + rest, HEADERS, BEGINNINGS, st.binary(max_size=80))


@given(cut(CONNECTIONS), st.booleans(), st.booleans(), st.booleans())
def test_cuts_change_nothing_and_garbage_is_refused(
    connection: tuple[bytes, list[bytes]], tls: bool, clear: bool, proxy: bool
) -> None:
    whole, pieces = connection
    assert decide(pieces, tls=tls, clear=clear, proxy=proxy) == decide([whole], tls=tls, clear=clear, proxy=proxy)


@given(st.binary(max_size=80).map(lambda begin: begin.ljust(MAX_V2_BYTES, b"x")), HEADERS, st.booleans())
def test_nobody_is_held_forever(garbage: bytes, header: bytes, proxy: bool) -> None:
    assert decide([header + garbage, b"x" * 64], proxy=proxy) != Outcome()
