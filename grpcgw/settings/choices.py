"""Settings that are one of a few words: the engine, and what the logs hold."""

from __future__ import annotations

from enum import StrEnum


class EngineName(StrEnum):
    HTTP2 = "http2"
    GENERIC_HANDLER = "generic-handler"

    @property
    def shows_authority(self) -> bool:
        """Whether it knows the client's `:authority`, which grpcio's public API does not show."""
        return self is EngineName.HTTP2

    @property
    def reads_first_bytes(self) -> bool:
        """Whether its ports recognise TLS, clear text and PROXY headers per connection, which grpc cannot do."""
        return self is EngineName.HTTP2

    @property
    def counts_handshakes(self) -> bool:
        """Whether it counts failed TLS handshakes itself; else they are in the log of grpc core alone."""
        return self is EngineName.HTTP2


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AccessLogMode(StrEnum):
    OFF = "off"
    JSON = "json"
    TEXT = "text"
