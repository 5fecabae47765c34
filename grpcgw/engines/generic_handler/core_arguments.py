"""grpc core's arguments for the ports and connections of the generic-handler engine. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from grpcgw.engines.contract import ASK_CLIENTS_MS, CLIENT_ANSWERS_MS, ServerOptions, max_message_bytes
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.listener import Listener

CLIENT_WINDOW_BYTES = 262_144
"""HTTP/2 window of a client's stream in bytes: 5 MB/s at a round trip of 50 ms."""

WAITING_RPCS = 10_000
"""RPCs that may wait for a worker, which takes some thousands each second; about 15 KB each."""

NO_LONGER_BYTES = 2**31 - 1
"""The largest number that core takes."""

NEVER_MS = 2**31 - 1
"""grpc core's value for "no timeout"."""


def server_arguments(options: ServerOptions, listener: Listener) -> list[tuple[str, int]]:
    """grpc core's arguments for a port; the reasons of each limit are in docs/hardening.md."""
    return [
        *_age_arguments(options),
        ("grpc.so_reuseport", 1),
        # Core counts a compressed message as it unpacks it, and stops there. The session enforces the limit itself:
        # core may report a message above its own limit as if the request had ended before it.
        ("grpc.max_receive_message_length", min(2 * max_message_bytes(options, listener), NO_LONGER_BYTES)),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", listener.max_concurrent_streams or options.max_concurrent_streams),
        # On, core counts RPCs that are just ending against the limit and refuses new ones of a well-behaved client.
        ("grpc.http.overload_protection", 0),
        ("grpc.max_metadata_size", options.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", options.max_metadata_bytes),
        # Beyond its default of 1,000 core cancels new RPCs at random, of any client.
        ("grpc.server.max_pending_requests", WAITING_RPCS),
        ("grpc.server.max_pending_requests_hard_limit", WAITING_RPCS),
        # Core delays the answer to a request that it rejects, and keeps the whole request until then.
        ("grpc.http.tarpit", 0),
        # A value that core cannot read stays in the table as an error, for every later RPC that names its entry.
        ("grpc.http2.hpack_table_size.decoder", 0),
        ("grpc.server_handshake_timeout_ms", 10_000),
        # Until a client acknowledges the settings, core enforces none of them.
        ("grpc.http2.settings_timeout", 10_000),
        # A connection without RPCs, be it a client's that is gone or one that never ends its headers.
        ("grpc.max_connection_idle_ms", listener.idle_timeout_ms or NEVER_MS),
        # The probe lets a stream's window grow by megabytes, which the gateway then buffers for a slow reader.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", CLIENT_WINDOW_BYTES),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        # Core notices some clients that leave within milliseconds only when it writes to them.
        ("grpc.keepalive_time_ms", ASK_CLIENTS_MS),
        ("grpc.keepalive_timeout_ms", CLIENT_ANSWERS_MS),
        ("grpc.http2.ping_timeout_ms", CLIENT_ANSWERS_MS),
    ]


def _age_arguments(options: ServerOptions) -> Iterator[tuple[str, int]]:
    # Core itself varies the age of each connection by a tenth.
    if options.max_connection_age_s is not None:
        yield "grpc.max_connection_age_ms", round(1000 * options.max_connection_age_s)
        if options.max_connection_age_grace_s is not None:
            yield "grpc.max_connection_age_grace_ms", round(1000 * options.max_connection_age_grace_s)


def channel_arguments(
    max_metadata_bytes: int, user_agent: str, settings: ConnectionSettings
) -> list[tuple[str, int | str]]:
    """grpc core's arguments for a connection to a pod."""
    return [
        *_settings_arguments(settings),
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", max_metadata_bytes),
        ("grpc.http2.bdp_probe", 0),  # as for clients; pods are near, the usual window of 64 KiB is enough
        # With a header table core repeats an earlier RPC's timeout that is up to 3 % longer, to save bytes.
        ("grpc.http2.hpack_table_size.encoder", 0),
        ("grpc.http2.hpack_table_size.decoder", 0),  # as for clients
        ("grpc.use_local_subchannel_pool", 1),
        # The session retries. Core would remove the metadata that counts earlier attempts.
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5_000),
        ("grpc.primary_user_agent", user_agent),
    ]


def _settings_arguments(settings: ConnectionSettings) -> Iterator[tuple[str, int | str]]:
    # Despite its name this is how long core gives one attempt to connect.
    yield "grpc.min_reconnect_backoff_ms", settings.connect_timeout_ms
    if settings.idle_timeout_ms is not None:
        yield "grpc.client_idle_timeout_ms", settings.idle_timeout_ms
    if settings.keepalive_time_s is not None:
        yield "grpc.keepalive_time_ms", 1000 * settings.keepalive_time_s
        yield "grpc.keepalive_permit_without_calls", 1
        yield "grpc.http2.max_pings_without_data", 0
    if settings.keepalive_timeout_s is not None:
        yield "grpc.keepalive_timeout_ms", 1000 * settings.keepalive_timeout_s
        yield "grpc.http2.ping_timeout_ms", 1000 * settings.keepalive_timeout_s  # else core waits for a minute
    if settings.tls is not None and settings.tls.server_name:
        yield "grpc.ssl_target_name_override", settings.tls.server_name
    if settings.tls is not None and settings.tls.authority:
        yield "grpc.default_authority", settings.tls.authority
