"""Building blocks of the typed resources: their base class, the note on each field, and shared field types.

The support of a field is data (`FieldNote`), from which both the notices and docs/ambassador.md are made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from grpcgw.ambassador.spec.durations import DURATION, InvalidDuration, parse_duration_ms


class State(StrEnum):
    SUPPORTED = "supported"
    PLANNED = "planned"
    """Accepted; has no effect yet, and a notice says so."""
    HTTP_ONLY = "HTTP only"
    NO_MEANING = "no meaning"


@dataclass(frozen=True, slots=True)
class FieldNote:
    """What a field does, for the operator and the documentation.

    `neutral`: values that match grpcgw's behaviour anyway; they, null, false and empty values cause no notice.
    """

    state: State
    meaning: str
    neutral: tuple[object, ...] = ()

    def is_neutral(self, value: object) -> bool:
        return not value or value in self.neutral

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """For the CRDs, where `kubectl explain` shows it."""
        state = "" if self.state is State.SUPPORTED else f"{self.state[0].upper()}{self.state[1:]}: "
        return {**handler(core), "description": state + self.meaning}


@dataclass(frozen=True, slots=True)
class Shape:
    """The type of a field in the CRDs, if the model accepts anything and checks its parts separately."""

    type: Any

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        adapter: TypeAdapter[object] = TypeAdapter(self.type)
        return handler(adapter.core_schema)


def rules(*rules: tuple[str, str]) -> ConfigDict:
    """Of a model: CEL rules for the CRDs (`self` is the object) with their messages, for conditions on several fields.
    The rules hold for everything that the model accepts: they may require less than its validators, never more.
    """
    validations = [{"rule": rule, "message": message} for rule, message in rules]
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": validations})  # type: ignore[dict-item]


def _noter(state: State) -> Callable[..., FieldNote]:
    def note(meaning: str, *neutral: object) -> FieldNote:
        return FieldNote(state, meaning, neutral)

    return note


served = _noter(State.SUPPORTED)
planned = _noter(State.PLANNED)
http_only = _noter(State.HTTP_ONLY)
no_meaning = _noter(State.NO_MEANING)


class Resource(BaseModel):
    """Base of all models: unknown fields are errors, `"1"` is no number and `1` no boolean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def as_choices(value: object) -> object:
    """`a,b` and `[a, b]` are the same."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _check_duration(text: str) -> str:
    try:
        parse_duration_ms(text)
    except InvalidDuration as error:
        raise ValueError(str(error)) from error
    return text


def _check_file_path(path: str) -> str:
    if path and not (path.startswith("/") and path.isprintable()):
        raise ValueError(f"{path[:60]!r} should be the absolute path of a file on the gateway's disk")
    return path


StringOrList = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
Text = Annotated[str, Field(min_length=1)]
Milliseconds = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveMilliseconds = Annotated[int, Field(ge=1, le=2**31 - 1)]
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
PositiveCount = Annotated[int, Field(ge=1, le=2**31 - 1)]
Percent = Annotated[int, Field(ge=0, le=100)]
Duration = Annotated[str, AfterValidator(_check_duration), WithJsonSchema({"type": "string", "pattern": DURATION})]
"""`1s`, `1500ms`, `1m30s`."""
FilePath = Annotated[str, AfterValidator(_check_file_path)]
"""Absolute, in printable characters; empty: none."""
Table = dict[str, object]
Anything = object
"""For fields without effect, and for those whose parts are checked one by one."""


class AmbassadorSelectorSpec(Resource):
    ambassadorIds: list[str] | None = None  # noqa: N815


AmbassadorSelector = Annotated[
    AmbassadorSelectorSpec | None,
    served("`ambassadorIds`: stands for `ambassador_id`, in `gateway.getambassador.io/v1alpha1`"),
]
AmbassadorId = Annotated[
    StringOrList | None,
    served("which gateways own the object (`--ambassador-id`); default `default`; `_automatic_` is owned by all"),
]
