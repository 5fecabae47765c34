"""Settings of the gateway process: what the command line and environment decide, as one immutable value.

What belongs to the traffic (timeouts, certificates, …) is configuration, read from Mappings and Modules, not here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

DEFAULT_MAX_MESSAGE_BYTES = 64 << 20
"""gRPC libraries take 4 MiB unless they are told otherwise."""


class EngineName(StrEnum):
    COMPLETION_QUEUE = "completion-queue"
    GENERIC_HANDLER = "generic-handler"

    @property
    def shows_authority(self) -> bool:
        """Whether it knows the client's `:authority`, which grpcio's public API keeps to itself."""
        return self is EngineName.COMPLETION_QUEUE


class Scheduling(StrEnum):
    """Of workers' threads: whether one that wakes waits for the one that runs, or interrupts it."""

    BATCH = "batch"
    NORMAL = "normal"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class AccessLogMode(StrEnum):
    OFF = "off"
    JSON = "json"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class KubernetesSettings:
    """Which API server to read. All None: the service account of the pod, else the default kubeconfig."""

    kubeconfig: Path | None = None
    context: str | None = None
    in_cluster: bool = False
    """Only the pod's service account will do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Exactly one of `config_dir` and `kubernetes` is set. Port 0: the system picks a free one; None: no such port."""

    config_dir: Path | None = None
    kubernetes: KubernetesSettings | None = None
    ambassador_id: str = "default"
    ambassador_namespace: str = "default"
    """Namespace of the gateway itself; what a Module may ask short service names to be looked up in."""
    namespace: str = ""
    """Read only this namespace; empty: all (AMBASSADOR_SINGLE_NAMESPACE)."""
    serve_without_auth: bool = False
    """What is to decide on calls and cannot be asked yet is left out of account, with a notice."""
    address: str = "0.0.0.0"
    port: int | None = 8080
    tls_port: int | None = 8443
    admin_address: str = "127.0.0.1"
    admin_port: int = 8877
    admin_hosts: tuple[str, ...] = ()
    """Names in the public DNS that browsers may call the diagnostics by; `.example.com` is all that end so."""
    node_name: str = ""
    """Of the machine, in whose domain names are believed as well; empty: its host name."""
    workers: int = 0
    """Data-plane processes; 0 runs the data plane inside the control process."""
    engine: EngineName = EngineName.COMPLETION_QUEUE
    scheduling: Scheduling = Scheduling.BATCH
    drain_time_s: float = 30.0
    """How long running RPCs may go on after SIGTERM, and streams to a pod that left."""
    max_concurrent_streams: int = 1000
    """Open RPCs a client connection may have; more are held back by HTTP/2 (SETTINGS_MAX_CONCURRENT_STREAMS)."""
    max_metadata_bytes: int = 65_536
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    """A client's message, uncompressed; larger ones end their call. Of Listeners that do not say themselves."""
    max_connection_age_s: float | None = None
    """Clients are sent away to connect anew after so long, give or take a tenth; None: never."""
    max_connection_age_grace_s: float | None = None
    """What then still runs on the connection is cut off after so long; None: never."""
    access_log: AccessLogMode = AccessLogMode.OFF
    access_log_sample_percent: float = 100.0
    """Share of the RPCs in the access log, of Mappings that do not say."""
    reflection: bool = False
    """Whether the gateway answers `grpc.reflection` for its pods."""
    zone: str = ""
    """Where the gateway runs, as EndpointSlices name it; empty: unknown, and no pod is preferred for being near."""
    log_level: LogLevel = LogLevel.INFO


def cores() -> list[int]:
    """Processor numbers this process may run on: `--workers auto` starts one worker for each."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
