"""TLS of one connection without a socket: bytes in, bytes out, by Python's `ssl` on memory buffers.

One thread at a time may use a layer. `handshake` takes about a millisecond of CPU, so it may run in a helper thread;
`ssl` releases the GIL meanwhile.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from typing import NoReturn

from grpcgw.engines.http2.peer_certificates import describe_peer
from grpcgw.errors import GrpcgwError
from grpcgw.policy.client_certificates import ClientCertificate

_RECORD_BYTES = 16_384
"""The most plaintext in one record (RFC 8446, 5.1), which is what one read returns."""
_MOST_UNSENT_BYTES = 16_384
"""Bytes that TLS itself may have to send before we send anything, such as answers to key updates."""

OTHER = "other"
NO_TLS, HTTP = "no-tls", "http"
UNUSABLE = "own-certificate-unusable"
"""`ssl` does not take the certificate of the port."""
CLIENT_LEFT = "client-left"
"""The client closed the connection during the handshake: grpc core sends no alert when it refuses a certificate."""

_CAUSES = {
    "WRONG_VERSION_NUMBER": (NO_TLS, "the peer does not speak TLS"),
    "HTTP_REQUEST": (HTTP, "the peer speaks HTTP without TLS"),
    "HTTPS_PROXY_REQUEST": (HTTP, "the peer speaks HTTP without TLS"),
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": ("no-client-certificate", "the peer shows no certificate"),
    "CERTIFICATE_VERIFY_FAILED": ("untrusted-certificate", "the peer's certificate is not trusted"),
    "UNSUPPORTED_PROTOCOL": ("tls-version", "the peer speaks no TLS version that is allowed here"),
    "TLSV1_ALERT_PROTOCOL_VERSION": ("tls-version", "the peer allows no TLS version of ours"),
    "NO_SHARED_CIPHER": ("no-shared-cipher", "the peer offers no cipher or curve that is allowed here"),
    "NO_SUITABLE_KEY_SHARE": ("no-shared-cipher", "the peer offers no cipher or curve that is allowed here"),
    "NO_SUITABLE_GROUPS": ("no-shared-cipher", "the peer offers no cipher or curve that is allowed here"),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": ("no-shared-cipher", "the peer accepts no cipher or curve of ours"),
    "TLSV1_ALERT_UNKNOWN_CA": ("own-certificate-refused", "the peer does not know the authority of our certificate"),
    "SSLV3_ALERT_BAD_CERTIFICATE": ("own-certificate-refused", "the peer refuses our certificate"),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": ("own-certificate-refused", "the peer refuses our certificate"),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": ("own-certificate-refused", "the peer finds our certificate expired"),
    "SSLV3_ALERT_CERTIFICATE_REVOKED": ("own-certificate-refused", "the peer finds our certificate revoked"),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": ("own-certificate-refused", "the peer requires a certificate of ours"),
}
"""By OpenSSL's name of the error: the cause, as metrics count it, and the sentence."""


class TlsFailed(GrpcgwError):
    """The handshake or the connection has failed; the layer is of no more use."""

    def __init__(self, sentence: str, cause: str = OTHER, to_send: bytes = b"") -> None:
        super().__init__(sentence)
        self.cause = cause
        """As `grpcgw_handshake_failures_total` counts it."""
        self.to_send = to_send
        """The alert for the peer."""


class TlsClosed(GrpcgwError):
    """The peer has sent its close_notify: nothing follows."""


class TlsLayer:
    """TLS of one connection. First `handshake` until it is `established`, then `receive` and `send`."""

    __slots__ = (
        "_certificate",
        "_described",
        "_failed",
        "_feed",
        "_incoming",
        "_object",
        "_outgoing",
        "_read",
        "_take",
        "alpn",
        "established",
    )

    def __init__(self, context: ssl.SSLContext, server_side: bool, server_name: str | None = None) -> None:
        """`server_name`: of the server that we connect to, for SNI and the check of its certificate.

        Raises ValueError where a name is to be checked and there is none: `ssl` alone would then accept every name.
        """
        if context.check_hostname and not server_name:
            raise ValueError("a server's certificate cannot be checked without its name")
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side, server_name)
        self._feed, self._take, self._read = self._incoming.write, self._outgoing.read, self._object.read
        self._failed: TlsFailed | None = None
        self._certificate: ClientCertificate | None = None
        self.established = self._described = False
        self.alpn: str | None = None
        """The protocol agreed on, once established; None: none."""

    def handshake(self, data: bytes) -> bytes:
        """Bytes of the peer in (a client begins with none), bytes to send out.

        Once established, `receive(b"")` returns the plaintext that came with the last bytes. Raises TlsFailed.
        """
        self._feed(data)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return self._take()
        except ssl.SSLError as error:
            self._fail(error)
        self.alpn = self._object.selected_alpn_protocol()
        self.established = True
        return self._take()

    def receive(self, data: bytes) -> bytes:
        """Ciphertext in, plaintext out; empty if no record is complete.

        Raises TlsClosed at the peer's close_notify, and TlsFailed; plaintext that came before is returned first, and
        the next call raises.
        """
        self._feed(data)
        try:
            plaintext = self._read(_RECORD_BYTES)
        except ssl.SSLWantReadError:
            self._check_unsent()
            return b""
        except ssl.SSLError as error:
            self._fail(error)
        if not plaintext:
            raise TlsClosed("the peer has closed TLS")
        return self._read_rest(plaintext) if self._incoming.pending else plaintext

    def _read_rest(self, first: bytes) -> bytes:
        """Of a chunk with more than one record."""
        records = [first]
        while self._incoming.pending:
            try:
                plaintext = self._read(_RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                break
            except ssl.SSLError as error:
                self._failed = self._explain(error)
                break
            if not plaintext:
                break
            records.append(plaintext)
        return b"".join(records)

    def send(self, data: bytes) -> bytes:
        """Plaintext in, ciphertext out, with what TLS itself has to send (tickets, key updates). Raises TlsFailed."""
        if data:
            try:
                self._object.write(data)  # a memory buffer takes everything
            except ssl.SSLError as error:
                self._fail(error)
        return self._take()

    def close(self) -> bytes:
        """Our close_notify, and what else is to be sent. The peer's answer is not waited for."""
        with suppress(ssl.SSLError, OSError):  # the peer has not closed yet, or the handshake is not over
            self._object.unwrap()
        return self._take()

    def peer_certificate(self) -> ClientCertificate | None:
        """What the peer has shown and `ssl` has verified; None: nothing. Of a resumed session without its chain."""
        if not self._described:  # once: it takes as long as several RPCs
            self._certificate, self._described = describe_peer(self._object), self.established
        return self._certificate

    def _check_unsent(self) -> None:
        if self._outgoing.pending > _MOST_UNSENT_BYTES:
            raise TlsFailed("the peer makes TLS answer without end")

    def _fail(self, error: ssl.SSLError) -> NoReturn:
        if isinstance(error, ssl.SSLZeroReturnError):
            raise TlsClosed("the peer has closed TLS") from error
        raise (self._failed or self._explain(error)) from error

    def _explain(self, error: ssl.SSLError) -> TlsFailed:
        cause, sentence = _CAUSES.get(error.reason or "", (OTHER, f"TLS failed: {error.reason or error.strerror}"))
        if isinstance(error, ssl.SSLCertVerificationError):
            sentence = f"{sentence}: {error.verify_message}"
        return TlsFailed(sentence, cause, self._take())
