"""Output of the commands: a console for stdout, and errors as one line on stderr."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

PIPE_WIDTH = 200
"""Columns of a table that goes to a file or pipe, which has no width of its own."""


def open_stdout() -> Console:
    """Standard output: colours and the width of the window on a terminal only (rich respects NO_COLOR)."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)


def complain(message: str) -> None:
    """Print `message` as one line on stderr."""
    line = " ".join(message.split())
    Console(stderr=True).print(Text.assemble(("grpcgw: ", "bold red"), line), soft_wrap=True)
