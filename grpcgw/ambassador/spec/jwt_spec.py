"""The settings of a Filter of type JWT as a typed model, and those that a FilterPolicy adds (`arguments`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, ValidationError, model_validator

from grpcgw.ambassador.spec.durations import parse_duration_ms
from grpcgw.ambassador.spec.fields import Anything, Duration, Resource, StringOrList, Text, no_meaning, served
from grpcgw.ambassador.spec.parse import raw_spec
from grpcgw.model.key_set_objects import KeySetSource, check_url
from grpcgw.model.objects import KubeObject, ObjectKey

# ruff: noqa: N815 (the names are Ambassador's)

_LEEWAY = "difference of clocks that is tolerated; default `0s`"
DEFAULT_SECRET_KEY = "jwks"
Accepted = Annotated[StringOrList, Field(min_length=1)]
"""An empty list would accept all: whoever wants that leaves the field out."""


class HeaderTemplateSpec(Resource):
    name: Text
    value: str


class JwtErrorSpec(Resource):
    contentType: Annotated[Anything, no_meaning("a gRPC status has none")] = None
    realm: str | None = None
    headers: Annotated[list[HeaderTemplateSpec], Field(max_length=16)] | None = None
    bodyTemplate: str | None = None


class JwksSecretSpec(Resource):
    name: Text
    namespace: Text | None = None
    key: Text | None = None


class RequiredClaimSpec(Resource):
    name: Text
    values: Accepted | None = None


class JwtSpec(Resource):
    jwksURI: Text | None = None
    jwksSecret: JwksSecretSpec | None = None
    insecureTLS: bool | None = None
    renegotiateTLS: Annotated[Anything, no_meaning("TLS 1.3 has no renegotiation")] = None
    maxStale: Annotated[Duration | None, served("time from one fetch of the keys to the next")] = None
    validAlgorithms: list[Text] | None = None
    audience: Accepted | None = None
    requireAudience: bool | None = None
    issuer: Accepted | None = None
    requireIssuer: bool | None = None
    requireExpiresAt: bool | None = None
    leewayForExpiresAt: Annotated[Duration | None, served(_LEEWAY)] = None
    requireNotBefore: bool | None = None
    leewayForNotBefore: Annotated[Duration | None, served(_LEEWAY)] = None
    requireIssuedAt: bool | None = None
    leewayForIssuedAt: Annotated[Duration | None, served(_LEEWAY)] = None
    requiredClaims: list[RequiredClaimSpec] | None = None
    tokenHeader: Text | None = None
    tokenOptional: bool | None = None
    injectRequestHeaders: list[HeaderTemplateSpec] | None = None
    errorResponse: JwtErrorSpec | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> JwtSpec:
        if (self.jwksURI is None) is (self.jwksSecret is None):
            raise ValueError("one of jwksURI and jwksSecret is required: the keys that verify the tokens")
        if self.jwksURI is not None:
            try:
                check_url(self.jwksURI)
            except ValueError as error:
                raise ValueError(f"jwksURI: {error}") from None
        return self

    def key_set(self) -> KeySetSource | None:
        """Where the keys are fetched; None: they are in a Secret."""
        if self.jwksURI is None:
            return None
        refresh_s = None if self.maxStale is None else parse_duration_ms(self.maxStale) / 1000
        return KeySetSource(self.jwksURI, bool(self.insecureTLS), refresh_s)

    def secret(self, namespace: str) -> ObjectKey | None:
        """The Secret with the keys, of a Filter in `namespace`; None: they are fetched."""
        given = self.jwksSecret
        return None if given is None else ObjectKey("Secret", given.namespace or namespace, given.name)


class JwtArgumentsSpec(Resource):
    """`arguments` of a Filter in a FilterPolicy."""

    scope: StringOrList | None = None
    scopes: StringOrList | None = None

    def needed(self) -> tuple[str, ...]:
        """The scopes that a token must have. One text may name several, as in a token (RFC 6749, 3.3)."""
        given = (*(self.scope or ()), *(self.scopes or ()))
        return tuple(dict.fromkeys(one for text in given for one in text.split()))


_OTHER_TYPES = frozenset({"APIKey", "External", "Plugin", "apikey", "external", "plugin"})
"""Fields of Filters that can serve without tokens. A Filter with none of all these serves in its last good version."""


def find_named_key_sets(obj: KubeObject) -> frozenset[KeySetSource] | None:
    """The key set that a Filter names; None: it is too broken to tell (its compilation says why)."""
    if obj.key.kind != "Filter":
        return frozenset()
    spec = raw_spec(obj)
    fields = spec if isinstance(spec, Mapping) else {}
    given = next((fields[name] for name in ("JWT", "jwt") if name in fields), None)
    if given is None:
        return None if _OTHER_TYPES.isdisjoint(fields) else frozenset()
    try:
        source = JwtSpec.model_validate(given).key_set()
    except ValidationError:
        return None
    return frozenset() if source is None else frozenset({source})
