"""Ports of the http2 engine by the first bytes of a connection: TLS, clear text, PROXY headers and HTTP/1.1."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import replace

import pytest
from abuse.wire import raw_frame
from dataplane.authorities import Authority
from dataplane.lab import Lab, clear_port, mapping, snapshot, tls_port
from dataplane.waiting import eventually

from engines.http2.port_clients import (
    PREFACE,
    ca_secret,
    call,
    call_again,
    calling,
    connect,
    connect_tls,
    host,
    listener,
    make_context,
    read_all,
    read_answer,
    serve,
    tls_secret,
)
from grpcgw.engines.http2.first_bytes import TLS_UNEXPECTED_MESSAGE
from grpcgw.engines.http2.http1 import ALIVE_PATH, READY_PATH
from grpcgw.model.clients import AddressRule, ClientRules
from grpcgw.model.listener import Transport

V1 = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n"
SERVERS = Authority("servers")
CERTIFICATE = SERVERS.certificate("localhost")


def v2(address: str = "203.0.113.7", port: int = 4711) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    body = 2 * socket.inet_pton(family, address) + struct.pack("!HH", port, 443)
    return (
        b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x21, 0x21 if ":" in address else 0x11]) + struct.pack("!H", len(body)) + body
    )


def get(path: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    return b"\r\n".join([method + b" " + path + b" HTTP/1.1", b"host: gateway.test", *fields, b"", b""])


def open_port(http2: Lab, transport: Transport, **fields: object) -> int:
    certificates = (CERTIFICATE,) if transport.takes_tls else ()
    port = clear_port(transport=transport, certificates=certificates, **fields)
    return http2.gateway(http2.pod("a"), ports=(port,)).engine.ports.numbers()[0]


# --- TLS and clear text


def test_one_port_takes_tls_and_clear_text(http2: Lab) -> None:
    port = open_port(http2, Transport.BOTH)
    assert call(connect(port)) == "a:x"
    assert call(connect_tls(port, make_context(SERVERS), "localhost")) == "a:x"


def test_first_bytes_may_come_one_at_a_time(http2: Lab) -> None:
    port = open_port(http2, Transport.BOTH, proxy_protocol=True)
    header = v2()
    connection = connect(port, *(header[at : at + 1] for at in range(len(header))))
    for at in range(len(PREFACE)):
        connection.sendall(PREFACE[at : at + 1])
    with calling(connection) as client:
        assert client.socket is connection


def test_the_https_listener_of_ambassadors_upgrade_guides_takes_clear_text(http2: Lab) -> None:
    served = serve(http2, listener("plain", "HTTPS"), host("*", "requestPolicy: {insecure: {action: Route}}"))
    assert call(connect(served.ports["plain"])) == "a:x"


def test_on_one_port_each_host_is_served_as_it_asks(http2: Lab) -> None:
    served = serve(
        http2,
        listener("both", "HTTPS"),
        tls_secret("own", SERVERS.sign("secure.example")),
        host("plain.example", "requestPolicy: {insecure: {action: Route}}"),
        host("secure.example", "tlsSecret: {name: own}"),
        host("rejects.example", "tlsSecret: {name: own}, requestPolicy: {insecure: {action: Reject}}"),
        host("either.example", "tlsSecret: {name: own}, requestPolicy: {insecure: {action: Route}}"),
    )
    port = served.ports["both"]
    with calling(connect(port)) as clear, calling(connect_tls(port, None, "secure.example")) as secure:
        for name, answer in {
            "plain.example": "a:x",
            "secure.example": "clear-text",
            "rejects.example": "clear-text",
            "either.example": "a:x",
            "elsewhere.example": "no-host",
        }.items():
            assert call_again(clear, name) == answer, name
            assert call_again(secure, name) == ("no-host" if answer == "no-host" else "a:x"), name
    protos = [seen.values("x-forwarded-proto") for seen in served.pod.calls]
    assert protos == [["http"], ["https"], ["https"], ["https"], ["http"], ["https"]]


def test_a_trusted_proxys_word_does_not_stand_in_for_a_client_certificate(http2: Lab) -> None:
    clients = Authority("clients")
    served = serve(
        http2,
        listener("both", "HTTPS", ", l7Depth: 1"),
        ca_secret("ca", clients),
        tls_secret("own", SERVERS.sign("secure.example")),
        host("plain.example", "requestPolicy: {insecure: {action: Route}}"),
        host("usual.example", "tlsSecret: {name: own}"),
        host("secure.example", "tlsSecret: {name: own}, tls: {ca_secret: ca, cert_required: true}"),
    )
    port, https = served.ports["both"], ("x-forwarded-proto", "https")
    with calling(connect(port)) as clear:
        assert call_again(clear, "plain.example") == "a:x"
        assert call_again(clear, "usual.example", https) == "a:x"
        assert call_again(clear, "secure.example", https) == "clear-text"
    shown = make_context(None, clients.sign("me"))
    assert call(connect_tls(port, shown, "secure.example"), "secure.example") == "a:x"


WRONG = {
    "TLS on a port for clear text": (Transport.CLEAR, b"\x16\x03\x01\x02\x00\x01", TLS_UNEXPECTED_MESSAGE),
    "HTTP/2 on a port for TLS": (Transport.TLS, PREFACE, b""),
    "HTTP/1.1 on a port for TLS": (Transport.TLS, get(READY_PATH), b"HTTP/1.1 400 Bad Request"),
    "a PROXY header nobody asked for": (Transport.CLEAR, V1, b""),
    "a PROXY header of version 2 nobody asked for": (Transport.BOTH, v2(), b""),
    "neither TLS nor HTTP": (Transport.BOTH, b"\x00\x01\x02\x03", b""),
    "a ClientHello that is none": (
        Transport.TLS,
        b"\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        b"\x15\x03\x03\x00\x02\x02\x32",
    ),
    "a record without length": (Transport.BOTH, b"\x16\x03\x01\x00\x00", b"\x15\x03\x03\x00\x02\x02\x32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_port_does_not_serve_is_answered_and_closed(http2: Lab, case: str) -> None:
    transport, first, answer = WRONG[case]
    with connect(open_port(http2, transport), first) as connection:
        got = read_all(connection)
        assert got.startswith(answer)
        assert bool(got) == bool(answer)


def test_failed_handshakes_are_counted_by_cause(http2: Lab) -> None:
    gateway = http2.gateway(http2.pod("a"), ports=(tls_port(CERTIFICATE),))
    (port,) = gateway.engine.ports.numbers()
    for first in (PREFACE, V1, get(b"/"), get(b"/")):
        with connect(port, first) as connection:
            read_all(connection)
    with pytest.raises(OSError, match=r"unknown ca|certificate verify failed"):
        connect_tls(port, make_context(Authority("others")), "localhost")
    failures = gateway.serving.counters.handshake_failures.by_cause
    eventually(lambda: failures == {"no-tls": 2, "http": 2, "own-certificate-refused": 1}, lambda: str(failures))


@pytest.mark.parametrize("header", [b"", b"PROXY TCP6 ::ffff:127.0.0.1 ::1 4711 443\r\n"], ids=["TCP", "PROXY"])
def test_who_comes_by_ipv4_to_a_port_of_ipv6_has_an_ipv4_address(http2: Lab, header: bytes) -> None:
    """As Envoy and grpc core tell it to pods."""
    pod = http2.pod("a")
    port = clear_port(address="::", proxy_protocol=bool(header))
    number = http2.gateway(pod, ports=(port,)).engine.ports.numbers()[0]
    assert call(connect(number, header)) == "a:x"
    assert pod.calls[0].values("x-forwarded-for") == ["127.0.0.1"]


# --- PROXY


@pytest.mark.parametrize("header", [V1, v2()], ids=["version 1", "version 2"])
@pytest.mark.parametrize("tls", [False, True], ids=["clear text", "TLS"])
def test_the_proxy_header_says_who_the_client_is(http2: Lab, header: bytes, tls: bool) -> None:
    pod = http2.pod("a")
    port = clear_port(transport=Transport.BOTH, certificates=(CERTIFICATE,), proxy_protocol=True)
    number = http2.gateway(pod, ports=(port,)).engine.ports.numbers()[0]
    connection = connect_tls(number, None, "localhost", before=header) if tls else connect(number, header)
    assert call(connection) == "a:x"
    assert pod.calls[0].values("x-forwarded-for") == ["203.0.113.7"]
    assert pod.calls[0].values("x-envoy-external-address") in ([], ["203.0.113.7"])


@pytest.mark.parametrize(
    ("header", "served"),
    [
        (V1, False),
        (v2(), False),
        (v2("2001:db8::7"), False),
        (v2("::ffff:203.0.113.7"), False),
        (b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 443\r\n", True),
        (v2("198.51.100.7"), True),
        (b"PROXY UNKNOWN\r\n", True),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00", True),
    ],
    ids=str,
)
def test_rules_on_addresses_are_about_the_address_in_the_proxy_header(http2: Lab, header: bytes, served: bool) -> None:
    rules = tuple(AddressRule(one) for one in ("198.51.100.0/24", "127.0.0.1/32"))
    assert call_with(http2, header, allow=rules) == ("a:x" if served else "client-address")


def call_with(http2: Lab, header: bytes, **rules: tuple[AddressRule, ...]) -> str:
    configuration = replace(snapshot(mapping()), clients=ClientRules(**rules))  # type: ignore[arg-type]
    gateway = http2.gateway(http2.pod("a"), configuration=configuration, ports=(clear_port(proxy_protocol=True),))
    return call(connect(gateway.engine.ports.numbers()[0], header))


def test_rules_on_peers_are_about_the_load_balancer(http2: Lab) -> None:
    """As Envoy's `direct_remote_ip`: "always the physical peer"."""
    assert call_with(http2, V1, allow=(AddressRule("127.0.0.1/32", of_peer=True),)) == "a:x"
    assert call_with(http2, V1, allow=(AddressRule("203.0.113.7/32", of_peer=True),)) == "client-address"
    assert call_with(http2, V1, deny=(AddressRule("127.0.0.1/32", of_peer=True),)) == "client-address"


@pytest.mark.parametrize(
    "first",
    [PREFACE, b"PROXY TCP4 a b 1 2\r\n", b"PROXY " + 200 * b"x", get(b"/"), b"\x16\x03\x01\x02\x00\x01"],
    ids=str,
)
def test_without_a_proper_proxy_header_the_connection_is_closed(http2: Lab, first: bytes) -> None:
    with connect(open_port(http2, Transport.BOTH, proxy_protocol=True), first) as connection:
        assert read_all(connection) == b""


# --- HTTP/1.1

ANSWERS = {
    "alive": (get(ALIVE_PATH), 200, "alive\n"),
    "ready": (get(READY_PATH), 200, "ready\n"),
    "another path": (get(b"/"), 426, "gRPC over HTTP/2"),
    "gRPC": (get(b"/a.B/C", b"content-type: application/grpc", b"content-length: 0", method=b"POST"), 426, "HTTP/2"),
    "gRPC-Web": (
        get(b"/a.B/C", b"content-type: application/grpc-web+proto", b"content-length: 0", method=b"POST"),
        415,
        "gRPC-Web and JSON",
    ),
    "h2c upgrade": (get(b"/", b"connection: upgrade, http2-settings", b"upgrade: h2c", b"http2-settings: "), 426, ""),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, "Host"),
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("over", ["clear text", "TLS", "TLS without ALPN"])
def test_http1_is_answered_in_clear_text_and_over_tls(http2: Lab, case: str, over: str) -> None:
    request, status, sentence = ANSWERS[case]
    port = open_port(http2, Transport.BOTH)
    context = make_context(alpn=("http/1.1",) if over == "TLS" else ())
    with connect(port) if over == "clear text" else connect_tls(port, context, "localhost") as connection:
        connection.sendall(request)
        got, body = read_answer(connection)
        assert got == status
        assert sentence in body


def test_http2_over_tls_without_alpn_is_served(http2: Lab) -> None:
    port = open_port(http2, Transport.TLS)
    assert call(connect_tls(port, make_context(alpn=()), "localhost")) == "a:x"


BROKEN_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
def test_a_broken_record_after_a_whole_one_ends_the_connection_and_is_no_defect(
    http2: Lab, alpn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What came before it is handled, and its answer can no longer be sent."""
    port = open_port(http2, Transport.TLS)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = make_context(alpn=(alpn,)).wrap_bio(incoming, outgoing)
    with connect(port) as connection:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65_536))
        client.write(PREFACE + raw_frame(4, 0, 0, b"") if alpn == "h2" else get(b"/"))
        connection.sendall(outgoing.read() + BROKEN_RECORD)
        read_all(connection)
    assert "defect" not in caplog.text
    assert call(connect_tls(port)) == "a:x"


def test_health_checks_keep_their_connection(http2: Lab) -> None:
    with connect(open_port(http2, Transport.CLEAR)) as connection:
        for _ in range(3):
            connection.sendall(get(READY_PATH))
            assert read_answer(connection) == (200, "ready\n")
        connection.sendall(2 * get(ALIVE_PATH) + get(b"/", b"connection: close"))
        assert [read_answer(connection)[0] for _ in range(3)] == [200, 200, 426]
        assert read_all(connection) == b""


def test_a_last_answer_arrives_though_its_request_was_not_read(http2: Lab) -> None:
    """A socket that is closed with unread bytes resets the connection, and the answer is lost."""
    request = get(b"/a.B/C", b"content-type: application/json", b"content-length: 9999999", method=b"POST")
    with connect(open_port(http2, Transport.CLEAR), request, 500_000 * b"x") as connection:
        assert read_answer(connection)[0] == 415
        assert read_all(connection) == b""


def test_a_client_that_does_not_read_its_answers_is_not_read_either(http2: Lab) -> None:
    with connect(open_port(http2, Transport.CLEAR)) as connection:
        connection.settimeout(0.5)
        many = 40_000_000 // len(get(b"/")) * get(b"/")
        with pytest.raises(TimeoutError):
            connection.sendall(many)


def test_while_the_gateway_drains_it_is_not_ready(http2: Lab) -> None:
    gateway = http2.gateway(http2.pod("a"))
    with connect(gateway.engine.ports.numbers()[0]) as connection:
        connection.sendall(get(READY_PATH))
        assert read_answer(connection)[0] == 200
        gateway.serving.begin_drain(0.0)
        connection.sendall(get(READY_PATH))
        assert read_answer(connection) == (503, "not ready\n")
        connection.sendall(get(ALIVE_PATH))
        assert read_answer(connection)[0] == 200
        gateway.engine.drain(0.0)
        assert read_all(connection) == b""


def test_load_balancers_may_check_by_http2(http2: Lab) -> None:
    """Those that forward HTTP/2 check by it: Google's, Amazon's."""
    gateway = http2.gateway(http2.pod("a"))
    client = http2.raw_client(gateway)

    def check(path: bytes, method: str = "GET") -> tuple[str | None, bytes]:
        fields = (":method", method), (":scheme", "http"), (":path", path.decode()), (":authority", "10.0.0.1")
        answer = client.call_with(fields)
        return answer.header(":status"), answer.data

    assert check(READY_PATH) == check(READY_PATH + b"?from=lb") == ("200", b"ready\n")
    assert check(ALIVE_PATH) == ("200", b"alive\n")
    assert check(READY_PATH, "HEAD") == ("200", b"")
    gateway.serving.begin_drain(0.0)
    assert check(READY_PATH) == ("503", b"not ready\n")
    assert check(ALIVE_PATH)[0] == "200"
    gateway.engine.drain(0.0)


def test_a_port_that_closes_closes_health_checks_and_lets_handshakes_end(http2: Lab) -> None:
    gateway = http2.gateway(http2.pod("a"), ports=(clear_port(transport=Transport.BOTH, certificates=(CERTIFICATE,)),))
    (port,) = gateway.engine.ports.numbers()
    with connect(port, get(READY_PATH)) as checks, connect(port) as late:
        assert read_answer(checks)[0] == 200
        gateway.listen()
        assert read_all(checks) == b""
        with calling(make_context().wrap_socket(late)) as client:
            while client.receive():
                pass
            assert client.goaway


# --- time


def test_whoever_takes_too_long_is_closed_and_harms_nobody(http2: Lab) -> None:
    gateway = http2.gateway(
        http2.pod("a"),
        ports=(
            clear_port(transport=Transport.BOTH, certificates=(CERTIFICATE,)),
            clear_port("proxy", proxy_protocol=True),
        ),
    )
    both, proxy = gateway.engine.ports.numbers()
    hello = _hello()
    slow = [
        connect(both),
        connect(both, b"PRI * "),
        connect(both, hello[:100]),
        connect(both, hello),
        connect(both, get(READY_PATH)[:-2]),
        connect(proxy),
        connect(proxy, V1[:20]),
    ]
    assert call(connect(both)) == "a:x"
    for connection in slow:
        with connection:
            read_all(connection)
    assert call(connect_tls(both, None, "localhost")) == "a:x"


def _hello() -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = make_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
