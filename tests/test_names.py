"""A name means one thing in the whole package: no two public classes, and no two modules, of one name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePath

import pytest

PACKAGE = Path(__file__).parents[1] / "grpcgw"

SAME_PART = {
    "contract.py": "the contract of whatever its package has several of",
}
"""Modules of one name that mean the same in each place."""

ENGINES = {"engines/generic_handler", "engines/http2"}
"""Implementations of the same parts: a class or module has the same name and meaning in each."""


def meaning(module: PurePath) -> str:
    """Equal for modules that may share names: the same part of two engines, or `model/NAME.py` and a dialect's
    `compile/NAME.py`, which makes the values of it."""
    folder = module.parent.as_posix()
    if folder in ENGINES:
        return f"engines/{module.name}"
    return f"model/{module.name}" if folder.endswith("/compile") else str(module)


def find_shared(named: Iterable[tuple[str, PurePath]]) -> dict[str, list[str]]:
    modules: defaultdict[str, list[PurePath]] = defaultdict(list)
    for name, module in named:
        modules[name].append(module)
    return {
        name: sorted(map(str, places))
        for name, places in modules.items()
        if len(places) > 1 and len({meaning(place) for place in places}) > 1
    }


def modules() -> list[PurePath]:
    return [path.relative_to(PACKAGE) for path in sorted(PACKAGE.rglob("*.py"))]


def classes() -> list[tuple[str, PurePath]]:
    return [
        (node.name, module)
        for module in modules()
        for node in ast.walk(ast.parse((PACKAGE / module).read_text()))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def test_no_class_name_means_two_things() -> None:
    assert find_shared(classes()) == {}


def test_no_file_name_means_two_things() -> None:
    names = ((module.name, module) for module in modules() if module.name not in {"__init__.py", *SAME_PART})
    assert find_shared(names) == {}


@pytest.mark.parametrize("name", SAME_PART)
def test_what_may_share_a_name_does(name: str) -> None:
    assert sum(module.name == name for module in modules()) > 1


def test_two_engines_and_a_dialects_compiler_may_share_names_and_others_not() -> None:
    one, other = PurePath("engines/http2/port.py"), PurePath("engines/generic_handler/port.py")
    assert find_shared([("Port", one), ("Port", other)]) == {}
    assert find_shared([("x", PurePath("model/x.py")), ("x", PurePath("ambassador/compile/x.py"))]) == {}
    assert find_shared([("Port", one), ("Port", PurePath("listeners/port.py"))]) != {}
    assert find_shared([("x", PurePath("model/x.py")), ("x", PurePath("policy/x.py"))]) != {}
    assert find_shared([("X", PurePath("model/x.py")), ("X", PurePath("model/y.py"))]) != {}
