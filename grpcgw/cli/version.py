"""`grpcgw version`: the versions of grpcgw and of what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of
from pathlib import Path

import typer

from grpcgw import __version__
from grpcgw.session import session


def version() -> int:
    """Print the versions of grpcgw, of what its engines stand on (ngh2, grpcio), and of Python."""
    parts = (*(f"{name} {version_of(name)}" for name in ("ngh2", "grpcio")), f"Python {platform.python_version()}")
    built = ("compiled",) if is_compiled() else ()
    typer.echo(f"grpcgw {__version__} ({', '.join((*built, *parts))})")
    return 0


def is_compiled() -> bool:
    """Whether the modules on the path of an RPC are machine code (docs/decisions/040)."""
    return Path(session.__file__).suffix != ".py"
