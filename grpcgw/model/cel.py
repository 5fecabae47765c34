"""CEL expressions as conditions on RPCs, bounded in length and in loops.

The one place that knows the `cel` package; the compiler checks expressions with it and policies evaluate them. CEL has
neither recursion nor loops but its macros: with one macro at most, an evaluation costs in proportion to what a client
sends. The package is loaded with the first condition.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from grpcgw.errors import GrpcgwError

MAX_CHARACTERS = 2048
MAX_MACROS = 1
_SPACE = r"(?:\s|//[^\n]*(?:\n|$))*"
"""With comments."""
_MACRO = re.compile(rf"\.{_SPACE}(?:all|exists|exists_one|existsOne|filter|map){_SPACE}\({_SPACE}(\w*)")
"""With its loop variable. Also in a text literal: counted too often is safe."""
_FUNCTIONS = frozenset(
    {
        *("contains", "startsWith", "endsWith", "matches", "size"),
        *("bool", "bytes", "double", "int", "string", "uint", "dyn", "type", "duration", "timestamp"),
    }
)
_OPERATOR = re.compile(r"[_@!\-]")
"""Begins the name of an operator among the functions of a program: `_&&_`."""


class InvalidExpression(GrpcgwError):
    """The text is no CEL expression that can be used; the message says why."""


class NotEvaluated(GrpcgwError):
    """A condition gave no truth value for an RPC."""


class CelExpression:
    """A compiled expression."""

    __slots__ = ("_program", "variables")

    def __init__(self, expression: str, variables: Collection[str]) -> None:
        """`variables`: those that there are. Raises InvalidExpression."""
        from cel import compile as compile_expression

        _check_size(expression)
        try:
            self._program = compile_expression(expression)
        except ValueError as error:
            raise InvalidExpression(_reason(error)) from error
        named = set(self._program.variables()).difference(_MACRO.findall(expression))
        _check_names("variable", named, variables)
        called = {name for name in self._program.functions() if not _OPERATOR.match(name)}
        _check_names("function", called, _FUNCTIONS)
        self.variables = frozenset(named)
        """Those that it names."""

    def holds(self, values: Mapping[str, object]) -> bool:
        """`values`: of its variables. Raises NotEvaluated."""
        try:
            result = self._program.execute(dict(values))
        except Exception as error:  # the package raises several classes, by what went wrong in the expression
            raise NotEvaluated(f"{type(error).__name__}: {error}") from error
        if not isinstance(result, bool):
            raise NotEvaluated(f"it gives {type(result).__name__}, no truth value")
        return result


def _check_size(expression: str) -> None:
    if len(expression) > MAX_CHARACTERS:
        raise InvalidExpression(f"it has more than {MAX_CHARACTERS} characters")
    if len(_MACRO.findall(expression)) > MAX_MACROS:
        raise InvalidExpression("it has more than one of the macros all, exists, exists_one, filter and map")


def _check_names(what: str, names: Collection[str], known: Collection[str]) -> None:
    unknown = sorted(set(names).difference(known))
    if unknown:
        raise InvalidExpression(f"there is no {what} {unknown[0]}; there are {', '.join(sorted(known))}")


def _reason(error: Exception) -> str:
    """The line that says what is wrong."""
    found = re.search(r"ERROR: <input>:(.*)", str(error))
    return f"it cannot be read at line and column {found[1]}" if found else "it cannot be read"
