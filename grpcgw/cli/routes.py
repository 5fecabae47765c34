"""`grpcgw routes`: the route table of a directory of YAML files, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from grpcgw.cli.compiled_directory import PANEL, compile_directory
from grpcgw.cli.options import Directory, takes
from grpcgw.cli.output import complain, open_stdout
from grpcgw.logs import count
from grpcgw.settings import CompileSettings

if TYPE_CHECKING:  # loaded when a directory is compiled, not for --help
    from grpcgw.model.cluster import Cluster
    from grpcgw.model.route import Destination, Route, WeightedCluster
    from grpcgw.model.snapshot import Snapshot


@takes(CompileSettings, PANEL)
def routes(
    directory: Directory,
    settings: CompileSettings,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> int:
    """Show the route table compiled from a directory, in the order the gateway tries the routes."""
    compiled = compile_directory(directory, settings)
    rows = list(describe_routes(compiled.snapshot))
    if as_json:
        typer.echo(json.dumps({"version": compiled.snapshot.version, "routes": rows}, indent=2))
    else:
        open_stdout().print(draw_table(rows), f"version {compiled.snapshot.version}")
    if compiled.problems:
        complain(f"{count(len(compiled.problems), 'problem')} found: see `grpcgw check {directory}`")
    return 0


Row = dict[str, str | float | list[str] | None]


def describe_routes(snapshot: Snapshot) -> Iterator[Row]:
    from grpcgw.model.reach import Reach

    reach = Reach(snapshot)
    for order, route in enumerate(snapshot.routes, 1):
        matching = describe_matching(order, route)
        for destination in route.all_destinations():
            for one in destination.clusters:
                row = describe_destination(route, destination, one, snapshot.clusters[one.cluster])
                yield {**matching, **row, "refused": reach.find_refusal(route, destination)}
        if route.redirect:
            yield {**matching, "mapping": route.redirect, "refused": "gRPC clients do not follow redirects"}
        if route.left_out:
            yield {**matching, "mapping": "", "refused": route.left_out}


def describe_matching(order: int, route: Route) -> Row:
    from grpcgw.admin.describe import describe_conditions

    return {
        "order": order,
        "kind": route.match.kind.value,
        "path": route.match.value,
        "conditions": list(describe_conditions(route)),
        "precedence": route.precedence,
    }


def describe_destination(route: Route, destination: Destination, weighted: WeightedCluster, cluster: Cluster) -> Row:
    from grpcgw.admin.describe import describe_balancing

    return {
        "mapping": destination.label,
        "shadow": destination is route.shadow,
        "weight_percent": route.percent_of(destination, weighted),
        "service": str(cluster.service),
        "resolver": cluster.resolver_name,
        "load_balancer": describe_balancing(destination.balancing.load_balancer),
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


def _show_cell(value: str | float | list[str] | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return ", ".join(value) if isinstance(value, list) else str(value)
