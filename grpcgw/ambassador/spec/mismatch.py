"""Error messages for invalid values: pydantic says which rule was broken, this module writes the text.

A message is thus the same with every version of pydantic, without words like `Value error`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from pydantic_core import ErrorDetails

Context = Mapping[str, object]

_SECRETS = frozenset(
    {
        *("headers", "regex_headers", "add_request_headers", "add_response_headers", "add_auth_headers"),
        *("data", "stringData", "APIKey", "apikey"),
    }
)
"""Fields whose values may be secrets, and are not shown."""

UNEXPLAINED = "cannot be used here"

_EXPECTATIONS: Mapping[str, Callable[[Context], str]] = {
    "string_type": lambda _: "should be a valid string",
    "int_type": lambda _: "should be a valid integer",
    "float_type": lambda _: "should be a valid number",
    "finite_number": lambda _: "should be a finite number",
    "bool_type": lambda _: "should be a valid boolean",
    "list_type": lambda _: "should be a valid list",
    "dict_type": lambda _: "should be a valid object",
    "model_type": lambda _: "should be an object of fields",
    "literal_error": lambda context: f"should be {_either(str(context['expected']))}",
    "greater_than": lambda context: f"should be greater than {context['gt']}",
    "greater_than_equal": lambda context: f"should be greater than or equal to {context['ge']}",
    "less_than": lambda context: f"should be less than {context['lt']}",
    "less_than_equal": lambda context: f"should be less than or equal to {context['le']}",
    "string_too_short": lambda context: f"should have at least {_count(context['min_length'], 'character')}",
    "string_too_long": lambda context: f"should have at most {_count(context['max_length'], 'character')}",
    "too_short": lambda context: f"should have at least {_count(context['min_length'], 'entry')}",
    "too_long": lambda context: f"should have at most {_count(context['max_length'], 'entry')}",
}
"""By pydantic's name of the rule (https://docs.pydantic.dev/latest/errors/validation_errors/)."""


def describe_mismatch(detail: ErrorDetails) -> str:
    """What the value should be. The text of a validator's own ValueError is used as it is."""
    context: Context = detail.get("ctx", {})
    if detail["type"] == "missing":
        return "is required"
    if detail["type"] == "extra_forbidden":
        return "is an unknown field"
    if detail["type"] == "value_error":
        return str(context["error"])
    expectation = _EXPECTATIONS.get(detail["type"])
    if not _SECRETS.isdisjoint(detail["loc"]):
        return expectation(context) if expectation else f"the value {UNEXPLAINED}"
    shown = show(detail["input"])
    return f"{expectation(context)}, not {shown}" if expectation else f"{shown} {UNEXPLAINED}"


def show(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _either(expected: str) -> str:
    """`'a', 'b' or 'c'`, however pydantic joins them."""
    values = re.findall(r"'[^']*'", expected)
    return f"{', '.join(values[:-1])} or {values[-1]}" if len(values) > 1 else expected


def _count(number: object, thing: str) -> str:
    if number == 1:
        return f"1 {thing}"
    return f"{number} {thing.removesuffix('y')}ies" if thing.endswith("y") else f"{number} {thing}s"
