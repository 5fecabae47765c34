"""RateLimitService as a typed model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, model_validator

from grpcgw.ambassador.spec.asked_service import AskedResolver, AskedTls
from grpcgw.ambassador.spec.fields import (
    AmbassadorId,
    Milliseconds,
    Resource,
    Table,
    no_meaning,
    served,
)
from grpcgw.ambassador.spec.mapping_spec import check_service


class LimitedCodeSpec(Resource):
    """`grpc`: Emissary documents the first name, and reads the second."""

    use_resource_exhausted_code: bool | None = None
    rate_limited_as_resource_exhausted: bool | None = None

    @model_validator(mode="after")
    def _check_names(self) -> LimitedCodeSpec:
        one, other = self.use_resource_exhausted_code, self.rate_limited_as_resource_exhausted
        if one is not None and other is not None and one is not other:
            raise ValueError(
                "use_resource_exhausted_code and rate_limited_as_resource_exhausted are two names of one field, and"
                " differ; leave one out"
            )
        return self

    @property
    def is_unavailable(self) -> bool:
        return False in (self.use_resource_exhausted_code, self.rate_limited_as_resource_exhausted)


class RateLimitServiceSpec(Resource):
    ambassador_id: AmbassadorId = None
    service: Annotated[
        Annotated[str, AfterValidator(check_service)],
        served("required; the service that counts, written as a Mapping's `service`"),
    ]
    domain: Annotated[
        str | None,
        served("calls are counted by their labels of this domain; default: the Module's `default_label_domain`"),
    ] = None
    protocol_version: Annotated[
        Literal["v2", "v3"] | None,
        served("`envoy.service.ratelimit.v3` (default) or `v2`, whose messages are the same"),
    ] = None
    tls: AskedTls = None
    resolver: AskedResolver = None
    timeout_ms: Annotated[Milliseconds | None, served("for the answer; default 20; 0: 5 minutes")] = None
    failure_mode_deny: Annotated[
        bool | None,
        served("`true`: calls are refused (UNAVAILABLE) where the service does not answer; default: served"),
    ] = None
    grpc: Annotated[
        LimitedCodeSpec | None,
        served(
            "`use_resource_exhausted_code` or `rate_limited_as_resource_exhausted`; `false`: a call above a limit is"
            " UNAVAILABLE; default RESOURCE_EXHAUSTED"
        ),
    ] = None
    stats_name: Annotated[str | None, served("name of the service in metrics")] = None
    v3StatsName: Annotated[str | None, served("stands for `stats_name`")] = None  # noqa: N815
    v2ExplicitTLS: Annotated[Table | None, no_meaning("`service` and `tls` say it")] = None  # noqa: N815
