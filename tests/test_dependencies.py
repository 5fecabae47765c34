"""Every runtime dependency of pyproject.toml is imported somewhere in the package."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import files
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
DEPENDENCIES = [
    Requirement(line).name for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
]


@cache
def imported() -> frozenset[str]:
    return frozenset(list_imports())


def list_imports() -> Iterator[str]:
    for path in (ROOT / "grpcgw").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def list_modules(dependency: str) -> set[str]:
    """The dotted names of the modules that a distribution installs."""
    paths = [path for path in files(dependency) or () if path.suffix in (".py", ".so")]
    names = [".".join((*path.parts[:-1], path.name.split(".")[0])) for path in paths]
    return {name.removesuffix(".__init__") for name in names}


@pytest.mark.parametrize("dependency", sorted(DEPENDENCIES))
def test_dependency_is_imported(dependency: str) -> None:
    assert list_modules(dependency) & imported()
