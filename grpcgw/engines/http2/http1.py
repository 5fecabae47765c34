"""Answers clients that speak HTTP/1.1: health checks of load balancers, and a sentence for everybody else. Pure.

Old `Upgrade: h2c` requests (RFC 7540, which RFC 9113 dropped) are answered as if they asked for no upgrade, as Envoy
does since 1.12 (envoyproxy/envoy#7981): RFC 9110 lets a server ignore an upgrade, and Java clients ask for one with
every request, health checks too. So they get 426 or the answer of a health path, and speak HTTP/2 by prior knowledge.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http import HTTPStatus

from grpcgw.errors import GrpcgwError

ALIVE_PATH = b"/ambassador/v0/check_alive"
READY_PATH = b"/ambassador/v0/check_ready"
"""The paths of probes that Ambassador serves on its data ports (its internal liveness and readiness Mappings)."""

MAX_HEAD_BYTES = 16 * 1024
"""Request line and header fields. More is answered with 431."""

_UPGRADE_REQUIRED = (
    "This port serves gRPC over HTTP/2 alone. Use HTTP/2 with prior knowledge in clear text, or ALPN h2 over TLS."
)
_UNSUPPORTED_TYPE = "This port serves gRPC over HTTP/2 alone; gRPC-Web and JSON are not served."

_HEAD_END = re.compile(rb"\n\r?\n")
"""RFC 9112, 2.2: a bare LF may end a line. Nothing of the request is passed on, so that leniency confuses nobody."""
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) ([\x21-\x7e]+) HTTP/([0-9])\.([0-9])")
_FORBIDDEN_IN_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


class _Refused(GrpcgwError):
    """The request is answered with an error, and the connection closed: where the next request begins is unknown."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class _Head:
    method: bytes
    path: bytes
    is_version_1_0: bool
    fields: tuple[tuple[bytes, bytes], ...]
    """Names in lower case."""

    def list_values(self, name: bytes) -> Iterable[bytes]:
        return (value for found, value in self.fields if found == name)

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this request: the client wants that, or a body follows, which nobody
        reads."""
        if self.is_version_1_0 or any(True for _ in self.list_values(b"transfer-encoding")):
            return True
        if any(value != b"0" for value in self.list_values(b"content-length")):
            return True
        options = b",".join(self.list_values(b"connection")).lower().split(b",")
        return any(option.strip() == b"close" for option in options)


class Http1Answerer:
    """Answers the HTTP/1.1 requests of one connection, one after the other.

    Bounds: a head of MAX_HEAD_BYTES is held, and no body. The caller stops reading while a client does not take its
    answers, limits the time for a head, and lets the client read the last answer before it closes the socket.
    """

    __slots__ = ("_closed", "_held", "_is_healthy", "_searched")

    def __init__(self, is_healthy: Callable[[], bool]) -> None:
        """`is_healthy`: whether load balancers should send RPCs here, asked for each request."""
        self._is_healthy = is_healthy
        self._held = bytearray()
        self._searched = 0
        self._closed = False

    @property
    def is_reading_head(self) -> bool:
        """Whether a request has begun whose head is not complete."""
        return bool(self._held) and not self._closed

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Takes bytes of the client; returns what to send, and whether to close the connection after that."""
        answers = bytearray()
        if not self._closed:
            self._held += data
        while not self._closed:
            try:
                lines = self._take_head()
                if lines is None:
                    break
                answers += self._answer(_read_head(lines))
            except _Refused as refused:
                self._closed = True
                answers += make_answer(refused.status, str(refused), close=True)
        return bytes(answers), self._closed

    def _take_head(self) -> list[bytes] | None:
        """The lines of the next request's head; None: it is not complete."""
        held = self._held
        if not self._searched and held.startswith((b"\r", b"\n")):
            del held[: len(held) - len(held.lstrip(b"\r\n"))]  # RFC 9112, 2.2: empty lines before a request
        end = _HEAD_END.search(held, max(0, self._searched - 2), MAX_HEAD_BYTES)
        if end is None:
            if len(held) >= MAX_HEAD_BYTES:
                raise _Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "The request's head is too long.")
            self._searched = len(held)
            return None
        head = bytes(held[: end.start()])
        del held[: end.end()]
        self._searched = 0
        return [line.removesuffix(b"\r") for line in head.split(b"\n")]

    def _answer(self, head: _Head) -> bytes:
        self._closed = head.closes
        status, sentence = self._choose(head)
        return make_answer(status, sentence, close=self._closed, with_body=head.method != b"HEAD")

    def _choose(self, head: _Head) -> tuple[HTTPStatus, str]:
        if head.method == b"POST" and any(map(_is_other_encoding, head.list_values(b"content-type"))):
            return HTTPStatus.UNSUPPORTED_MEDIA_TYPE, _UNSUPPORTED_TYPE
        checked = check_health(head.method, head.path, self._is_healthy())
        return checked or (HTTPStatus.UPGRADE_REQUIRED, _UPGRADE_REQUIRED)


def check_health(method: bytes, path: bytes, is_healthy: bool) -> tuple[HTTPStatus, str] | None:
    """Status and sentence for a load balancer's probe; None: the request is none. `is_healthy`: it should send RPCs
    here."""
    if method not in (b"GET", b"HEAD"):
        return None
    if path == ALIVE_PATH:
        return HTTPStatus.OK, "alive"
    if path == READY_PATH:
        return (HTTPStatus.OK, "ready") if is_healthy else (HTTPStatus.SERVICE_UNAVAILABLE, "not ready")
    return None


def make_answer(status: HTTPStatus, sentence: str, *, close: bool, with_body: bool = True) -> bytes:
    """An HTTP/1.1 response with `sentence` as plain text. `with_body` is False for HEAD."""
    body = f"{sentence}\n".encode()
    options = ["close"] if close else []
    lines = [f"HTTP/1.1 {status} {status.phrase}", "content-type: text/plain", f"content-length: {len(body)}"]
    if status is HTTPStatus.UPGRADE_REQUIRED:
        lines.append("upgrade: HTTP/2.0")  # RFC 9110, 15.5.22: required. `h2c` would be wrong over TLS.
        options.append("upgrade")
    if options:
        lines.append(f"connection: {', '.join(options)}")
    return "\r\n".join((*lines, "", "")).encode() + (body if with_body else b"")


def _is_other_encoding(content_type: bytes) -> bool:
    """Whether this is gRPC-Web or JSON, of which clients think that a gateway translates it."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return media_type.startswith(b"application/grpc-web") or media_type == b"application/json"


def _read_head(lines: list[bytes]) -> _Head:
    request = _REQUEST_LINE.fullmatch(lines[0])
    if request is None:
        raise _Refused(HTTPStatus.BAD_REQUEST, "The request line is malformed.")
    method, target, major, minor = request.groups()
    if major != b"1":
        raise _Refused(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "The request line does not name HTTP/1.1.")
    head = _Head(method, target.partition(b"?")[0], minor == b"0", tuple(map(_read_field, lines[1:])))
    if not head.is_version_1_0 and sum(1 for _ in head.list_values(b"host")) != 1:
        raise _Refused(HTTPStatus.BAD_REQUEST, "An HTTP/1.1 request has one Host header field.")
    return head


def _read_field(line: bytes) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(b":")
    if not colon or not _TOKEN.fullmatch(name) or _FORBIDDEN_IN_VALUE.search(value):
        raise _Refused(HTTPStatus.BAD_REQUEST, "A header field is malformed.")
    return name.lower(), value.strip(b" \t")
