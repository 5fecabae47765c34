"""Settings of the gateway process, as one immutable value: each with flag, environment variables, check and default.

`cli.options` makes the flags, their help and the reading of the environment from the annotations here. Routes, timeouts
and certificates are not settings: they come from Mappings, Hosts and Modules. Workers import this package, so nothing
heavy may be imported here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from grpcgw.settings.choices import AccessLogMode, EngineName, LogLevel
from grpcgw.settings.compile_settings import CompileSettings
from grpcgw.settings.flag import (
    DATA_PLANE,
    LISTEN,
    LOG,
    LONGEST_S,
    PANELS,
    SOURCE,
    Flag,
    GivenPolicy,
    cores,
    number,
    parse_address,
    parse_directory,
    parse_file,
    parse_names,
    parse_port,
    parse_port_or_off,
    parse_workers,
    whole,
)
from grpcgw.settings.redis_url import RedisUrl, parse_redis_url

__all__ = [
    "DEFAULT_MAX_MESSAGE_BYTES",
    "DEFAULT_MAX_METADATA_BYTES",
    "PANELS",
    "AccessLogMode",
    "CompileSettings",
    "EngineName",
    "GivenPolicy",
    "LogLevel",
    "RedisUrl",
    "Settings",
    "cores",
]

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
"""gRPC libraries accept 4 MiB unless they are configured otherwise."""
DEFAULT_MAX_METADATA_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings(CompileSettings):
    """Exactly one of `config_dir` and `kubernetes` is set. Port 0: the system picks a free one; None: no such port."""

    config_dir: Annotated[
        Path | None,
        Flag(
            "--config",
            SOURCE,
            "Read the YAML files of this directory, and again when they change.",
            "DIR",
            parse_directory,
        ),
    ] = None
    kubernetes: Annotated[bool, Flag("--kubernetes", SOURCE, "Read a Kubernetes API server.")] = False
    kubeconfig: Annotated[
        Path | None,
        Flag(
            "--kubeconfig",
            SOURCE,
            "Which kubeconfig to use.",
            "FILE",
            parse_file,
            unset="the pod's service account, else the default kubeconfig",
        ),
    ] = None
    context: Annotated[
        str | None,
        Flag("--context", SOURCE, "Which context of the kubeconfig to use.", "NAME", unset="the current one"),
    ] = None
    in_cluster: Annotated[bool, Flag("--in-cluster", SOURCE, "Use the pod's service account and nothing else.")] = False
    namespace: Annotated[
        str,
        Flag(
            "--namespace",
            SOURCE,
            "Read only this namespace.",
            "NS",
            unset="all; the gateway's own where AMBASSADOR_SINGLE_NAMESPACE is set",
        ),
    ] = ""
    address: Annotated[
        str, Flag("--address", LISTEN, "Address of the data ports; `::` for IPv6.", "ADDRESS", parse_address)
    ] = "0.0.0.0"
    port: Annotated[
        int | None,
        Flag(
            "--port",
            LISTEN,
            "Port for clear text (h2c), while there is no Listener; `0` takes a free port, `off` none.",
            "PORT|off",
            parse_port_or_off,
        ),
    ] = 8080
    tls_port: Annotated[
        int | None,
        Flag(
            "--tls-port",
            LISTEN,
            "Port for TLS, while there is no Listener; `0` takes a free port, `off` none.",
            "PORT|off",
            parse_port_or_off,
        ),
    ] = 8443
    admin_address: Annotated[
        str,
        Flag(
            "--admin-address",
            LISTEN,
            "Address of the admin port. Its pages have no login unless you set one: restrict who can reach it.",
            "ADDRESS",
            parse_address,
        ),
    ] = "127.0.0.1"
    admin_port: Annotated[
        int,
        Flag(
            "--admin-port",
            LISTEN,
            "Port of the diagnostics page, the probes and the metrics; `0` takes a free one.",
            "PORT",
            parse_port,
        ),
    ] = 8877
    rate_limit_service: Annotated[
        int | None,
        Flag(
            "--rate-limit-service",
            LISTEN,
            "Port that answers `envoy.service.ratelimit.v3` from the RateLimits, in clear text, for Envoys that count "
            "with this gateway; `0` takes a free port, `off` none.",
            "PORT|off",
            parse_port_or_off,
        ),
    ] = None
    rate_limit_service_address: Annotated[
        str,
        Flag(
            "--rate-limit-service-address",
            LISTEN,
            "Address of that port. Whoever reaches it can use up the limits: restrict who can.",
            "ADDRESS",
            parse_address,
        ),
    ] = "127.0.0.1"
    admin_hosts: Annotated[
        tuple[str, ...],
        Flag(
            "--admin-host",
            LISTEN,
            "Names in the public DNS by which browsers may call the admin port, beside its IP addresses; "
            "`.example.com` stands for all names that end so.",
            "NAME,...",
            parse_names,
        ),
    ] = ()
    admin_token_file: Annotated[
        Path | None,
        Flag(
            "--admin-token-file",
            LISTEN,
            "File with the bearer token that readers of the admin port must send; probes need none.",
            "FILE",
            parse_file,
            unset="no token",
        ),
    ] = None
    admin_tls_cert: Annotated[
        Path | None,
        Flag(
            "--admin-tls-cert",
            LISTEN,
            "Certificate (PEM) of the admin port, which then speaks TLS.",
            "FILE",
            parse_file,
            unset="clear text",
        ),
    ] = None
    admin_tls_key: Annotated[
        Path | None,
        Flag("--admin-tls-key", LISTEN, "Its private key (PEM).", "FILE", parse_file, unset="none"),
    ] = None
    admin_tls_client_ca: Annotated[
        Path | None,
        Flag(
            "--admin-tls-client-ca",
            LISTEN,
            "CA (PEM): a client with a certificate of it may read the admin port; probes need none.",
            "FILE",
            parse_file,
            unset="no certificate",
        ),
    ] = None
    node_name: Annotated[
        str,
        Flag(
            "--node-name",
            LISTEN,
            "The machine's name: browsers may call the admin port by it, and by other names in its domain.",
            "NAME",
            unset="the host name",
        ),
    ] = ""
    workers: Annotated[
        int,
        Flag(
            "--workers",
            DATA_PLANE,
            "Worker processes: `auto` is one per core, `0` serves inside the control process.",
            "N|auto",
            parse_workers,
            default="auto",
        ),
    ] = 0
    drain_time_s: Annotated[
        float,
        Flag(
            "--drain-time",
            DATA_PLANE,
            "How long running RPCs may continue after SIGTERM, and on a pod that left.",
            "SECONDS",
            number("number of seconds", 0, LONGEST_S),
            ambassador="AMBASSADOR_DRAIN_TIME",
        ),
    ] = 30.0
    max_concurrent_streams: Annotated[
        int,
        Flag(
            "--max-concurrent-streams",
            DATA_PLANE,
            "Open RPCs a client connection may have; the client holds back more.",
            "N",
            whole("calls"),
        ),
    ] = 1000
    """HTTP/2 SETTINGS_MAX_CONCURRENT_STREAMS (RFC 9113, 6.5.2)."""
    max_metadata_bytes: int = DEFAULT_MAX_METADATA_BYTES
    rate_limit_redis: Annotated[
        RedisUrl | None,
        Flag(
            "--rate-limit-redis",
            DATA_PLANE,
            "Redis server by which gateways on several machines share rate limits; `redis://host:6379/0`.",
            "URL",
            parse_redis_url,
            unset="limits hold for the workers of one machine",
        ),
    ] = None
    rate_limit_redis_password: Annotated[
        Path | None,
        Flag(
            "--rate-limit-redis-password-file",
            DATA_PLANE,
            "File with the password of that server.",
            "FILE",
            parse_file,
            unset="none, or that of the URL",
        ),
    ] = None
    max_message_bytes: Annotated[
        int,
        Flag(
            "--max-message-bytes",
            DATA_PLANE,
            "Largest message of a client, uncompressed, on Listeners without `maxMessageBytes`. A client can make a "
            "worker hold four times as much.",
            "N",
            whole("bytes"),
        ),
    ] = DEFAULT_MAX_MESSAGE_BYTES
    max_connection_age_s: Annotated[
        float | None,
        Flag(
            "--max-connection-age",
            DATA_PLANE,
            "Make clients connect again after this time, give or take a tenth, so that gateways share them and new "
            "certificates are shown.",
            "SECONDS",
            number("number of seconds", 0.1, LONGEST_S),
            unset="never",
        ),
    ] = None
    max_connection_age_grace_s: Annotated[
        float | None,
        Flag(
            "--max-connection-age-grace",
            DATA_PLANE,
            "How long RPCs may then continue on such a connection before they are cut off.",
            "SECONDS",
            number("number of seconds", 0, LONGEST_S),
            unset="for ever",
        ),
    ] = None
    busy_poll_us: Annotated[
        int,
        Flag(
            "--busy-poll",
            DATA_PLANE,
            "While RPCs follow each other within this time, a worker polls for the next instead of letting its core "
            "sleep: shorter latency for up to a whole core per worker. Of the http2 engine.",
            "MICROSECONDS",
            whole("microseconds"),
            unset="off",
        ),
    ] = 0
    access_log: Annotated[
        AccessLogMode, Flag("--access-log", LOG, "One line per RPC on stdout: `json` or `text`.", "off|json|text")
    ] = AccessLogMode.OFF
    access_log_sample_percent: Annotated[
        float,
        Flag(
            "--access-log-sample",
            LOG,
            "Share of the RPCs in the access log; a Mapping may have its own.",
            "PERCENT",
            number("percentage", 0, 100),
        ),
    ] = 100.0
    reflection: Annotated[
        bool, Flag("--reflection", DATA_PLANE, "Answer `grpc.reflection` for the pods, from their own reflection.")
    ] = False
    zone: Annotated[
        str,
        Flag(
            "--zone",
            DATA_PLANE,
            "The zone the gateway runs in, as EndpointSlices name it, for Mappings with `prefer_same_zone`.",
            "NAME",
            unset="unknown",
        ),
    ] = ""
    log_level: Annotated[LogLevel, Flag("--log-level", LOG, "Level of the log.", "debug|info|warning|error")] = (
        LogLevel.INFO
    )
