"""The commands of `grpcgw`: arguments and environment in, a call into the gateway, exit code out.

Decides nothing about the traffic. What a user can cause ends as one line on stderr, never as a traceback. The gateway
is imported inside the commands, so that `--help` and `version` answer at once.

Exit codes: 0 well, 1 failed (for `check`: errors found), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.exceptions import TyperException

from grpcgw import __version__
from grpcgw.cli import options
from grpcgw.errors import UserError
from grpcgw.logs import count
from grpcgw.settings import EngineName, KubernetesSettings, Settings

if TYPE_CHECKING:
    from grpcgw.model.cluster import Cluster
    from grpcgw.model.objects import Problem
    from grpcgw.model.route import Destination, Route
    from grpcgw.model.snapshot import Snapshot

DEFAULTS = Settings()
PIPE_WIDTH = 200
"""Columns of a table that goes to a file or pipe, where there is no terminal to ask."""

commands = typer.Typer(
    name="grpcgw",
    help="A gRPC-native API gateway for Kubernetes: reads Ambassador's resources, balances every single RPC.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    sys.exit(execute(sys.argv[1:]))


def start_gateway(settings: Settings) -> int:
    import grpcgw.control.control

    return grpcgw.control.control.run(settings)


def execute(arguments: Sequence[str], start: Callable[[Settings], int] = start_gateway) -> int:
    """Run one command line and return its exit code. Errors a user can cause are printed, defects are raised.

    `start` is what `run` hands its settings to.
    """
    try:
        return int(commands(list(arguments), prog_name="grpcgw", standalone_mode=False, obj=start) or 0)
    except TyperException as error:
        complain(explain_usage(error))
        return error.exit_code
    except typer.Abort:
        return 130
    except (UserError, OSError) as error:
        complain(str(error))
        return 1


def explain_usage(error: TyperException) -> str:
    """typer's words, without what only says how it found out, and with several variables as a reader lists them."""
    variables = getattr(getattr(error, "param", None), "envvar", None)
    message = error.format_message().removeprefix("Invalid value: ").replace(": Value error, ", ": ")
    return message.replace(f"'{variables}'", ", ".join(variables)) if isinstance(variables, list) else message


def complain(message: str) -> None:
    line = " ".join(message.split())
    Console(stderr=True).print(Text.assemble(("grpcgw: ", "bold red"), line), soft_wrap=True)


def output() -> Console:
    """Standard output: colours and the width of the window on a terminal only (NO_COLOR is respected by rich)."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@commands.callback(invoke_without_command=True)
def explain(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the versions and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


# ---- run ----


@commands.command()
def run(
    caller: typer.Context,
    config: options.Config = None,
    kubernetes: options.Kubernetes = False,
    kubeconfig: options.Kubeconfig = None,
    context: options.Context = None,
    in_cluster: options.InCluster = False,
    ambassador_id: options.AmbassadorId = DEFAULTS.ambassador_id,
    ambassador_namespace: options.AmbassadorNamespace = DEFAULTS.ambassador_namespace,
    namespace: options.Namespace = DEFAULTS.namespace,
    serve_without_auth: options.ServeWithoutAuth = DEFAULTS.serve_without_auth,
    address: options.Address = DEFAULTS.address,
    port: options.Port = DEFAULTS.port,
    tls_port: options.TlsPort = DEFAULTS.tls_port,
    admin_address: options.AdminAddress = DEFAULTS.admin_address,
    admin_port: options.AdminPort = DEFAULTS.admin_port,
    admin_host: options.AdminHosts = "",
    node_name: options.NodeName = DEFAULTS.node_name,
    workers: options.Workers = options.AUTO_WORKERS,
    engine: options.Engine = DEFAULTS.engine,
    scheduling: options.SchedulingName = DEFAULTS.scheduling,
    drain_time: options.DrainTime = DEFAULTS.drain_time_s,
    max_concurrent_streams: options.MaxConcurrentStreams = DEFAULTS.max_concurrent_streams,
    max_message_bytes: options.MaxMessageBytes = DEFAULTS.max_message_bytes,
    max_connection_age: options.MaxConnectionAge = DEFAULTS.max_connection_age_s,
    max_connection_age_grace: options.MaxConnectionAgeGrace = DEFAULTS.max_connection_age_grace_s,
    access_log: options.AccessLog = DEFAULTS.access_log,
    access_log_sample: options.AccessLogSample = DEFAULTS.access_log_sample_percent,
    reflection: options.Reflection = DEFAULTS.reflection,
    zone: options.Zone = DEFAULTS.zone,
    log_level: options.Log = DEFAULTS.log_level,
) -> int:
    """Run the gateway until SIGTERM or Ctrl-C."""
    options.check_environment(os.environ)
    settings = Settings(
        config_dir=config,
        kubernetes=choose_api_server(config, kubernetes, KubernetesSettings(kubeconfig, context, in_cluster)),
        ambassador_id=ambassador_id,
        ambassador_namespace=ambassador_namespace,
        namespace=namespace or (ambassador_namespace if os.environ.get("AMBASSADOR_SINGLE_NAMESPACE") else ""),
        serve_without_auth=serve_without_auth,
        address=address,
        port=port,
        tls_port=tls_port,
        admin_address=admin_address,
        admin_port=admin_port,
        admin_hosts=tuple(name for name in admin_host.split(",") if name.strip()),
        node_name=node_name,
        workers=workers,
        engine=engine,
        scheduling=scheduling,
        drain_time_s=drain_time,
        max_concurrent_streams=max_concurrent_streams,
        max_message_bytes=max_message_bytes,
        max_connection_age_s=max_connection_age,
        max_connection_age_grace_s=max_connection_age_grace,
        access_log=access_log,
        access_log_sample_percent=access_log_sample,
        reflection=reflection,
        zone=zone,
        log_level=log_level,
    )
    return int(caller.obj(settings))


def choose_api_server(config: Path | None, wanted: bool, settings: KubernetesSettings) -> KubernetesSettings | None:
    """The API server to read, or None for a directory. Raises a usage error for what cannot be meant."""
    if (config is not None) == wanted:
        raise typer.BadParameter("say where configuration comes from: either --config DIR or --kubernetes")
    if not wanted and settings != KubernetesSettings():
        raise typer.BadParameter("--kubeconfig, --context and --in-cluster need --kubernetes")
    if settings.in_cluster and (settings.kubeconfig or settings.context):
        raise typer.BadParameter("--in-cluster uses the pod's service account: leave out --kubeconfig and --context")
    return settings if wanted else None


# ---- check and routes ----


def compile_directory(
    directory: Path, ambassador_id: str, ambassador_namespace: str, engine: EngineName, serve_without_auth: bool
) -> tuple[Snapshot, list[Problem], str]:
    """What a gateway with these settings would serve from `directory`, everything to say against its files, and what
    of them was read."""
    from grpcgw.ambassador.objects import make_dialect_objects
    from grpcgw.control.dead_routes import find_dead_in_files
    from grpcgw.control.dialects import compile_snapshot
    from grpcgw.discovery.sources.certificate_files import read_certificate_files
    from grpcgw.discovery.sources.directory import read_directory
    from grpcgw.discovery.sources.directory_files import list_files, list_other_files
    from grpcgw.discovery.sources.object_counts import count_objects, describe_counts, find_missing_configuration
    from grpcgw.discovery.sources.yaml_objects import ObjectReader
    from grpcgw.model.route_source import CompileOptions

    options.check_environment(os.environ)
    dialect = make_dialect_objects(ambassador_id)
    objects, problems = read_directory(directory, ObjectReader(dialect, os.environ))
    files = read_certificate_files(objects, dialect)
    compile_options = CompileOptions(
        gateway_id=ambassador_id,
        gateway_namespace=ambassador_namespace,
        now=datetime.now(UTC),
        environment=os.environ,
        authority_hidden_by="" if engine.shows_authority else engine,
        serve_without_auth=serve_without_auth,
    )
    compiled = compile_snapshot([*objects, *files], {}, compile_options)
    dead = find_dead_in_files(compiled.snapshot, objects, compiled.last_good, str(directory))
    counts, number = count_objects(objects, dialect), len(list_files(directory)[0])
    nothing = find_missing_configuration(counts, number, str(directory))
    every = [*problems, *compiled.problems, *dead, *([nothing] if nothing else [])]
    return compiled.snapshot, every, describe_counts(counts, number, list_other_files(directory))


@commands.command()
def check(
    directory: options.Directory,
    ambassador_id: options.JudgedId = DEFAULTS.ambassador_id,
    ambassador_namespace: options.JudgedNamespace = DEFAULTS.ambassador_namespace,
    engine: options.JudgedEngine = DEFAULTS.engine,
    serve_without_auth: options.JudgedWithoutAuth = DEFAULTS.serve_without_auth,
) -> int:
    """Say what is wrong with the YAML files of a directory, and the certificate files they name, with file and line.

    Exit code 1 when there are errors, 0 when there are none (notices do not count).
    """
    from grpcgw.model.objects import Severity

    _, problems, summary = compile_directory(directory, ambassador_id, ambassador_namespace, engine, serve_without_auth)
    errors = sum(problem.severity is Severity.ERROR for problem in problems)
    console = output()
    for problem in problems:
        style = "red" if problem.severity is Severity.ERROR else "yellow"
        console.print(Text(str(problem), style=style), soft_wrap=True)
    console.print(Text(f"{directory}: {summary}"), soft_wrap=True)
    console.print(f"{directory}: {count(errors, 'error')}, {count(len(problems) - errors, 'notice')}")
    return 1 if errors else 0


@commands.command()
def routes(
    directory: options.Directory,
    ambassador_id: options.JudgedId = DEFAULTS.ambassador_id,
    ambassador_namespace: options.JudgedNamespace = DEFAULTS.ambassador_namespace,
    engine: options.JudgedEngine = DEFAULTS.engine,
    serve_without_auth: options.JudgedWithoutAuth = DEFAULTS.serve_without_auth,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Show the route table compiled from a directory, in the order it is tried."""
    snapshot, problems, _ = compile_directory(
        directory, ambassador_id, ambassador_namespace, engine, serve_without_auth
    )
    rows = list(describe_routes(snapshot))
    if as_json:
        typer.echo(json.dumps({"version": snapshot.version, "routes": rows}, indent=2))
    else:
        output().print(draw_table(rows), f"version {snapshot.version}")
    if problems:
        complain(f"{count(len(problems), 'problem')} found: see `grpcgw check {directory}`")
    return 0


Row = dict[str, str | int | list[str] | None]


def describe_routes(snapshot: Snapshot) -> Iterator[Row]:
    from grpcgw.model.reach import Reach

    reach = Reach(snapshot)
    for order, route in enumerate(snapshot.routes, 1):
        matching = describe_matching(order, route)
        for destination in route.all_destinations():
            row = describe_destination(route, destination, snapshot.clusters[destination.cluster])
            yield {**matching, **row, "refused": reach.find_refusal(route, destination)}
        if route.redirect:
            yield {**matching, "mapping": route.redirect, "refused": "gRPC clients follow no redirect"}


def describe_matching(order: int, route: Route) -> Row:
    from grpcgw.admin.describe import describe_conditions

    return {
        "order": order,
        "kind": route.match.kind.value,
        "path": route.match.value,
        "conditions": list(describe_conditions(route)),
        "precedence": route.precedence,
    }


def describe_destination(route: Route, destination: Destination, cluster: Cluster) -> Row:
    from grpcgw.admin.describe import describe_balancing

    return {
        "mapping": destination.label,
        "shadow": destination is route.shadow,
        "weight_percent": destination.weight_percent,
        "service": str(cluster.service),
        "resolver": cluster.resolver_name,
        "load_balancer": describe_balancing(destination.load_balancer),
        "rewrite": destination.rewrite,
        "timeout_ms": destination.timeout_ms,
        "idle_timeout_ms": destination.idle_timeout_ms,
        "where": destination.where,
    }


def draw_table(rows: Sequence[Row]) -> Table:
    """One line per Mapping; what is the same everywhere or rarely set is left to --json."""
    conditions = ("conditions",) if any(row["conditions"] for row in rows) else ()
    shadow = ("shadow",) if any(row.get("shadow") for row in rows) else ()
    refused = ("refused",) if any(row["refused"] for row in rows) else ()
    columns = (
        *("order", "kind", "path", *conditions, "mapping", *shadow, "weight_percent", "service", "resolver"),
        "load_balancer",
        *refused,
        "where",
    )
    table = Table(*(column.replace("_percent", " %").replace("_", " ") for column in columns), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(_show_cell(row.get(column, ""))) for column in columns))
    return table


def _show_cell(value: str | int | list[str] | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return ", ".join(value) if isinstance(value, list) else str(value)


# ---- demo and version ----


@commands.command()
def demo(
    calls: Annotated[int, typer.Option(min=4, help="Calls per client.")] = 6,
    keep: Annotated[bool, typer.Option("--keep", help="Stay up for a look at the diagnostics page.")] = False,
) -> int:
    """Run the main job here, without Kubernetes: two pods, the gateway, both clients in clear and over TLS.

    Exit code 0 only if the pods took strict turns. Needs a checkout of the project.
    """
    from grpcgw.cli.demo import run_demo

    return run_demo(output(), calls, keep)


@commands.command()
def version() -> int:
    """Print the versions of grpcgw and of what it stands on."""
    typer.echo(f"grpcgw {__version__} (grpcio {version_of('grpcio')}, Python {platform.python_version()})")
    return 0
