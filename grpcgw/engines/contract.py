"""The contract of engines, their options, and grpc core's arguments for the ports and connections of one of them.

An engine owns sockets and drives sessions; the rules of RPCs are in `session`, the routes in `Serving`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from grpcgw.listeners.open_ports import Ports
from grpcgw.model.cluster import ConnectionSettings
from grpcgw.model.listener import Listener
from grpcgw.model.snapshot import Snapshot
from grpcgw.session.serving import Serving
from grpcgw.settings import DEFAULT_MAX_MESSAGE_BYTES

QUIET_CORE = "NONE"

CLIENT_WINDOW_BYTES = 262_144
"""HTTP/2 window of a client's stream in bytes: 5 MB/s at a round trip of 50 ms."""

REFUSING_S = 0.1
"""Time during which a draining gateway refuses new RPCs itself: after GOAWAY to clients, grpc core ends those that
arrive as CANCELLED, which no client retries."""

ASK_CLIENTS_MS, CLIENT_ANSWERS_MS = 20_000, 60_000
"""Keepalive of silent client connections: a ping after the first time, an answer within the second."""

WAITING_RPCS = 10_000
"""RPCs that may wait for a worker, which takes some thousands each second; about 15 KB each."""


def quiet_core() -> None:
    """For a process of the gateway's own, before grpc is first used: core would write a line per malformed request,
    of which a bad client can send any number. A program that embeds the gateway keeps its log."""
    os.environ.setdefault("GRPC_VERBOSITY", QUIET_CORE)


NO_LONGER_BYTES = 2**31 - 1
"""The largest number that core takes."""

NEVER_MS = 2**31 - 1
"""grpc core's value for "no timeout"."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Address of a worker's ports, and limits of one client connection."""

    address: str
    max_concurrent_streams: int
    """Default of ports without a value of their own."""
    max_metadata_bytes: int
    max_connection_age_s: float | None = None
    """Client connections get GOAWAY at this age, give or take a tenth; None: never."""
    max_connection_age_grace_s: float | None = None
    """RPCs still running on such a connection are cut off after this time; None: never."""
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """Limit of a client's message, uncompressed, on ports without a limit of their own."""

    def target(self, port: int) -> str:
        """`host:port` to listen on."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{port}"


class Engine(Protocol):
    """One worker's data plane. `start`, then changes through `serving` and `ports`, then `drain` and `stop`, each once.

    All but `serving` is for one thread at a time.
    """

    @property
    def name(self) -> str: ...
    @property
    def serving(self) -> Serving: ...
    @property
    def ports(self) -> Ports:
        """Opened after `start`: RPCs so find their turns from the first one on, instead of the pod that happened to
        connect first."""
        ...

    @property
    def active(self) -> Collection[object]:
        """The RPCs that the engine has not let go of."""
        ...

    def start(self, settle_s: float) -> None:
        """Keep connections to the pods from now on; returns when each is tried, at the latest after `settle_s`."""
        ...

    def drain(self, limit_s: float) -> None:
        """Refuse new RPCs and send GOAWAY to clients; returns when the last RPC ended, at the latest after `limit_s`
        when the rest was ended with UNAVAILABLE."""
        ...

    def stop(self) -> None:
        """Close everything. Blocks until no thread and no socket is left."""
        ...


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


def max_message_bytes(options: ServerOptions, listener: Listener) -> int:
    """Of a client's message on a port."""
    return listener.max_message_bytes or options.max_message_bytes


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


def sweep_interval_s(snapshot: Snapshot) -> float:
    """Interval of sweeps over running RPCs: a tenth of the shortest idle timeout, between 20 ms and 1 s."""
    idle_ms = [d.idle_timeout_ms for route in snapshot.routes for d in route.destinations if d.idle_timeout_ms]
    return min(1.0, max(0.02, min(idle_ms, default=10_000) / 10_000))
