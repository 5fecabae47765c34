"""`grpcgw version`: the versions of grpcgw and of what it runs on."""

from __future__ import annotations

import platform
from importlib.metadata import version as version_of

import typer

from grpcgw import __version__


def version() -> int:
    """Print the versions of grpcgw, grpcio and Python."""
    typer.echo(f"grpcgw {__version__} (grpcio {version_of('grpcio')}, Python {platform.python_version()})")
    return 0
