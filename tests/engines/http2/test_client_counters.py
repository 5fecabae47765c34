"""The engine counts clients' connections by port and by the cause of their end, and requests that are no RPCs."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import h2.errors
import pytest
from dataplane.lab import clear_port, tls_port
from dataplane.raw_client import RawClient
from dataplane.waiting import eventually

from engines.http2.served import serving
from grpcgw.engines.http2.engine import Http2Engine
from grpcgw.telemetry.report import ClientReport
from tests.dataplane.authorities import Authority

CLEAR = clear_port()


@pytest.fixture
def engine() -> Iterator[Http2Engine]:
    with serving(CLEAR) as engine:
        yield engine


def report(engine: Http2Engine) -> ClientReport:
    assert engine.serving.counters.clients is not None
    return engine.serving.counters.clients.report()


def raw_client(engine: Http2Engine) -> RawClient:
    return RawClient(f"127.0.0.1:{engine.ports.numbers()[0]}")


def send_all(engine: Http2Engine, data: bytes) -> bytes:
    """Everything that a connection which sends this gets, until the gateway closes it."""
    with socket.create_connection(("127.0.0.1", engine.ports.numbers()[0])) as client:
        client.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(65_536):
                answer += part
        return answer


def test_a_port_without_connections_is_reported(engine: Http2Engine) -> None:
    (port,) = engine.ports.numbers()
    assert report(engine) == ClientReport({port: 0}, {port: 0})


def test_connections_are_open_until_their_clients_close_them(engine: Http2Engine) -> None:
    (port,) = engine.ports.numbers()
    with raw_client(engine) as one, raw_client(engine):
        stream = one.request("/none.S/M")
        assert one.finish(stream).status == 12
        eventually(lambda: report(engine).open == {port: 2})
    eventually(lambda: report(engine) == ClientReport({port: 0}, {port: 2}, {"client": 2}), lambda: report(engine))


def test_a_connection_that_breaks_http2_is_closed_for_that(engine: Http2Engine) -> None:
    send_all(engine, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(100))
    eventually(lambda: report(engine).closed == {"protocol-error": 1}, lambda: report(engine))


def test_connections_of_a_port_that_closes_are_closed_by_the_gateway(engine: Http2Engine) -> None:
    with raw_client(engine) as client:
        eventually(lambda: list(report(engine).open.values()) == [1])
        assert not engine.ports.update(())
        while client.receive():
            pass
    eventually(lambda: report(engine).closed == {"gateway": 1}, lambda: report(engine))


FIRST_BYTES = {
    "TLS on clear text": (CLEAR, b"\x16\x03\x01\x00\x05hello", "not-served"),
    "unasked PROXY header": (CLEAR, b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "not-served"),
    "garbage": (CLEAR, b"\x00" * 64, "not-served"),
    "HTTP/1": (CLEAR, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "http1"),
    "HTTP/1 on TLS": (None, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "not-served"),
    "HTTP/2 in clear text on TLS": (None, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not-served"),
    "no ClientHello": (None, b"\x16\x03\x01\x00\x05hello", "tls-handshake"),
}


@pytest.mark.parametrize("case", FIRST_BYTES)
def test_connections_that_do_not_get_to_http2_are_counted_by_what_they_sent(case: str) -> None:
    port, data, cause = FIRST_BYTES[case]
    if port is None:
        port = tls_port(Authority().certificate("localhost"))
    with serving(port) as engine:
        send_all(engine, data)
        (number,) = engine.ports.numbers()
        expected = ClientReport({number: 0}, {number: 1}, {cause: 1})
        eventually(lambda: report(engine) == expected, lambda: report(engine))


MALFORMED = {
    "forbidden field": [("transfer-encoding", "chunked")],
    "second path": [(":path", "/other.S/M")],
    "wrong length": [("content-length", "3")],
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_request_that_breaks_http2_is_counted_as_malformed(engine: Http2Engine, case: str) -> None:
    with raw_client(engine) as client:
        client.h2.config.validate_outbound_headers = client.h2.config.normalize_outbound_headers = False
        stream = client.request("Unary", *MALFORMED[case], messages=(b"more than three",))
        assert client.finish(stream).reset == h2.errors.ErrorCodes.PROTOCOL_ERROR
    assert report(engine).malformed_requests == 1


def test_a_client_that_resets_a_stream_with_that_code_sent_nothing_malformed(engine: Http2Engine) -> None:
    with raw_client(engine) as client:
        client.h2.reset_stream(client.request("Unary", end=False), h2.errors.ErrorCodes.PROTOCOL_ERROR)
        client.flush()
        assert client.call("/none.S/M").status == 12
    assert report(engine).malformed_requests == 0


def test_requests_that_are_no_grpc_are_counted_by_the_status_of_their_answer(engine: Http2Engine) -> None:
    with raw_client(engine) as client:
        for method, path, content_type in (
            ("GET", "/", "text/html"),
            ("POST", "/", "application/json"),
            ("POST", "/", "text/html"),
            ("GET", "/ambassador/v0/check_ready", "text/html"),
        ):
            stream = client.h2.get_next_available_stream_id()
            fields = (":method", method), (":scheme", "http"), (":path", path), (":authority", "x")
            client.h2.send_headers(stream, [*fields, ("content-type", content_type)], end_stream=True)
        client.flush()
        eventually(lambda: report(engine).http_requests == {405: 1, 415: 2, 200: 1}, lambda: report(engine))
