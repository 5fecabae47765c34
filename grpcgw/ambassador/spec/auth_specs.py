"""AuthService as a typed model, and the Module `authentication` that it was in Ambassador 0.x."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from grpcgw.ambassador.spec.asked_service import AskedResolver, AskedTls
from grpcgw.ambassador.spec.fields import (
    AmbassadorId,
    Count,
    Milliseconds,
    PositiveCount,
    PositiveMilliseconds,
    Resource,
    StringOrList,
    Table,
    Text,
    no_meaning,
    planned,
    served,
)
from grpcgw.ambassador.spec.mapping_parts import CircuitBreakerSpec
from grpcgw.ambassador.spec.mapping_spec import check_service


class IncludeBodySpec(Resource):
    max_bytes: PositiveCount
    allow_partial: bool = False


class StatusOnErrorSpec(Resource):
    code: Annotated[int, Field(ge=100, le=599)] = 403


class AnswerCacheSpec(Resource):
    headers: Annotated[list[Text], Field(min_length=1)]
    max_age_ms: PositiveMilliseconds
    max_entries: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000


class AuthServiceSpec(Resource):
    ambassador_id: AmbassadorId = None
    auth_service: Annotated[
        Annotated[str, AfterValidator(check_service)],
        served("required; the service that decides, written as a Mapping's `service`"),
    ]
    proto: Annotated[Literal["http", "grpc"] | None, served("`http` (default) or `grpc`")] = None
    protocol_version: Annotated[
        Literal["v2", "v3"] | None,
        served("of `grpc`: `envoy.service.auth.v3` (default) or `v2`, whose messages are the same"),
    ] = None
    tls: AskedTls = None
    resolver: AskedResolver = None
    timeout_ms: Annotated[Milliseconds | None, served("for the answer; default 5000; 0: 5 minutes")] = None
    path_prefix: Annotated[str | None, served("of `http`: stands before the call's path")] = None
    allowed_request_headers: Annotated[
        StringOrList | None, served("of `http`: further headers for the service; a `grpc` service gets all")
    ] = None
    allowed_authorization_headers: Annotated[
        StringOrList | None,
        served("of `http`: further headers of the answer that go to the pod, or to a client that is refused"),
    ] = None
    allowed_headers: Annotated[StringOrList | None, served("of Ambassador 0.x: both of the above")] = None
    add_auth_headers: Annotated[
        dict[str, bool | str] | None, served("further headers for the service, `name: value`")
    ] = None
    include_body: Annotated[
        IncludeBodySpec | None,
        served("`max_bytes`, `allow_partial`: the first message is sent along, as a gRPC frame; at most 1 MiB"),
    ] = None
    allow_request_body: Annotated[
        bool | None, served("stands for `include_body: {max_bytes: 4096, allow_partial: true}`")
    ] = None
    status_on_error: Annotated[
        StatusOnErrorSpec | None,
        served("`code`: an HTTP status, as its gRPC code, where the service gives no answer; default UNAVAILABLE"),
    ] = None
    failure_mode_allow: Annotated[
        bool | None, served("calls pass where the service is away or reports an error of its own")
    ] = None
    circuit_breakers: Annotated[list[CircuitBreakerSpec] | None, served("limits of calls to the service")] = None
    stats_name: Annotated[str | None, served("name of the service in metrics")] = None
    v3StatsName: Annotated[str | None, served("stands for `stats_name`")] = None  # noqa: N815
    cache: Annotated[
        AnswerCacheSpec | None,
        served(
            "not in Ambassador; answers are kept: `headers` that decide beside host and path, `max_age_ms`,"
            " `max_entries` (10000)"
        ),
    ] = None
    weight: Annotated[Count | None, served("of Ambassador 0.x; several AuthServices take equal turns", 100)] = None
    add_linkerd_headers: Annotated[bool | None, planned("`l5d-dst-override` is not added to calls of the service")] = (
        None
    )
    v2ExplicitTLS: Annotated[Table | None, no_meaning("`auth_service` and `tls` say it")] = None  # noqa: N815


class AuthModuleSpec(Resource):
    """The Module `authentication` of Ambassador 0.x."""

    ambassador_id: AmbassadorId = None
    config: AuthServiceSpec
