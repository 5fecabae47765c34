"""`grpcgw check`: the problems of a directory of YAML files, with file and line."""

from __future__ import annotations

from rich.text import Text

from grpcgw.cli.compiled_directory import PANEL, compile_directory
from grpcgw.cli.options import Directory, takes
from grpcgw.cli.output import open_stdout
from grpcgw.logs import count
from grpcgw.settings import CompileSettings


@takes(CompileSettings, PANEL)
def check(directory: Directory, settings: CompileSettings) -> int:
    """Report what is wrong with the YAML files of a directory, and with the certificate files they name.

    Each problem has its file and line. Exit code 1 when there are errors, 0 when there are none (notices do not count).
    """
    from grpcgw.model.objects import Severity

    compiled = compile_directory(directory, settings)
    errors = sum(problem.severity is Severity.ERROR for problem in compiled.problems)
    console = open_stdout()
    for problem in compiled.problems:
        style = "red" if problem.severity is Severity.ERROR else "yellow"
        console.print(Text(str(problem), style=style), soft_wrap=True)
    console.print(Text(f"{directory}: {compiled.summary}"), soft_wrap=True)
    console.print(f"{directory}: {count(errors, 'error')}, {count(len(compiled.problems) - errors, 'notice')}")
    return 1 if errors else 0
