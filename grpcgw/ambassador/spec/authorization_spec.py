"""AuthorizationPolicy (`grpcgw.io/v1alpha1`) as a typed model: rules of who may call what, as Envoy's RBAC has them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from grpcgw.ambassador.spec.fields import AmbassadorId, Resource, StringOrList, Table, Text, served
from grpcgw.model.authorization import TextKind

# ruff: noqa: N815 (names as in Kubernetes)


class SelectorSpec(Resource):
    matchLabels: dict[str, str] | None = None
    hosts: list[Text] | None = None
    paths: list[Text] | None = None
    allNamespaces: bool | None = None


def read_selector(given: object) -> SelectorSpec | None:
    """Of an object with an error; None: it cannot be read."""
    try:
        return SelectorSpec.model_validate(given)
    except ValidationError:
        return None


class TextSpec(Resource):
    exact: str | None = None
    prefix: str | None = None
    suffix: str | None = None
    contains: str | None = None
    regex: Text | None = None
    glob: Text | None = None
    ignoreCase: bool | None = None

    @model_validator(mode="after")
    def _check_one(self) -> TextSpec:
        if sum(getattr(self, kind) is not None for kind in TextKind) != 1:
            raise ValueError(f"exactly one of {', '.join(TextKind)} is required")
        return self

    @property
    def kind(self) -> TextKind:
        return next(kind for kind in TextKind if getattr(self, kind) is not None)

    @property
    def value(self) -> str:
        value = getattr(self, self.kind)
        assert isinstance(value, str)
        return value


def _read_texts(value: object) -> object:
    return [_read_text(one) for one in (value if isinstance(value, list) else [value])]


def _read_text(value: object) -> object:
    """`text`, `prefix*`, `*suffix`, or `*` for any text."""
    if not isinstance(value, str):
        return value
    if "*" in value.removesuffix("*").removeprefix("*"):
        raise ValueError(
            f"{value[:60]!r} has a '*' inside; write {{glob: …}}, or {{exact: …}} for the character itself"
        )
    if value.endswith("*"):
        kind, text = ("contains", value[1:-1]) if value.startswith("*") and len(value) > 1 else ("prefix", value[:-1])
        return {kind: text}
    return {"suffix": value[1:]} if value.startswith("*") else {"exact": value}


Texts = Annotated[list[TextSpec], BeforeValidator(_read_texts), Field(min_length=1)]


class NamedTextsSpec(Resource):
    """A header or a claim."""

    name: Text
    value: Texts | None = None


class MatcherSpec(Resource):
    """All of its fields must hold."""

    all: Annotated[list[MatcherSpec], Field(min_length=1)] | None = None
    any: Annotated[list[MatcherSpec], Field(min_length=1)] | None = None
    not_: Annotated[MatcherSpec | None, Field(alias="not")] = None
    method: Texts | None = None
    host: Texts | None = None
    header: NamedTextsSpec | None = None
    address: Annotated[StringOrList, Field(min_length=1)] | None = None
    peerAddress: Annotated[StringOrList, Field(min_length=1)] | None = None
    certificate: Literal[True] | None = None
    uri: Texts | None = None
    dns: Texts | None = None
    subject: Texts | None = None
    claim: NamedTextsSpec | None = None

    @model_validator(mode="after")
    def _check_some(self) -> MatcherSpec:
        if not self.model_fields_set or all(getattr(self, name) is None for name in self.model_fields_set):
            raise ValueError("says nothing of calls; to match all of them, write {method: '*'}")
        return self


class AuthorizationRuleSpec(Resource):
    name: Annotated[Text, Field(max_length=64)] | None = None
    permissions: Annotated[list[Table], Field(min_length=1)] | None = None
    principals: Annotated[list[Table], Field(min_length=1)] | None = None
    condition: Text | None = None

    @model_validator(mode="after")
    def _check_some(self) -> AuthorizationRuleSpec:
        if self.permissions is None and self.principals is None and self.condition is None:
            raise ValueError("one of permissions, principals and condition is required")
        return self


class AuthorizationPolicySpec(Resource):
    ambassador_id: AmbassadorId = None
    action: Annotated[
        Literal["ALLOW", "DENY", "LOG"] | None,
        served(
            "`ALLOW` (default): calls that no rule matches are refused; `DENY`: calls that a rule matches are; `LOG`:"
            " calls that a rule matches are in the access log, and none is refused"
        ),
    ] = None
    selector: Annotated[
        SelectorSpec | None,
        served(
            "the Mappings: `matchLabels`, `allNamespaces` (default: those of its own namespace), and of their calls"
            " those with one of `hosts` and one of `paths` (globs); default: all of its namespace"
        ),
    ] = None
    rules: Annotated[
        list[AuthorizationRuleSpec],
        served(
            "required; each with `name`, `permissions` (what is called), `principals` (who calls), `condition` (CEL);"
            " see [who-may-call.md](who-may-call.md#authorization)"
        ),
    ]
    dryRun: Annotated[
        bool | None, served("`true`: what it decides is recorded in the access log and has no effect")
    ] = None
