"""`grpcgw version`: the versions of grpcgw and of what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import typer

from grpcgw import __version__


def version() -> int:
    """Print the versions of grpcgw, of what its engines stand on (ngh2, grpcio), and of Python."""
    parts = (*(f"{name} {version_of(name)}" for name in ("ngh2", "grpcio")), f"Python {platform.python_version()}")
    typer.echo(f"grpcgw {__version__} ({', '.join(parts)})")
    return 0
