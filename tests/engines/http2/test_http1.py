"""Clients that speak HTTP/1.1 get health checks answered, and a sentence otherwise; connections are kept where HTTP
says so."""

from __future__ import annotations

import io
from http.client import HTTPResponse
from socket import socket
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpcgw.engines.http2.http1 import MAX_HEAD_BYTES, Http1Answerer
from tests.engines.http2.cuts import cut

READY = b"GET /ambassador/v0/check_ready HTTP/1.1\r\nhost: a\r\n\r\n"


class Answers(io.BytesIO):
    """Answers as http.client reads them from a socket."""

    def makefile(self, *_: object) -> Answers:
        return self

    def close(self) -> None:
        """http.client closes each response; the next one begins at the same place."""


def ask(*pieces: bytes, healthy: bool = True) -> tuple[bytes, bool]:
    """What is answered to these pieces, and whether the connection is closed then."""
    answerer = Http1Answerer(lambda: healthy)
    answers, closed = b"", False
    for piece in pieces:
        answer, closed = answerer.feed(piece)
        answers += answer
    return answers, closed


def read_one(answers: Answers, method: str = "GET") -> HTTPResponse:
    response = HTTPResponse(cast(socket, answers), method=method)
    response.begin()
    return response


def answer_of(request: bytes, healthy: bool = True) -> tuple[int, str, bool]:
    """Status, body, and whether the connection is closed; the response says the same about that."""
    sent, closed = ask(request, healthy=healthy)
    method = request.partition(b" ")[0].decode()
    response = read_one(Answers(sent), method)
    body = response.read().decode()
    assert ("close" in (response.getheader("connection") or "")) is closed
    return response.status, body, closed


@pytest.mark.parametrize(
    ("path", "healthy", "status", "body"),
    [
        ("/ambassador/v0/check_ready", True, 200, "ready\n"),
        ("/ambassador/v0/check_ready?source=elb", True, 200, "ready\n"),
        ("/ambassador/v0/check_ready", False, 503, "not ready\n"),
        ("/ambassador/v0/check_alive", False, 200, "alive\n"),
    ],
)
def test_health_checks_are_answered_and_the_connection_is_kept(
    path: str, healthy: bool, status: int, body: str
) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    assert answer_of(request, healthy) == (status, body, False)
    assert answer_of(request.replace(b"GET", b"HEAD"), healthy) == (status, "", False)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /ambassador/v0/check_readyx HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /ambassador/v0/check_ready HTTP/1.1\r\nHost: a\r\ncontent-length: 0\r\n\r\n",
        b"POST /greet.Greeter/Hello HTTP/1.1\r\nHost: a\r\ncontent-type: application/grpc\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_other_requests_are_advised_to_use_http2(request_: bytes) -> None:
    status, body, closed = answer_of(request_)
    assert (status, closed) == (426, False)
    assert "HTTP/2 with prior knowledge" in body
    answer = read_one(Answers(ask(request_)[0]))
    assert (answer.getheader("upgrade"), answer.getheader("connection")) == ("HTTP/2.0", "upgrade")


@pytest.mark.parametrize(
    "content_type", ["application/grpc-web", "application/grpc-web-text+proto", "Application/JSON; charset=utf-8"]
)
def test_grpc_web_and_json_are_unsupported_media_types(content_type: str) -> None:
    request = f"POST /greet.Greeter/Hello HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\n\r\n"
    status, body, closed = answer_of(request.encode())
    assert (status, closed) == (415, False)
    assert "gRPC-Web and JSON are not served" in body


def test_request_for_h2c_is_answered_as_if_it_asked_for_no_upgrade() -> None:
    upgrade = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n"
    assert answer_of(READY[:-2] + upgrade) == (200, "ready\n", False)


@pytest.mark.parametrize(
    "request_",
    [
        READY[:-2] + b"Connection: keep-alive, Close\r\n\r\n",
        b"GET /ambassador/v0/check_ready HTTP/1.0\r\n\r\n",
        b"GET /ambassador/v0/check_ready HTTP/1.0\n\n",
    ],
)
def test_connection_ends_where_the_client_wants_that(request_: bytes) -> None:
    assert answer_of(request_) == (200, "ready\n", True)


@pytest.mark.parametrize(
    "body",
    [b"content-length: 5\r\n\r\nhello", b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"transfer-encoding:\r\n\r\n"],
)
def test_body_is_not_read_and_ends_the_connection(body: bytes) -> None:
    status, _, closed = answer_of(b"POST / HTTP/1.1\r\nhost: a\r\n" + body)
    assert (status, closed) == (426, True)


def test_requests_in_one_piece_are_answered_in_order() -> None:
    alive = READY.replace(b"ready", b"alive")
    sent, closed = ask(READY + b"\r\n" + alive + READY.replace(b"GET", b"HEAD") + READY)
    answers = Answers(sent)
    bodies = [read_one(answers, method).read() for method in ("GET", "GET", "HEAD", "GET")]
    assert (bodies, closed) == ([b"ready\n", b"alive\n", b"", b"ready\n"], False)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost: a\0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nhost\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: " + b"a" * MAX_HEAD_BYTES, 431),
        (b"GET / HTTP/1.1\r\nhost: " + b"a" * MAX_HEAD_BYTES + b"\r\n\r\n", 431),
    ],
)
def test_malformed_request_is_answered_and_ends_the_connection(request_: bytes, status: int) -> None:
    found, _, closed = answer_of(request_)
    assert (found, closed) == (status, True)


def test_nothing_is_answered_after_the_end() -> None:
    answerer = Http1Answerer(lambda: True)
    assert answerer.feed(b"\0\n\n")[1]
    assert answerer.feed(READY) == (b"", True)


PIECES = st.sampled_from(
    [
        READY,
        b"GET / HTTP/1.0\n\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        b"host: a\r\n",
        b"\r\n",
        b"\n",
        b"GET / HTTP/1.1\r\n",
        b"x" * (MAX_HEAD_BYTES - 60),
    ]
)
REQUESTS = st.lists(PIECES | st.binary(max_size=20), max_size=6).map(b"".join)


@given(cut(REQUESTS))
def test_cuts_change_nothing(requests: tuple[bytes, list[bytes]]) -> None:
    whole, pieces = requests
    assert ask(*pieces) == ask(whole)
