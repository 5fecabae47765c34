"""RateLimit (Edge Stack) and the limits in a Mapping itself as typed models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from grpcgw.ambassador.spec.fields import AmbassadorId, Count, PositiveCount, Resource, Table, Text, no_meaning, served


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


UnitName = Annotated[
    Literal["second", "minute", "hour", "day"],
    BeforeValidator(_lower, json_schema_input_type=Literal["second", "minute", "hour", "day"]),
]
ActionName = Annotated[Literal["enforce", "logonly"], BeforeValidator(_lower, json_schema_input_type=str)]


class InjectedHeader(Resource):
    name: Annotated[Text, served("a metadata key")]
    value: Annotated[str, served("a text, or a Go template; see rate-limits.md")]


class LimitErrorSpec(Resource):
    contentType: Annotated[str | None, no_meaning("gRPC errors have no body")] = None  # noqa: N815
    headers: Annotated[list[InjectedHeader] | None, served("trailers of a refusal")] = None
    bodyTemplate: Annotated[str | None, served("Go template of a refusal's `grpc-message`")] = None  # noqa: N815


class LimitSpec(Resource):
    name: Annotated[Text | None, served("default `<name>.<namespace>-<index>`; also identifies the counters")] = None
    action: Annotated[ActionName | None, served("`Enforce` (default); `LogOnly`: only the access log says so")] = None
    pattern: Annotated[
        list[dict[str, str]],
        served("labels with which a label group must begin; of several keys one must match; `*` and empty: any value"),
    ]
    rate: Annotated[Count, served("calls per `unit`; 0: none")]
    unit: Annotated[UnitName, served("`second`, `minute`, `hour` or `day`")]
    burstFactor: Annotated[  # noqa: N815
        PositiveCount | None,
        served("so many times `rate` may come at once, and the bucket refills all the time; absent: see below"),
    ] = None
    injectRequestHeaders: Annotated[  # noqa: N815
        list[InjectedHeader] | None, served("metadata for the pod, of calls that the limit counts")
    ] = None
    injectResponseHeaders: Annotated[  # noqa: N815
        list[InjectedHeader] | None, served("metadata for the client, of calls that the limit counts")
    ] = None
    errorResponse: Annotated[  # noqa: N815
        LimitErrorSpec | None, served("`headers`: trailers of a refusal; `bodyTemplate`: its message")
    ] = None


class RateLimitSpec(Resource):
    ambassador_id: AmbassadorId = None
    domain: Annotated[str | None, served("of the labels; default: the Module's `default_label_domain`")] = None
    limits: Annotated[list[LimitSpec], Field(min_length=1), served("any of them may refuse a call")]
    redis: Annotated[Table | None, no_meaning("`--rate-limit-redis` names the server, for all limits")] = None


class OwnRateLimitSpec(Resource):
    """`rate_limit` of a Mapping."""

    rate: Annotated[Count, served("calls per `unit`; 0: none")]
    unit: Annotated[UnitName | None, served("`second` (default), `minute`, `hour` or `day`")] = None
    burst: Annotated[PositiveCount | None, served("so many calls may come at once; absent: `rate`")] = None
    per: Annotated[
        list[Text] | None,
        served("each value counts apart: `remote_address`, names of headers; absent: all calls count together"),
    ] = None
