"""Recognises from a connection's first bytes what the client speaks: PROXY header, TLS, HTTP/2, or HTTP/1. Pure.

A client that its port does not serve gets an answer which it understands: TLS on a clear-text port an alert, HTTP/1 on
a TLS port a 400 with a sentence. HTTP/2 in clear text on a TLS port gets nothing: after a GOAWAY, a gRPC client counts
the connection as ready and returns at once; without an answer it backs off.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus

from grpcgw.engines.http2.http1 import make_answer
from grpcgw.engines.http2.proxy_protocol import SIGNATURE_V1, SIGNATURE_V2, MalformedProxyHeader, read_proxy_header
from grpcgw.errors import GrpcgwError

HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""RFC 9113, 3.4."""

TLS_UNEXPECTED_MESSAGE = b"\x15\x03\x03\x00\x02\x02\x0a"
"""A record with the fatal alert `unexpected_message` (RFC 8446, 6). `handshake_failure` would blame ciphers."""

_TLS_HANDSHAKE = b"\x16\x03"
"""Content type and the major version that every TLS record has (RFC 8446, 5.1)."""
_METHOD = re.compile(rb"([A-Z][A-Z_-]{0,31}) ")
_BEGUN_METHOD = re.compile(rb"[A-Z][A-Z_-]{0,31}")
_ENOUGH_BYTES = 64
"""More than any of these needs."""


class ClientProtocol(Enum):
    TLS = auto()
    HTTP2 = auto()
    HTTP1 = auto()


class NotServed(GrpcgwError):
    """The port does not serve what the client speaks. Its text says what came, for the log."""

    def __init__(self, sentence: str, answer: bytes = b"") -> None:
        super().__init__(sentence)
        self.answer = answer
        """To send before the connection is closed; empty: nothing."""


@dataclass(frozen=True, slots=True)
class Decision:
    protocol: ClientProtocol
    source: tuple[str, int] | None
    """Address and port of the client by the PROXY header; None: those of the connection."""
    rest: bytes
    """All bytes after the PROXY header, with those by which the protocol was recognised."""


class FirstBytes:
    """Reads the first bytes of one connection, until it knows what the client speaks.

    Holds at most MAX_V2_BYTES of `proxy_protocol` and what is fed at once. The caller limits the time.
    """

    __slots__ = ("_allow_clear", "_allow_tls", "_awaits_header", "_held", "_source")

    def __init__(self, allow_tls: bool, allow_clear: bool, proxy: bool) -> None:
        """`proxy`: the port requires a PROXY header; without it, none is taken."""
        self._allow_tls = allow_tls
        self._allow_clear = allow_clear
        self._awaits_header = proxy
        self._source: tuple[str, int] | None = None
        self._held = bytearray()

    def feed(self, data: bytes) -> Decision | None:
        """Takes the next bytes. None: more are needed. Raises NotServed; nothing may be fed after that."""
        self._held += data
        if self._awaits_header and not self._take_proxy_header():
            return None
        protocol = _recognise(bytes(self._held[:_ENOUGH_BYTES]))
        if protocol is None:
            return None
        self._check(protocol)
        return Decision(protocol, self._source, bytes(self._held))

    def _take_proxy_header(self) -> bool:
        try:
            header = read_proxy_header(self._held)
        except MalformedProxyHeader as malformed:
            raise NotServed(str(malformed)) from None
        if header is None:
            return False
        self._awaits_header = False
        self._source = header.source
        del self._held[: header.length]
        return True

    def _check(self, protocol: ClientProtocol) -> None:
        if protocol is ClientProtocol.TLS:
            if not self._allow_tls:
                raise NotServed("TLS on a port for clear text", TLS_UNEXPECTED_MESSAGE)
        elif not self._allow_clear:
            answer = b"" if protocol is ClientProtocol.HTTP2 else _ONLY_TLS
            raise NotServed("clear text on a port for TLS", answer)


_ONLY_TLS = make_answer(HTTPStatus.BAD_REQUEST, "This port takes only TLS; use https.", close=True)


def _recognise(data: bytes) -> ClientProtocol | None:
    """None: more bytes are needed. Raises NotServed."""
    for begin, protocol in ((_TLS_HANDSHAKE, ClientProtocol.TLS), (HTTP2_PREFACE, ClientProtocol.HTTP2)):
        if data.startswith(begin):
            return protocol
        if begin.startswith(data):
            return None
    if data.startswith((SIGNATURE_V2, SIGNATURE_V1)):
        raise NotServed("a PROXY header on a port whose Listener does not ask for one")
    if SIGNATURE_V2.startswith(data) or _BEGUN_METHOD.fullmatch(data):
        return None
    if _METHOD.match(data):
        return ClientProtocol.HTTP1
    raise NotServed("neither TLS nor HTTP")
