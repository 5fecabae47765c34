"""The flags of the commands: their environment variables, checks and help texts. Defaults are those of `Settings`.

Every flag of `grpcgw run` has a variable GRPCGW_…; where Ambassador has one of its own, that is read as well.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

from grpcgw.settings import AccessLogMode, EngineName, LogLevel, Scheduling, cores

SOURCE = "Where configuration and pods come from: one of --config and --kubernetes"
LISTEN = "Where to listen"
TRAFFIC = "Data plane"
JUDGED = "What the gateway would be run with"
AUTO_WORKERS = len(cores())
LONGEST_S = 86_400
"""A day: more than anybody waits for, and less than the clocks of grpc core overflow at."""
PREFIX = "GRPCGW_"
MOST_STREAMS = 2**31 - 1
MOST_BYTES = 2**31 - 1


def parse_port(text: str | int) -> int | None:
    """A port number, or None for `off`."""
    if text == "off":
        return None
    if str(text).startswith("tcp://"):
        raise typer.BadParameter(
            f"{text} is what Kubernetes tells pods of a Service of that name: say enableServiceLinks: false in the pod"
        )
    if not str(text).isdecimal() or int(text) > 65_535:
        raise typer.BadParameter(f"{text} is no port: say 0 to 65535 (0 takes a free one) or off")
    return int(text)


def parse_address(text: str) -> str:
    """An IP address, or a name that the system knows, `localhost` for one."""
    with contextlib.suppress(ValueError):
        return str(ip_address(text))
    try:
        if not any(letter.isalpha() for letter in text):  # the system would read 8080 as 0.0.31.144
            raise OSError("it is no name")
        socket.getaddrinfo(text, None, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(
            f"{text!r} is no IP address, and no name of this machine: say 0.0.0.0 or :: for all of its addresses,"
            " or one of them, such as 127.0.0.1"
        ) from error
    return text


def parse_workers(text: str | int) -> int:
    if text == "auto":
        return AUTO_WORKERS
    if not str(text).isdecimal():
        raise typer.BadParameter(f"{text} is no number of workers: say auto, or 0, 1, 2, …")
    return int(text)


def seconds(least: float) -> Callable[[str | float | None], float | None]:
    """A parser of seconds, `least` to a day."""

    def parse(text: str | float | None) -> float | None:
        try:
            value = None if text is None else float(text)
        except ValueError:
            value = math.nan
        if value is not None and not least <= value <= LONGEST_S:
            raise typer.BadParameter(f"{text} is no number of seconds from {least:g} to {LONGEST_S}")
        return value

    return parse


def parse_streams(text: str | int) -> int:
    if not str(text).isdecimal() or not 1 <= int(text) <= MOST_STREAMS:
        raise typer.BadParameter(f"{text} is no number of calls from 1 to {MOST_STREAMS}")
    return int(text)


def parse_message_bytes(text: str | int) -> int:
    if not str(text).isdecimal() or not 1 <= int(text) <= MOST_BYTES:
        raise typer.BadParameter(f"{text} is no number of bytes from 1 to {MOST_BYTES}")
    return int(text)


_SERVICE_LINK = re.compile(
    r"(_[A-Z0-9]+)*_(SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""What Kubernetes tells pods of Services called grpcgw or grpcgw-…, behind the prefix."""


def check_environment(environment: Mapping[str, str]) -> None:
    """A misspelt variable is wrong usage, as a misspelt flag is. Raises BadParameter."""
    known = sorted(name for name in _list_variables() if name.startswith(PREFIX))
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known or _is_service_link(name, environment[name]):
            continue
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "grpcgw run --help names those that are"
        raise typer.BadParameter(f"{name} is in the environment and is no variable of grpcgw: {hint}")


def _list_variables() -> Iterator[str]:
    """The environment variables of all flags."""
    for flag in globals().values():
        for note in getattr(flag, "__metadata__", ()):
            variables = getattr(note, "envvar", None) or ()
            yield from [variables] if isinstance(variables, str) else variables


def _is_service_link(name: str, value: str) -> bool:
    rest = name.removeprefix(PREFIX.removesuffix("_"))
    return _SERVICE_LINK.fullmatch(rest) is not None or (rest.endswith("_PORT") and "://" in value)


Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", exists=True, help="Directory of YAML files, read recursively, or one such file."),
]

Config = Annotated[
    Path | None,
    typer.Option(
        envvar="GRPCGW_CONFIG",
        exists=True,
        file_okay=False,
        metavar="DIR",
        help="Read the YAML files of this directory, and again when they change.",
        rich_help_panel=SOURCE,
    ),
]
Kubernetes = Annotated[
    bool,
    typer.Option(
        "--kubernetes", envvar="GRPCGW_KUBERNETES", help="Read a Kubernetes API server.", rich_help_panel=SOURCE
    ),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        envvar="GRPCGW_KUBECONFIG",
        exists=True,
        dir_okay=False,
        metavar="FILE",
        help="Which kubeconfig to use; without it the pod's service account, else the default kubeconfig.",
        rich_help_panel=SOURCE,
    ),
]
Context = Annotated[
    str | None,
    typer.Option(
        envvar="GRPCGW_CONTEXT",
        metavar="NAME",
        help="Which context of the kubeconfig; without it the current one.",
        rich_help_panel=SOURCE,
    ),
]
InCluster = Annotated[
    bool,
    typer.Option(
        "--in-cluster",
        envvar="GRPCGW_IN_CLUSTER",
        help="Use the pod's service account and nothing else.",
        rich_help_panel=SOURCE,
    ),
]


def _ambassador_id(panel: str) -> OptionInfo:
    option: OptionInfo = typer.Option(
        "--ambassador-id",
        envvar=["GRPCGW_AMBASSADOR_ID", "AMBASSADOR_ID"],
        help="Read only objects that carry this ambassador_id.",
        rich_help_panel=panel,
    )
    return option


def _ambassador_namespace(panel: str) -> OptionInfo:
    option: OptionInfo = typer.Option(
        "--ambassador-namespace",
        envvar=["GRPCGW_AMBASSADOR_NAMESPACE", "AMBASSADOR_NAMESPACE"],
        help="The gateway's own namespace.",
        rich_help_panel=panel,
    )
    return option


def _engine(panel: str) -> OptionInfo:
    option: OptionInfo = typer.Option(
        "--engine",
        envvar="GRPCGW_ENGINE",
        metavar="NAME",
        help="What carries the RPCs: completion-queue (fast) or generic-handler (grpcio's public API only).",
        rich_help_panel=panel,
    )
    return option


def _serve_without_auth(panel: str) -> OptionInfo:
    option: OptionInfo = typer.Option(
        "--serve-without-auth",
        envvar="GRPCGW_SERVE_WITHOUT_AUTH",
        help="Serve what an AuthService, FilterPolicy or RateLimit protects without them; else it is refused.",
        rich_help_panel=panel,
    )
    return option


AmbassadorId = Annotated[str, _ambassador_id(SOURCE)]
AmbassadorNamespace = Annotated[str, _ambassador_namespace(SOURCE)]
JudgedId = Annotated[str, _ambassador_id(JUDGED)]
JudgedNamespace = Annotated[str, _ambassador_namespace(JUDGED)]
JudgedWithoutAuth = Annotated[bool, _serve_without_auth(JUDGED)]
JudgedEngine = Annotated[EngineName, _engine(JUDGED)]
Namespace = Annotated[
    str,
    typer.Option(
        envvar="GRPCGW_NAMESPACE",
        help="Read only this namespace (the gateway's own where AMBASSADOR_SINGLE_NAMESPACE is set).",
        show_default="all",
        rich_help_panel=SOURCE,
    ),
]

ServeWithoutAuth = Annotated[bool, _serve_without_auth(SOURCE)]

Address = Annotated[
    str,
    typer.Option(
        envvar="GRPCGW_ADDRESS",
        parser=parse_address,
        metavar="ADDRESS",
        help="Address of the data ports.",
        rich_help_panel=LISTEN,
    ),
]
Port = Annotated[
    int | None,
    typer.Option(
        envvar="GRPCGW_PORT",
        parser=parse_port,
        metavar="PORT|off",
        help="Port for clear text (h2c); 0 takes a free one.",
        rich_help_panel=LISTEN,
    ),
]
TlsPort = Annotated[
    int | None,
    typer.Option(
        envvar="GRPCGW_TLS_PORT",
        parser=parse_port,
        metavar="PORT|off",
        help="Port for TLS; 0 takes a free one.",
        rich_help_panel=LISTEN,
    ),
]
AdminAddress = Annotated[
    str,
    typer.Option(
        envvar="GRPCGW_ADMIN_ADDRESS",
        parser=parse_address,
        metavar="ADDRESS",
        help="Address of the admin port. Its pages have no login: mind who can reach it.",
        rich_help_panel=LISTEN,
    ),
]
AdminHosts = Annotated[
    str,
    typer.Option(
        "--admin-host",
        envvar="GRPCGW_ADMIN_HOST",
        metavar="NAME,...",
        help="Names in the public DNS that browsers may call the admin port by, beside its IP addresses; "
        ".example.com is all that end so.",
        rich_help_panel=LISTEN,
    ),
]
NodeName = Annotated[
    str,
    typer.Option(
        "--node-name",
        envvar="GRPCGW_NODE_NAME",
        metavar="NAME",
        help="The machine's name: browsers may call the admin port by it, and by others in its domain.",
        show_default="host name",
        rich_help_panel=LISTEN,
    ),
]
AdminPort = Annotated[
    int,
    typer.Option(
        envvar="GRPCGW_ADMIN_PORT",
        min=0,
        max=65_535,
        metavar="PORT",
        help="Port of the diagnostics page, the probes and the metrics; 0 takes a free one.",
        rich_help_panel=LISTEN,
    ),
]

Workers = Annotated[
    int,
    typer.Option(
        envvar="GRPCGW_WORKERS",
        parser=parse_workers,
        metavar="N|auto",
        help="Worker processes: auto is one per core, 0 serves inside the control process.",
        show_default="auto",
        rich_help_panel=TRAFFIC,
    ),
]
Engine = Annotated[EngineName, _engine(TRAFFIC)]
SchedulingName = Annotated[
    Scheduling,
    typer.Option(
        "--scheduling",
        envvar="GRPCGW_SCHEDULING",
        metavar="NAME",
        help="Of workers' threads: batch (less CPU per RPC) or normal (sooner awake on a machine without idle cores).",
        rich_help_panel=TRAFFIC,
    ),
]
DrainTime = Annotated[
    float,
    typer.Option(
        envvar=["GRPCGW_DRAIN_TIME", "AMBASSADOR_DRAIN_TIME"],
        parser=seconds(0),
        metavar="SECONDS",
        help="How long running RPCs may go on after SIGTERM, and on a pod that left.",
        rich_help_panel=TRAFFIC,
    ),
]
MaxConcurrentStreams = Annotated[
    int,
    typer.Option(
        envvar="GRPCGW_MAX_CONCURRENT_STREAMS",
        parser=parse_streams,
        metavar="N",
        help="Open RPCs a client connection may have; more are held back.",
        rich_help_panel=TRAFFIC,
    ),
]
MaxMessageBytes = Annotated[
    int,
    typer.Option(
        envvar="GRPCGW_MAX_MESSAGE_BYTES",
        parser=parse_message_bytes,
        metavar="N",
        help="Largest message of a client, uncompressed, of Listeners that do not say themselves.",
        rich_help_panel=TRAFFIC,
    ),
]
MaxConnectionAge = Annotated[
    float | None,
    typer.Option(
        envvar="GRPCGW_MAX_CONNECTION_AGE",
        parser=seconds(0.1),
        metavar="SECONDS",
        help="Send clients away to connect anew after so long, give or take a tenth.",
        show_default="never",
        rich_help_panel=TRAFFIC,
    ),
]
MaxConnectionAgeGrace = Annotated[
    float | None,
    typer.Option(
        envvar="GRPCGW_MAX_CONNECTION_AGE_GRACE",
        parser=seconds(0),
        metavar="SECONDS",
        help="How long RPCs may go on on a connection of that age before they are cut off.",
        show_default="for ever",
        rich_help_panel=TRAFFIC,
    ),
]
AccessLog = Annotated[
    AccessLogMode,
    typer.Option(
        envvar="GRPCGW_ACCESS_LOG",
        metavar="off|json|text",
        help="One line per RPC on stdout.",
        rich_help_panel=TRAFFIC,
    ),
]
AccessLogSample = Annotated[
    float,
    typer.Option(
        envvar="GRPCGW_ACCESS_LOG_SAMPLE",
        min=0,
        max=100,
        metavar="PERCENT",
        help="Share of the RPCs in the access log; a Mapping may have its own.",
        rich_help_panel=TRAFFIC,
    ),
]
Reflection = Annotated[
    bool,
    typer.Option(
        "--reflection",
        envvar="GRPCGW_REFLECTION",
        help="Answer grpc.reflection for the pods, from what they tell of themselves.",
        rich_help_panel=TRAFFIC,
    ),
]
Zone = Annotated[
    str,
    typer.Option(
        envvar="GRPCGW_ZONE",
        metavar="NAME",
        help="The zone the gateway runs in, for Mappings with prefer_same_zone.",
        show_default="unknown",
        rich_help_panel=TRAFFIC,
    ),
]
Log = Annotated[LogLevel, typer.Option("--log-level", envvar="GRPCGW_LOG_LEVEL", help="How much to log.")]
