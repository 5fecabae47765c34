"""The Module as a typed model: settings of the whole gateway, and defaults of its Mappings."""

from __future__ import annotations

from typing import Annotated, Literal

from grpcgw.ambassador.spec.fields import (
    AmbassadorId,
    Anything,
    Count,
    Milliseconds,
    PositiveCount,
    Resource,
    Table,
    http_only,
    no_meaning,
    planned,
    served,
)
from grpcgw.ambassador.spec.mapping_spec import MappingDefaults, SharedSettings


class ModuleDefaults(Resource):
    httpmapping: MappingDefaults | None = None
    tcpmapping: Annotated[Table | None, http_only("only gRPC is served")] = None


class ModuleConfig(SharedSettings):
    """The keys of the Module's `config`."""

    cluster_request_timeout_ms: Annotated[
        Milliseconds | None, served("default `timeout_ms` of all Mappings; 0: none")
    ] = None
    use_ambassador_namespace_for_service_resolution: Annotated[
        bool | None, served("a `service` without a namespace is in the gateway's namespace, not the Mapping's")
    ] = None

    buffer_limit_bytes: Annotated[
        int | None, no_meaning("one message is in flight per stream and direction, whatever its size")
    ] = None
    default_label_domain: Annotated[
        str | None, served("domain of a RateLimit or RateLimitService that names none; default `ambassador`")
    ] = None
    default_labels: Annotated[
        Table | None,
        served("`{domain: {defaults: [label, …]}}`: they begin each group of `labels`, or are the only"),
    ] = None
    defaults: Annotated[
        ModuleDefaults | None,
        served("`httpmapping`: defaults of all Mappings, for the fields named above; before the Module's own keys"),
    ] = None
    diagnostics: Annotated[
        Table | None, no_meaning("the page is on the admin port alone, for every client that reaches `--admin-address`")
    ] = None
    enable_grpc_http11_bridge: Annotated[bool | None, planned("grpc serves HTTP/2 alone")] = None
    enable_grpc_web: Annotated[bool | None, planned("grpc serves HTTP/2 alone: browsers need a proxy before it")] = None
    envoy_log_format: Annotated[
        Anything, served("format of the access log: a string for `text`, an object of strings for the others")
    ] = None
    envoy_log_path: Annotated[str | None, planned("the access log goes to stdout")] = None
    envoy_log_type: Annotated[str | None, served("`text`, `json` or `typed_json`; wins over `--access-log`")] = None
    forward_client_cert_details: Annotated[
        str | None,
        served(
            "`x-forwarded-client-cert` for pods, as in Envoy: `SANITIZE` (default), `FORWARD_ONLY`, `APPEND_FORWARD`,"
            " `SANITIZE_SET`, `ALWAYS_FORWARD_ONLY`; without `By`"
        ),
    ] = None
    grpc_stats: Annotated[
        Table | None, no_meaning("calls are counted by Mapping, service and method always; see `/metrics`")
    ] = None
    headers_with_underscores_action: Annotated[
        Literal["ALLOW", "REJECT_REQUEST", "DROP_HEADER"] | None,
        served("of metadata keys with an underscore; a rejected call ends with INVALID_ARGUMENT"),
    ] = None
    ip_allow: Annotated[
        list[Table] | None,
        served(
            "`remote: CIDR` (the client) or `peer: CIDR` (the connection): only calls from there are served,"
            " others end with PERMISSION_DENIED; of all Mappings"
        ),
    ] = None
    ip_deny: Annotated[
        list[Table] | None, served("as `ip_allow`, of the calls that are not served; not both of them")
    ] = None
    listener_idle_timeout_ms: Annotated[
        Milliseconds | None,
        served(
            "closes a client's connection that has been without calls for so long, after one more period at the latest;"
            " default 3600000; 0: never"
        ),
    ] = None
    liveness_probe: Annotated[
        Table | None, no_meaning("the admin port answers probes: `/ambassador/v0/check_alive`")
    ] = None
    max_request_headers_kb: Annotated[
        PositiveCount | None, served("bound on the metadata of a call, which ends with RESOURCE_EXHAUSTED; up to 64")
    ] = None
    preserve_external_request_id: Annotated[
        bool | None, served("`x-request-id` of a client from outside is kept; default: replaced, as Envoy does")
    ] = None
    prune_unreachable_routes: Annotated[
        bool | None, no_meaning("a route that no call can reach costs nothing", True)
    ] = None
    readiness_probe: Annotated[
        Table | None, no_meaning("the admin port answers probes: `/ambassador/v0/check_ready`")
    ] = None
    regex_max_size: Annotated[PositiveCount | None, served("greatest program size of an RE2 pattern; default 200")] = (
        None
    )
    set_current_client_cert_details: Annotated[
        Table | None, served("details besides `Hash`: `cert`, `chain`, `subject`, `uri`, `dns`, each `true`")
    ] = None
    statsd: Annotated[Table | None, planned("metrics are on the admin port, for Prometheus")] = None
    strip_matching_host_port: Annotated[
        bool | None,
        no_meaning("a name without a port matches every port anyway; the pod sees the port the client wrote", True),
    ] = None
    use_proxy_proto: Annotated[
        bool | None,
        served(
            "`true`: each connection of every port begins with a PROXY header (an error on the generic-handler engine)"
        ),
    ] = None
    use_remote_address: Annotated[
        bool | None,
        served("default true: who connects is the client; `false`: the last of `x-forwarded-for`, which is left alone"),
    ] = None
    xff_num_trusted_hops: Annotated[
        Count | None, served("number of proxies before the gateway whose `x-forwarded-for` is trusted; default 0")
    ] = None

    buffer: Annotated[Table | None, http_only("messages are passed on one by one")] = None
    cors: Annotated[Table | None, http_only("only browsers ask for CORS")] = None
    enable_http10: Annotated[bool | None, http_only("gRPC is HTTP/2")] = None
    error_response_overrides: Annotated[list[Table] | None, http_only("gRPC errors have no body")] = None
    gzip: Annotated[Table | None, http_only("gRPC compresses message by message")] = None
    header_case_overrides: Annotated[Anything, http_only("HTTP/2 headers are lower case")] = None
    lua_scripts: Annotated[str | None, http_only("there is no Lua")] = None
    merge_slashes: Annotated[bool | None, http_only("gRPC paths are compared as they are")] = None
    proper_case: Annotated[bool | None, http_only("HTTP/2 headers are lower case")] = None
    server_name: Annotated[str | None, http_only("no server header is sent")] = None
    suppress_envoy_headers: Annotated[bool | None, http_only("no Envoy headers are sent", True)] = None
    x_forwarded_proto_redirect: Annotated[bool | None, http_only("gRPC clients do not follow redirects")] = None

    allow_chunked_length: Annotated[bool | None, http_only("HTTP/2 has no chunks")] = None
    reject_requests_with_escaped_slashes: Annotated[bool | None, http_only("no gRPC path has escapes", True)] = None

    admin_port: Annotated[int | None, no_meaning("it was Envoy's; see `grpcgw run --admin-port`")] = None
    ambassador_id: Annotated[Anything, no_meaning("it belongs beside `config`")] = None
    auth_enabled: Annotated[bool | None, no_meaning("Ambassador never read it")] = None
    debug_mode: Annotated[bool | None, no_meaning("Ambassador never read it; see `grpcgw run --log-level`")] = None
    diag_port: Annotated[int | None, no_meaning("see `grpcgw run --admin-port`", 8877)] = None
    envoy_validation_timeout: Annotated[int | None, no_meaning("there is no Envoy to validate")] = None
    regex_type: Annotated[str | None, no_meaning("all patterns are RE2", "safe")] = None
    runtime_flags: Annotated[Table | None, no_meaning("there is no Envoy to configure")] = None
    service_port: Annotated[int | None, no_meaning("ports are flags of `grpcgw run`")] = None


class ModuleSpec(Resource):
    ambassador_id: AmbassadorId = None
    config: Annotated[ModuleConfig | None, served("see the keys below")] = None
