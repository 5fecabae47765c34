"""The Mapping as a typed model: every field by name, its type, and what grpcgw does with it.

A field is declared once, in the smallest class whose objects have it: `SharedSettings` (Mapping, Module `config`,
Module `defaults.httpmapping`), `MappingSettings` and `MappingDefaults` (Mapping, `defaults.httpmapping`),
`MappingSpec`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from grpcgw.ambassador.spec.fields import (
    AmbassadorId,
    Anything,
    Milliseconds,
    Percent,
    PositiveCount,
    PositiveMilliseconds,
    Resource,
    Shape,
    StringOrList,
    Table,
    Text,
    http_only,
    no_meaning,
    planned,
    served,
)
from grpcgw.ambassador.spec.mapping_parts import (
    AddedHeaders,
    Authority,
    CircuitBreakerSpec,
    HealthCheckSpec,
    KeepaliveSpec,
    LoadBalancerSpec,
    OutlierDetectionSpec,
    RegexRewriteSpec,
    RetryPolicySpec,
)
from grpcgw.ambassador.spec.rate_limit_specs import OwnRateLimitSpec
from grpcgw.ambassador.spec.service import InvalidService, parse_service


def check_service(text: str) -> str:
    try:
        parse_service(text, namespace="")
    except InvalidService as error:
        raise ValueError(str(error)) from error
    return text


def _check_condition(value: object) -> object:
    if value is True or isinstance(value, str):
        return value
    raise ValueError("should be the text to compare with, or true where the key need only be there")


def check_tls(value: object) -> object:
    if value is None or isinstance(value, bool | str):
        return value
    raise ValueError(f"should be true or the name of a TLSContext, not {value!r}")


HeaderConditions = dict[str, Annotated[str | bool, BeforeValidator(_check_condition)]]


class SharedSettings(Resource):
    """Fields of a Mapping whose default the Module may set under the same key of its `config`."""

    resolver: Annotated[
        str | None, served("name of a resolver; default: the Module's `resolver`, else `kubernetes-service`")
    ] = None
    load_balancer: Annotated[
        LoadBalancerSpec | None,
        served(
            "`policy`: `round_robin`, `least_request`, `ring_hash`, `maglev`, `weighted_round_robin`*; the hashes with"
            " one of `header` and `source_ip`; `slow_start_ms`*, `prefer_same_zone`*"
        ),
    ] = None
    enable_ipv4: Annotated[bool | None, served("default true; `false`: IPv4 addresses are not used")] = None
    enable_ipv6: Annotated[
        bool | None, served("`false`: IPv6 addresses are not used; absent, they are (Ambassador: they are not)")
    ] = None
    add_linkerd_headers: Annotated[bool | None, served("adds `l5d-dst-override: <service>.<namespace>:<port>`")] = None
    cluster_idle_timeout_ms: Annotated[
        Milliseconds | None, served("closes a connection to a pod without calls; default and 0: never")
    ] = None
    cluster_max_connection_lifetime_ms: Annotated[
        Milliseconds | None, served("a connection to a pod is drained and closed at this age; default and 0: never")
    ] = None
    keepalive: Annotated[
        KeepaliveSpec | None,
        served("`time` or `idle_time` (7200), `interval` (75), `probes` (9): HTTP/2 PING in place of TCP probes"),
    ] = None
    retry_policy: Annotated[
        RetryPolicySpec | None, served("`retry_on`, `num_retries` (1), `per_try_timeout`, `budget_percent`* (20)")
    ] = None
    circuit_breakers: Annotated[
        list[CircuitBreakerSpec] | None,
        served(
            "`priority`, `max_connections`, `max_pending_requests`, `max_requests`, `max_retries`; absent: no limit"
        ),
    ] = None


class MappingSettings(SharedSettings):
    """Fields of a Mapping whose default the Module may set in `defaults.httpmapping`."""

    stats_name: Annotated[str | None, served("name of the upstream in metrics; default: the cluster's name")] = None
    dns_type: Annotated[
        str | None,
        served("`strict_dns` (default): all addresses of the name; `logical_dns`: the first; service resolver only"),
    ] = None
    respect_dns_ttl: Annotated[bool | None, served("names are resolved again when their TTL is over")] = None
    priority: Annotated[
        Literal["default", "high"] | None, served("which set of `circuit_breakers` the calls count against")
    ] = None

    auto_host_rewrite: Annotated[bool | None, served("`:authority` becomes the host of `service`")] = None
    add_request_headers: Annotated[
        AddedHeaders | None, served("`name: value` or `name: {value, append}`; `append` is true by default")
    ] = None
    remove_request_headers: Annotated[StringOrList | None, served("removed before any is added")] = None
    add_response_headers: Annotated[AddedHeaders | None, served("to the initial metadata of answers")] = None
    remove_response_headers: Annotated[StringOrList | None, served("from the initial metadata of answers")] = None

    timeout_ms: Annotated[
        Milliseconds | None,
        served("bound on the whole call; 0: none; default: the Module's `cluster_request_timeout_ms`, else none"),
    ] = None
    idle_timeout_ms: Annotated[
        Milliseconds | None,
        served("ends a call with no bytes in either direction for so long; default 300000; 0: never"),
    ] = None
    max_message_bytes: Annotated[
        PositiveCount | None,
        served(
            "not in Ambassador; the largest message, uncompressed, in either direction; holds where it is below the"
            " Listener's `maxMessageBytes` or `--max-message-bytes`"
        ),
    ] = None
    labels: Annotated[
        Table | None,
        served(
            "labels of its calls, by which rate limits count: groups by domain, each with `generic_key`,"
            " `request_headers`, `remote_address`, `source_cluster`, `destination_cluster`, or v2's short forms"
        ),
    ] = None
    rate_limit: Annotated[
        OwnRateLimitSpec | None,
        served(
            "not in Ambassador; `rate`, `unit` (`second`), `burst`, `per` (`remote_address`, names of headers): calls"
            " beyond it end with RESOURCE_EXHAUSTED"
        ),
    ] = None
    concurrency_limit: Annotated[
        PositiveCount | None, served("not in Ambassador; so many calls run at one time, others end RESOURCE_EXHAUSTED")
    ] = None
    connect_timeout_ms: Annotated[
        PositiveMilliseconds | None, served("for connecting to a pod, with its TLS handshake; default 3000")
    ] = None
    health_checks: Annotated[
        Annotated[list[Anything], Field(min_length=1), Shape(list[HealthCheckSpec])] | None,
        served(
            "one with `health_check.grpc`; `timeout` (3s), `interval` (5s), `unhealthy_threshold` (2),"
            " `healthy_threshold` (1)"
        ),
    ] = None
    outlier_detection: Annotated[
        Anything,
        Shape(OutlierDetectionSpec),
        served("an object*, see below; a text is an error, as it always was in Ambassador"),
    ] = None


class MappingDefaults(MappingSettings):
    """The Module's `defaults.httpmapping`: the settings, and further fields that Ambassador accepts there."""

    auth_context_extensions: Annotated[
        dict[str, str] | None, served("`context_extensions` of what AuthServices with `proto: grpc` are asked")
    ] = None
    bypass_auth: Annotated[bool | None, served("AuthServices are not asked about its calls")] = None
    allow_upgrade: Annotated[list[str] | None, http_only("gRPC does not upgrade connections")] = None
    bypass_error_response_overrides: Annotated[bool | None, http_only("gRPC errors have no body")] = None
    cors: Annotated[Table | None, http_only("only browsers ask for CORS")] = None
    docs: Annotated[Table | None, no_meaning("there is no developer portal")] = None
    error_response_overrides: Annotated[list[Table] | None, http_only("gRPC errors have no body")] = None
    use_websocket: Annotated[bool | None, http_only("gRPC does not upgrade connections")] = None


class MappingSpec(MappingDefaults):
    """A Mapping: which calls it matches, their destination and settings."""

    ambassador_id: AmbassadorId = None

    prefix: Annotated[Text, served("required; string prefix of the path: `/pkg.Service/` or `/pkg.Service/Method`")]
    prefix_exact: Annotated[bool | None, served("the whole path must equal `prefix`")] = None
    prefix_regex: Annotated[bool | None, served("`prefix` is an RE2 pattern for the whole path")] = None
    case_sensitive: Annotated[bool | None, served("default true; `false`: paths are compared without their case")] = (
        None
    )
    hostname: Annotated[
        str | None, served("glob for `:authority` with one leading or trailing `*`; wins over `host`", "*")
    ] = None
    host: Annotated[
        str | None, served("as `hostname`; in `v3alpha1` compared exactly; a pattern with `host_regex`")
    ] = None
    host_regex: Annotated[bool | None, served("`host` is an RE2 pattern for the whole name")] = None
    headers: Annotated[
        HeaderConditions | None,
        served("all must hold: a text equals the value, `true` asks that the key is there; `:authority` is the host"),
    ] = None
    regex_headers: Annotated[
        dict[str, str] | None, served("all must hold: RE2 patterns for whole values; `:authority` is the host")
    ] = None
    method: Annotated[str | None, served("`POST` or absent; no gRPC call has another, which a notice says", "POST")] = (
        None
    )
    method_regex: Annotated[bool | None, served("`method` is a pattern")] = None
    query_parameters: Annotated[Table | None, served("no gRPC path has a query: the Mapping serves no call")] = None
    regex_query_parameters: Annotated[Table | None, served("no gRPC path has a query: the Mapping serves no call")] = (
        None
    )
    precedence: Annotated[
        Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None,
        served("default 0; a higher one is evaluated first, before every other rule"),
    ] = None

    service: Annotated[
        Annotated[str, AfterValidator(check_service)],
        served("required; `[scheme://]name[.namespace][:port]`; the port is the Service's, default 80, with TLS 443"),
    ]
    grpc: Annotated[bool | None, served("absent means true; `false` has no effect, all pods are called with gRPC")] = (
        None
    )
    tls: Annotated[
        Annotated[bool | str, BeforeValidator(check_tls)] | None,
        served("`true` or a TLSContext's name: TLS to the pods"),
    ] = None
    weight: Annotated[
        Percent | None,
        served("percent of the calls of all Mappings that match alike; those without share the rest equally"),
    ] = None
    shadow: Annotated[
        bool | None, served("gets a copy of the calls of its group, `weight` percent of them; answers are dropped")
    ] = None
    cluster_tag: Annotated[str | None, served("stands before the cluster's name and makes it a cluster of its own")] = (
        None
    )

    rewrite: Annotated[
        str | None,
        served("replaces the matched prefix; absent or empty leaves the path alone; no effect with `prefix_regex`"),
    ] = None
    regex_rewrite: Annotated[
        RegexRewriteSpec | None,
        served("`pattern`, `substitution`: replaces each match in the path; wins over `rewrite`"),
    ] = None
    host_rewrite: Annotated[Authority | None, served("`:authority` for the pod; wins over `auto_host_rewrite`")] = None

    rate_limits: Annotated[Anything, planned("what `labels` are, in `ambassador/v0`")] = None
    modules: Annotated[Anything, no_meaning("Ambassador never read it")] = None
    envoy_override: Annotated[Anything, no_meaning("there is no Envoy to configure")] = None

    host_redirect: Annotated[
        bool | None, served("calls that match end with UNIMPLEMENTED: gRPC clients do not follow redirects")
    ] = None
    path_redirect: Annotated[str | None, http_only("gRPC clients do not follow redirects")] = None
    prefix_redirect: Annotated[str | None, http_only("gRPC clients do not follow redirects")] = None
    regex_redirect: Annotated[Table | None, http_only("gRPC clients do not follow redirects")] = None
    redirect_response_code: Annotated[int | None, http_only("gRPC clients do not follow redirects")] = None

    v2BoolHeaders: Annotated[  # noqa: N815 (the name is Ambassador's, here and below)
        list[str] | None, served("each stands for `headers: {name: true}`")
    ] = None
    v2BoolQueryParameters: Annotated[  # noqa: N815
        list[str] | None, served("no gRPC path has a query: the Mapping serves no call")
    ] = None
    v2ExplicitTLS: Annotated[Table | None, no_meaning("`service` and `tls` say it")] = None  # noqa: N815
    v2Representation: Annotated[Anything, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v2CommaSeparatedOrigins: Annotated[bool | None, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v2Shorthand: Annotated[Anything, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v3StatsName: Annotated[str | None, served("stands for `stats_name`")] = None  # noqa: N815
    v3health_checks: Annotated[
        Annotated[list[Anything], Field(min_length=1), Shape(list[HealthCheckSpec])] | None,
        served("stands for `health_checks`"),
    ] = None
