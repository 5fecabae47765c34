"""Windows of a client's connection."""

from __future__ import annotations

from grpcgw.engines.http2.h2 import ACKNOWLEDGE_BYTES, CLIENT_CONNECTION_WINDOW_BYTES, client_window_bytes


def test_quiet_streams_leave_room_in_the_connections_window_however_many_they_are() -> None:
    for streams in (100, 1000, 20_000, 100_000):
        kept_by_quiet_streams = streams * (ACKNOWLEDGE_BYTES - 1)
        assert client_window_bytes(streams) - kept_by_quiet_streams > CLIENT_CONNECTION_WINDOW_BYTES // 4


def test_a_window_is_no_larger_than_http2_allows() -> None:
    assert client_window_bytes(2**32 - 1) == 2**31 - 1
