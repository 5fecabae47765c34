"""The command line `grpcgw`: the list of commands, their errors and exit codes.

Decides nothing about the traffic. An error that a user can cause is one line on stderr, never a traceback. Commands
import the gateway when they run, so that `--help` and `version` answer at once.

Exit codes: 0 success, 1 failure (for `check`: errors found), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from grpcgw.cli.check import check
from grpcgw.cli.demo import demo
from grpcgw.cli.explain import explain
from grpcgw.cli.output import complain
from grpcgw.cli.routes import routes
from grpcgw.cli.run import run, start_gateway
from grpcgw.cli.version import version
from grpcgw.errors import UserError
from grpcgw.settings import Settings

commands = typer.Typer(
    name="grpcgw",
    help="A gRPC-native API gateway for Kubernetes: reads Ambassador's resources, balances every single RPC.",
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (run, check, routes, explain, demo, version):
    commands.command()(command)


def main() -> None:
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str], start: Callable[[Settings], int] = start_gateway) -> int:
    """Run one command line and return its exit code. Prints errors that a user can cause; raises defects.

    `start`: what `run` passes its settings to.
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
    """typer's words, without those that say how it found the error."""
    return error.format_message().removeprefix("Invalid value: ").replace("Invalid value for ", "")


def print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@commands.callback(invoke_without_command=True)
def show_help(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the versions and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)
