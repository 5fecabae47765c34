"""Filter and FilterPolicy as typed models, in the forms of `getambassador.io` and of `gateway.getambassador.io`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from grpcgw.ambassador.spec.external_specs import ExternalSpec, NewExternalSpec
from grpcgw.ambassador.spec.fields import AmbassadorId, AmbassadorSelector, Resource, Table, Text, served
from grpcgw.ambassador.spec.jwt_spec import JwtSpec

FilterType = Literal["JWT", "OAuth2", "Plugin", "External", "Internal", "APIKey"]
_REFUSED = "an error, and the calls that need the Filter are refused"


class ApiKeysOfSecret(Resource):
    secretName: Annotated[Text, served("each value in the Secret is a key")]  # noqa: N815 (the names are Ambassador's)
    secretNamespace: Annotated[  # noqa: N815
        Text | None, served("default: the Filter's own")
    ] = None


class ApiKeySpec(Resource):
    httpHeader: Annotated[Text | None, served("default `x-api-key`")] = None  # noqa: N815
    keys: Annotated[list[ApiKeysOfSecret], Field(min_length=1), served("Secrets")]
    forwardHeader: Annotated[  # noqa: N815
        bool | None, served("not in Ambassador; `true`: pods get the header, which is taken away otherwise")
    ] = None


class PluginSpec(Resource):
    name: Annotated[Text, served("`module:Class`, or an entry point of the group `grpcgw.policies`")]
    config: Annotated[Table | None, served("not in Ambassador; what the class takes as its configuration")] = None
    timeout_ms: Annotated[
        Annotated[int, Field(ge=1, le=2**31 - 1)] | None,
        served("not in Ambassador; limit for an asynchronous check; default: the class's own, else 1000"),
    ] = None


_PLUGIN = "an own policy in Python decides (docs/policies.md): `name`, `config`, `timeout_ms`"
_API_KEY = "a call needs a key of a Secret: `keys: [{secretName, secretNamespace}]`, `httpHeader`, `forwardHeader`"
_JWT = "a call needs a token that keys of `jwksURI` or `jwksSecret` verify: see [who-may-call.md](who-may-call.md)"
_OAUTH2 = f"a browser's flow, which no gRPC client can go through: {_REFUSED}; verify the tokens by a JWT Filter"
_INTERNAL = f"Edge Stack's own: {_REFUSED}"


class FilterSpec(Resource):
    ambassador_id: AmbassadorId = None
    ambassadorSelector: AmbassadorSelector = None  # noqa: N815
    JWT: Annotated[JwtSpec | None, served(_JWT)] = None
    External: Annotated[
        ExternalSpec | None,
        served("a service decides: the fields of an AuthService, and `tlsConfig` for its certificates"),
    ] = None
    Plugin: Annotated[PluginSpec | None, served(_PLUGIN)] = None
    APIKey: Annotated[ApiKeySpec | None, served(_API_KEY)] = None
    OAuth2: Annotated[Table | None, served(_OAUTH2)] = None
    Internal: Annotated[Table | None, served(_INTERNAL)] = None
    type: Annotated[
        Literal["jwt", "external", "plugin", "apikey", "oauth2"] | None,
        served("the field that has the settings, in `gateway.getambassador.io/v1alpha1`"),
    ] = None
    jwt: Annotated[JwtSpec | None, served("`JWT` in `gateway.getambassador.io/v1alpha1`")] = None
    external: Annotated[
        NewExternalSpec | None, served("`External` in `gateway.getambassador.io/v1alpha1`, with that version's fields")
    ] = None
    plugin: Annotated[PluginSpec | None, served("`Plugin` in `gateway.getambassador.io/v1alpha1`")] = None
    apikey: Annotated[ApiKeySpec | None, served("`APIKey` in `gateway.getambassador.io/v1alpha1`")] = None
    oauth2: Annotated[Table | None, served("`OAuth2` in `gateway.getambassador.io/v1alpha1`")] = None

    @model_validator(mode="after")
    def _check_type(self) -> FilterSpec:
        given = [name for name in FIELDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(_TYPES)} is required")
        if self.type is not None and given[0].lower() != self.type:
            raise ValueError(f"the type is {self.type}, and the settings are in {given[0]}; put them into {self.type}")
        return self

    @property
    def external_settings(self) -> ExternalSpec | None:
        """Of either form."""
        return self.External if self.external is None else self.external.older()

    @property
    def field(self) -> str:
        """The one that has the settings."""
        return next(name for name in FIELDS if getattr(self, name) is not None)


FIELDS: dict[str, FilterType] = {
    "JWT": "JWT",
    "External": "External",
    "Plugin": "Plugin",
    "APIKey": "APIKey",
    "OAuth2": "OAuth2",
    "Internal": "Internal",
    "jwt": "JWT",
    "external": "External",
    "plugin": "Plugin",
    "apikey": "APIKey",
    "oauth2": "OAuth2",
}
"""The type of a Filter by the field that has its settings."""
_TYPES = tuple(dict.fromkeys(FIELDS.values()))


class HeaderConditionSpec(Resource):
    name: Text
    type: Literal["Exact", "RegularExpression"] | None = None
    value: str | None = None
    valueRegex: str | None = None  # noqa: N815
    negate: bool | None = None

    @model_validator(mode="after")
    def _check_value(self) -> HeaderConditionSpec:
        if self.value and self.valueRegex:
            raise ValueError("value and valueRegex exclude each other; leave one out")
        return self


class FilterReferenceSpec(Resource):
    name: Text
    namespace: str | None = None
    onDeny: Literal["break", "continue"] | None = None  # noqa: N815
    onAllow: Literal["break", "continue"] | None = None  # noqa: N815
    ifRequestHeader: HeaderConditionSpec | None = None  # noqa: N815
    arguments: Table | None = None


class FilterRuleSpec(Resource):
    host: str | None = None
    path: str | None = None
    precedence: int | None = None
    filters: list[FilterReferenceSpec] | None = None
    filterRefs: list[FilterReferenceSpec] | None = None  # noqa: N815

    @model_validator(mode="after")
    def _check_filters(self) -> FilterRuleSpec:
        if self.filters and self.filterRefs:
            raise ValueError("filters and filterRefs are two names of one field; leave one out")
        return self


class FilterPolicySpec(Resource):
    ambassador_id: AmbassadorId = None
    ambassadorSelector: AmbassadorSelector = None  # noqa: N815
    rules: Annotated[
        list[FilterRuleSpec],
        served(
            "required; each with `host` and `path` (globs, default `*`), `precedence` (the highest comes first),"
            " `filters` or `filterRefs`: `name`, `namespace`, `onAllow`, `onDeny` (`break`, `continue`),"
            " `ifRequestHeader` (`name`, `value`, `valueRegex` or `type`, `negate`), `arguments`; see below"
        ),
    ]
