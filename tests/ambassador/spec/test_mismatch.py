"""What is wrong with a value is said in grpcgw's words, for each rule that a resource has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from grpcgw.ambassador.spec.fields import Resource
from grpcgw.ambassador.spec.mismatch import UNEXPLAINED, describe_mismatch
from grpcgw.ambassador.spec.resources import MODELS

WRONG: tuple[object, ...] = (
    None,
    "",
    "\0",
    "x" * 10_000,
    True,
    -(2**70),
    0,
    2**70,
    0.5,
    math.nan,
    [],
    [[]],
    {},
    {"": []},
)
"""One of each JSON type, and the edges of each."""


def errors_of(annotation: object, value: object) -> list[ErrorDetails]:
    try:
        TypeAdapter(annotation).validate_python(value, strict=True)
    except ValidationError as refused:
        return refused.errors()
    return []


def models_below(base: type[BaseModel]) -> Iterator[type[BaseModel]]:
    for model in base.__subclasses__():
        yield model
        yield from models_below(model)


ALL_MODELS = {model.__name__: model for model in models_below(Resource)}
assert set(MODELS.values()) <= set(ALL_MODELS.values())


@pytest.mark.parametrize("name", sorted(ALL_MODELS))
def test_every_rule_of_every_field_has_words_of_our_own(name: str) -> None:
    model = ALL_MODELS[name]
    for field_name, field in model.model_fields.items():
        for value in WRONG:
            try:
                model.model_validate({field.alias or field_name: value})
            except ValidationError as refused:
                unexplained = [e for e in refused.errors() if UNEXPLAINED in describe_mismatch(e)]
                assert unexplained == [], "add the rule to _EXPECTATIONS"


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (str, 5, "should be a valid string, not 5"),
        (int, "5", "should be a valid integer, not '5'"),
        (bool, None, "should be a valid boolean, not null"),
        (list[str], {}, "should be a valid list, not {}"),
        (dict[str, str], [], "should be a valid object, not []"),
        (float, math.inf, "should be a finite number, not inf"),
        (Literal["a", "b", "c"], "d", "should be 'a', 'b' or 'c', not 'd'"),
        (Literal["a"], "d", "should be 'a', not 'd'"),
        (Annotated[int, Field(gt=1)], 1, "should be greater than 1, not 1"),
        (Annotated[int, Field(ge=1)], 0, "should be greater than or equal to 1, not 0"),
        (Annotated[int, Field(lt=1)], 1, "should be less than 1, not 1"),
        (Annotated[int, Field(le=1)], 2, "should be less than or equal to 1, not 2"),
        (Annotated[str, Field(min_length=1)], "", "should have at least 1 character, not ''"),
        (Annotated[str, Field(max_length=2)], "abc", "should have at most 2 characters, not 'abc'"),
        (Annotated[list[str], Field(min_length=2)], [], "should have at least 2 entries, not []"),
        (Annotated[list[str], Field(max_length=1)], ["a", "b"], "should have at most 1 entry, not ['a', 'b']"),
        (complex, "x" * 99, f"'{'x' * 56}... {UNEXPLAINED}"),
    ],
)
def test_a_rule_that_is_broken_is_named_with_the_value(
    annotation: type | UnionType, value: object, message: str
) -> None:
    if annotation is float:
        annotation = Annotated[float, Field(allow_inf_nan=False)]  # type: ignore[assignment]
    (error,) = errors_of(annotation, value)
    assert describe_mismatch(error) == message
