"""HTTP/2 of one connection, without I/O. The one module that imports `ngh2`, the binding of libnghttp2.

`Http2` lists every call that the engine makes, so that another binding can take its place here. What libnghttp2 checks
itself is relied on: framing, HPACK, flow control of what is sent, pseudo-headers (one of each, RFC 9113, 8.3), header
fields that HTTP/2 forbids (8.2), and the rates of resets, pings, settings and empty frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Protocol

from ngh2 import Connection, Role, Setting
from ngh2.config import Configuration
from ngh2.events import (
    ConnectionClosed,
    DataReceived,
    Event,
    GoAwayReceived,
    PingAcknowledged,
    PingReceived,
    PriorityUpdateReceived,
    RequestReceived,
    ResponseReceived,
    SettingsAcknowledged,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from ngh2.exceptions import NGH2Error as Http2Error
from ngh2.types import Header
from ngh2.types import NeverIndexedHeader as NeverIndexed

__all__ = [
    "ConnectionClosed",
    "DataReceived",
    "Event",
    "GoAwayReceived",
    "Http2",
    "Http2Error",
    "NeverIndexed",
    "PingAcknowledged",
    "PingReceived",
    "PriorityUpdateReceived",
    "RequestReceived",
    "ResponseReceived",
    "SettingsAcknowledged",
    "SettingsReceived",
    "StreamClosed",
    "StreamReset",
    "TrailersReceived",
    "WindowUpdated",
    "open_client",
    "open_server",
]

Fields = Iterable[Header]

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 2, 7, 8, 11
"""Error codes (RFC 9113, 7)."""

STREAM_WINDOW_BYTES = 262_144
"""What one stream's sender may send before the other side has taken it: 5 MB/s at a round trip of 50 ms."""
MAX_FRAME_BYTES = 65_536
"""Of a DATA frame from either side: four times HTTP/2's default, so that large messages come in fewer steps."""
ACKNOWLEDGE_BYTES = 1024
"""What a reader took is given back to the windows in steps of at least this, or at the end of the stream."""
CLIENT_CONNECTION_WINDOW_BYTES = 64 * STREAM_WINDOW_BYTES
"""The same for all streams of a client's connection, unless it may have thousands: see `client_window_bytes`."""
MAX_WINDOW_BYTES = 2**31 - 1
POD_WINDOW_BYTES = MAX_WINDOW_BYTES
"""The same for a pod's: no bound. Clients share that connection, and a few that do not read must not stop the others'
answers; what waits for them is bounded by `memory_bound`."""

RESET_BURST, RESETS_PER_S = 10_000, 500
"""Client resets beyond these end its connection. A client whose pods are slow resets an RPC for each deadline."""
GLITCH_BURST, GLITCHES_PER_S = 10_000, 330
MAX_CONTINUATIONS = 16
FIELD_OVERHEAD_BYTES = 32
"""What each field of a header list counts beside its name and value (RFC 9113, 6.5.2)."""
MAX_SENT_FIELDS_BYTES = 16 << 20
"""Limit of a header block that the gateway sends: none of its own, the session has checked what it forwards."""
PODS_FIELDS_BYTES = 16 << 20
"""Limit of a pod's header block, decoded. Above it the connection ends with all its RPCs, so it is far above the limit
that the engine holds for each RPC."""


_CLIENT_CONFIGURATION = Configuration(
    auto_window_update=False,
    max_send_header_block_length=MAX_SENT_FIELDS_BYTES,
    glitch_rate_limit=(GLITCH_BURST, GLITCHES_PER_S),
    max_continuations=PODS_FIELDS_BYTES // 16_384,
    max_inbound_header_list_size=PODS_FIELDS_BYTES,
    max_inbound_header_count=PODS_FIELDS_BYTES // 64,
)

GOAWAY_CALM = b"\0\0\x08\x07\0\0\0\0\0" + b"\x7f\xff\xff\xff" + ENHANCE_YOUR_CALM.to_bytes(4, "big")
"""GOAWAY with ENHANCE_YOUR_CALM, as a frame: where the peer exceeds a limit, libnghttp2 itself sends no more."""


class Http2(Protocol):
    """What the engine uses of a connection. Calls about a stream that is closed raise Http2Error."""

    def receive_data(self, data: bytes | memoryview) -> None:
        """Raises Http2Error where the peer exceeds a limit; the connection is of no use then."""
        ...

    def events(self) -> list[Event]: ...
    def data_to_send(self, amount: int | None = None) -> bytes: ...
    def send_request(self, headers: Fields, *, end_stream: bool = False) -> int: ...
    def send_response(self, stream_id: int, headers: Fields, *, end_stream: bool = False) -> None: ...
    def send_trailers(self, stream_id: int, headers: Fields) -> None: ...
    def send_data(self, stream_id: int, data: bytes, *, end_stream: bool = False) -> None: ...
    def end_stream(self, stream_id: int) -> None: ...
    def reset_stream(self, stream_id: int, error_code: int = CANCEL) -> None: ...
    def ping(self, opaque_data: bytes = ...) -> None: ...
    def send_goaway(self, error_code: int = NO_ERROR) -> None: ...
    def send_shutdown_notice(self) -> None: ...
    def acknowledge_received_data(self, amount: int, stream_id: int) -> None: ...
    def queued_body_size(self, stream_id: int | None = None) -> int: ...
    @property
    def remote_settings(self) -> Mapping[int, int]: ...
    @property
    def want_write(self) -> bool:
        """Whether `data_to_send` returns something."""
        ...


def open_server(max_concurrent_streams: int, max_metadata_bytes: int) -> Http2:
    """The gateway's end of a client's connection; its settings are queued to be sent.

    A header list above four times `max_metadata_bytes` ends the connection; up to there the session refuses the RPC.
    """
    connection = Connection(Role.SERVER, _configure_server(max_metadata_bytes))
    connection.initiate_connection(
        {
            Setting.MAX_CONCURRENT_STREAMS: max_concurrent_streams,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            Setting.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: max_metadata_bytes,
        }
    )
    connection.set_local_window_size(client_window_bytes(max_concurrent_streams))
    return connection


@cache
def _configure_server(max_metadata_bytes: int) -> Configuration:
    return Configuration(
        auto_window_update=False,
        max_send_header_block_length=MAX_SENT_FIELDS_BYTES,
        stream_reset_rate_limit=(RESET_BURST, RESETS_PER_S),
        glitch_rate_limit=(GLITCH_BURST, GLITCHES_PER_S),
        max_continuations=MAX_CONTINUATIONS,
        max_inbound_header_list_size=4 * max_metadata_bytes,
        max_inbound_header_count=4 * max_metadata_bytes // FIELD_OVERHEAD_BYTES,
    )


def client_window_bytes(max_concurrent_streams: int) -> int:
    """The window of a client's connection: streams that are quiet before they reach ACKNOWLEDGE_BYTES leave half of it,
    however many there are."""
    return min(MAX_WINDOW_BYTES, max(CLIENT_CONNECTION_WINDOW_BYTES, 2 * ACKNOWLEDGE_BYTES * max_concurrent_streams))


def open_client(max_metadata_bytes: int) -> Http2:
    """The gateway's end of a connection to a pod; its settings are queued to be sent."""
    connection = Connection(Role.CLIENT, _CLIENT_CONFIGURATION)
    connection.initiate_connection(
        {
            Setting.ENABLE_PUSH: 0,
            Setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
            Setting.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            Setting.MAX_HEADER_LIST_SIZE: max_metadata_bytes,
        }
    )
    connection.set_local_window_size(POD_WINDOW_BYTES)
    return connection


def max_streams(http: Http2) -> int:
    """How many streams the other side allows at a time, by its newest settings."""
    return http.remote_settings[Setting.MAX_CONCURRENT_STREAMS]


def max_fields_bytes(http: Http2) -> int:
    """The largest header list that the other side takes, by its newest settings (RFC 9113, 6.5.2)."""
    return http.remote_settings[Setting.MAX_HEADER_LIST_SIZE]
