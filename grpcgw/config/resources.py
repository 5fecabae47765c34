"""Ambassador's resources as typed models: every field by name, its type, and what grpcgw does with it.

The state of a field is data (`FieldNote`), so the notices an operator reads and docs/ambassador.md say the same.
Knows nothing of routes; what a field means there is decided by the compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from grpcgw.config.service import InvalidService, parse_service

API_GROUPS = frozenset({"getambassador.io", "x.getambassador.io"})
API_VERSIONS = ("v1", "v2", "v3alpha1")


class State(StrEnum):
    SUPPORTED = "supported"
    PLANNED = "planned"
    """Accepted; has no effect yet, and a notice says so."""
    REFUSED = "refused for now"
    """Planned too, but to ignore it would send calls where they must not go: the object is left out with an error."""
    HTTP_ONLY = "HTTP only"
    NO_MEANING = "no meaning"


@dataclass(frozen=True, slots=True)
class FieldNote:
    """What a field does, for the operator and the documentation.

    `neutral` are the values that ask for what happens anyway; they, null, false and empty values bring no notice.
    """

    state: State
    meaning: str
    neutral: tuple[object, ...] = ()

    def is_neutral(self, value: object) -> bool:
        return not value or value in self.neutral


def _noter(state: State) -> Callable[..., FieldNote]:
    def note(meaning: str, *neutral: object) -> FieldNote:
        return FieldNote(state, meaning, neutral)

    return note


served = _noter(State.SUPPORTED)
planned = _noter(State.PLANNED)
refused = _noter(State.REFUSED)
http_only = _noter(State.HTTP_ONLY)
no_meaning = _noter(State.NO_MEANING)


class Resource(BaseModel):
    """Base of all models: unknown fields are errors, `"1"` is no number and `1` no boolean."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_service(text: str) -> str:
    try:
        parse_service(text, namespace="")
    except InvalidService as error:
        raise ValueError(str(error)) from error
    return text


_StringOrList = Annotated[list[str], BeforeValidator(_as_list)]
_Text = Annotated[str, Field(min_length=1)]
_Milliseconds = Annotated[int, Field(ge=0, le=2**31 - 1)]
_Anything = object
"""For fields without effect: their shape is not checked before it matters."""
_Table = dict[str, object]

_AmbassadorId = Annotated[
    _StringOrList | None,
    served("which gateways own the object (`--ambassador-id`); default `default`; `_automatic_` is owned by all"),
]


class Cookie(Resource):
    name: _Text
    path: str | None = None
    ttl: str | None = None


class LoadBalancerSpec(Resource):
    policy: Literal["round_robin", "least_request", "ring_hash", "maglev"]
    header: str | None = None
    source_ip: bool | None = None
    cookie: Cookie | None = None

    @model_validator(mode="after")
    def _check_hash_source(self) -> LoadBalancerSpec:
        sources = [name for name in ("header", "source_ip", "cookie") if getattr(self, name)]
        if self.policy in ("round_robin", "least_request") and sources:
            raise ValueError(f"policy {self.policy} takes no {sources[0]}")
        if self.policy in ("ring_hash", "maglev") and len(sources) != 1:
            raise ValueError(f"policy {self.policy} needs exactly one of header, source_ip, cookie")
        return self


class MappingSpec(Resource):
    """A Mapping: which calls, where to, and how. The order of the fields is that of docs/ambassador.md."""

    ambassador_id: _AmbassadorId = None

    prefix: Annotated[_Text, served("required; string prefix of the path: `/pkg.Service/` or `/pkg.Service/Method`")]
    prefix_exact: Annotated[bool | None, served("the whole path must equal `prefix`")] = None
    prefix_regex: Annotated[bool | None, served("`prefix` is an RE2 pattern for the whole path")] = None
    case_sensitive: Annotated[bool | None, planned("paths are compared with their case", True)] = None
    hostname: Annotated[
        str | None, refused("the Mapping would serve every host; leave it out or set it to '*'", "*")
    ] = None
    host: Annotated[str | None, refused("the Mapping would serve every host; leave it out", "*")] = None
    host_regex: Annotated[bool | None, planned("hosts are not matched")] = None
    headers: Annotated[_Table | None, refused("the Mapping would serve calls without these headers; leave it out")] = (
        None
    )
    regex_headers: Annotated[
        _Table | None, refused("the Mapping would serve calls without these headers; leave it out")
    ] = None
    method: Annotated[str | None, http_only("every gRPC call is a POST", "POST")] = None
    method_regex: Annotated[bool | None, http_only("every gRPC call is a POST")] = None
    query_parameters: Annotated[_Table | None, http_only("a gRPC path has no query")] = None
    regex_query_parameters: Annotated[_Table | None, http_only("a gRPC path has no query")] = None
    precedence: Annotated[
        Annotated[int, Field(ge=-(2**31), le=2**31 - 1)] | None,
        served("default 0; a higher one is evaluated first, before every other rule"),
    ] = None

    service: Annotated[
        Annotated[str, AfterValidator(_check_service)],
        served("required; `[scheme://]name[.namespace][:port]`; the port is the Service's, default 80"),
    ]
    grpc: Annotated[bool | None, served("absent means true; `false` has no effect, all pods are spoken to in gRPC")] = (
        None
    )
    resolver: Annotated[
        str | None, served("name of a resolver; default: the Module's `resolver`, else `kubernetes-service`")
    ] = None
    load_balancer: Annotated[
        LoadBalancerSpec | None,
        served("`policy: round_robin`; least_request, ring_hash and maglev are refused until they are supported"),
    ] = None
    tls: Annotated[bool | str | None, refused("calls would go to the pods in clear text; leave it out")] = None
    weight: Annotated[
        Annotated[int, Field(ge=0, le=100)] | None,
        served("percent of the calls of all Mappings that match alike; those without share the rest equally"),
    ] = None
    shadow: Annotated[
        bool | None, refused("copies of calls are not sent; the Mapping would answer real calls; leave it out")
    ] = None
    cluster_tag: Annotated[str | None, planned("clusters are named after service and resolver")] = None
    stats_name: Annotated[str | None, planned("metrics name the Mapping")] = None
    dns_type: Annotated[str | None, planned("all addresses of a DNS name are used (strict_dns)", "strict_dns")] = None
    respect_dns_ttl: Annotated[bool | None, planned("names are resolved again at a fixed interval")] = None
    enable_ipv4: Annotated[bool | None, planned("addresses of both families are used", True)] = None
    enable_ipv6: Annotated[bool | None, planned("addresses of both families are used", True)] = None
    priority: Annotated[str | None, planned("there are no circuit breakers", "default")] = None

    rewrite: Annotated[
        str | None,
        served("replaces the matched prefix; absent or empty leaves the path alone; no effect with `prefix_regex`"),
    ] = None
    regex_rewrite: Annotated[_Table | None, planned("the path is not rewritten by pattern")] = None
    host_rewrite: Annotated[str | None, planned("the client's :authority is passed on")] = None
    auto_host_rewrite: Annotated[bool | None, planned("the client's :authority is passed on")] = None
    add_request_headers: Annotated[_Table | None, planned("metadata is passed on unchanged")] = None
    remove_request_headers: Annotated[_StringOrList | None, planned("metadata is passed on unchanged")] = None
    add_response_headers: Annotated[_Table | None, planned("metadata is passed on unchanged")] = None
    remove_response_headers: Annotated[_StringOrList | None, planned("metadata is passed on unchanged")] = None
    add_linkerd_headers: Annotated[bool | None, planned("no l5d-dst-override header is added")] = None

    timeout_ms: Annotated[
        _Milliseconds | None,
        served("bound on the whole call; 0: none; default: the Module's `cluster_request_timeout_ms`, else none"),
    ] = None
    idle_timeout_ms: Annotated[
        _Milliseconds | None,
        served("ends a call with no bytes in either direction for so long; default 300000; 0: never"),
    ] = None
    connect_timeout_ms: Annotated[_Milliseconds | None, planned("the gateway's own connect timeout applies")] = None
    cluster_idle_timeout_ms: Annotated[_Milliseconds | None, planned("idle connections to pods stay open")] = None
    cluster_max_connection_lifetime_ms: Annotated[
        _Milliseconds | None, planned("connections to pods have no greatest age")
    ] = None
    keepalive: Annotated[
        _Table | None, planned("TCP keepalive is not set; `time` and `idle_time` are the same field")
    ] = None
    retry_policy: Annotated[_Table | None, planned("only calls that never reached a pod are tried again")] = None
    circuit_breakers: Annotated[list[_Table] | None, planned("there are no circuit breakers")] = None
    health_checks: Annotated[list[_Table] | None, planned("pods are not checked actively")] = None
    outlier_detection: Annotated[
        _Anything, planned("failing pods are not ejected; a string never had a meaning in Ambassador either")
    ] = None

    bypass_auth: Annotated[bool | None, planned("there is no authentication to bypass")] = None
    auth_context_extensions: Annotated[_Table | None, planned("there is no authentication service")] = None
    labels: Annotated[_Table | None, planned("there is no rate limiting")] = None
    modules: Annotated[_Anything, no_meaning("Ambassador never read it")] = None
    envoy_override: Annotated[_Anything, no_meaning("there is no Envoy to configure")] = None
    docs: Annotated[_Table | None, no_meaning("there is no developer portal")] = None

    cors: Annotated[_Table | None, http_only("only browsers ask for CORS")] = None
    host_redirect: Annotated[
        bool | None, refused("gRPC clients follow no redirect, and calls would go to its target; leave the Mapping out")
    ] = None
    path_redirect: Annotated[str | None, http_only("gRPC clients follow no redirect")] = None
    prefix_redirect: Annotated[str | None, http_only("gRPC clients follow no redirect")] = None
    regex_redirect: Annotated[_Table | None, http_only("gRPC clients follow no redirect")] = None
    redirect_response_code: Annotated[int | None, http_only("gRPC clients follow no redirect")] = None
    use_websocket: Annotated[bool | None, http_only("gRPC does not upgrade connections")] = None
    allow_upgrade: Annotated[list[str] | None, http_only("gRPC does not upgrade connections")] = None
    error_response_overrides: Annotated[list[_Table] | None, http_only("gRPC errors have no body")] = None
    bypass_error_response_overrides: Annotated[bool | None, http_only("gRPC errors have no body")] = None

    v2BoolHeaders: Annotated[  # noqa: N815 (the name is Ambassador's, here and below)
        list[str] | None, refused("it stands for `headers: {name: true}`; leave it out")
    ] = None
    v2BoolQueryParameters: Annotated[list[str] | None, http_only("a gRPC path has no query")] = None  # noqa: N815
    v2ExplicitTLS: Annotated[_Table | None, no_meaning("`service` and `tls` say it")] = None  # noqa: N815
    v2Representation: Annotated[_Anything, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v2CommaSeparatedOrigins: Annotated[bool | None, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v2Shorthand: Annotated[_Anything, no_meaning("left by a conversion between versions")] = None  # noqa: N815
    v3StatsName: Annotated[str | None, planned("it stands for `stats_name`")] = None  # noqa: N815
    v3health_checks: Annotated[list[_Table] | None, planned("it stands for `health_checks`")] = None


class ResolverSpec(Resource):
    """KubernetesEndpointResolver and KubernetesServiceResolver: their name and kind say all."""

    ambassador_id: _AmbassadorId = None


class ModuleConfig(Resource):
    """The keys of the Module's `config`."""

    resolver: Annotated[str | None, served("default `resolver` of all Mappings")] = None
    load_balancer: Annotated[
        LoadBalancerSpec | None,
        served("default `load_balancer` of the Mappings with an endpoint resolver"),
    ] = None
    cluster_request_timeout_ms: Annotated[
        _Milliseconds | None, served("default `timeout_ms` of all Mappings; 0: none")
    ] = None
    use_ambassador_namespace_for_service_resolution: Annotated[
        bool | None, served("a `service` without a namespace is in the gateway's namespace, not the Mapping's")
    ] = None

    add_linkerd_headers: Annotated[bool | None, planned("no l5d-dst-override header is added")] = None
    buffer_limit_bytes: Annotated[int | None, planned("one message is in flight per stream and direction")] = None
    circuit_breakers: Annotated[list[_Table] | None, planned("there are no circuit breakers")] = None
    cluster_idle_timeout_ms: Annotated[_Milliseconds | None, planned("idle connections to pods stay open")] = None
    cluster_max_connection_lifetime_ms: Annotated[
        _Milliseconds | None, planned("connections to pods have no greatest age")
    ] = None
    default_label_domain: Annotated[str | None, planned("there is no rate limiting")] = None
    default_labels: Annotated[_Table | None, planned("there is no rate limiting")] = None
    defaults: Annotated[_Table | None, planned("the fields it gives defaults for have no effect yet")] = None
    diagnostics: Annotated[_Table | None, planned("the page is on the admin port alone")] = None
    enable_grpc_http11_bridge: Annotated[bool | None, planned("clients speak HTTP/2")] = None
    enable_grpc_web: Annotated[bool | None, planned("clients speak gRPC over HTTP/2")] = None
    enable_ipv4: Annotated[bool | None, planned("addresses of both families are used", True)] = None
    enable_ipv6: Annotated[bool | None, planned("addresses of both families are used", True)] = None
    envoy_log_format: Annotated[_Anything, planned("there is no access log")] = None
    envoy_log_path: Annotated[str | None, planned("there is no access log")] = None
    envoy_log_type: Annotated[str | None, planned("there is no access log")] = None
    forward_client_cert_details: Annotated[str | None, planned("client certificates are not asked for")] = None
    grpc_stats: Annotated[_Table | None, planned("calls are counted by Mapping, service and method always")] = None
    headers_with_underscores_action: Annotated[str | None, planned("such headers are passed on", "ALLOW")] = None
    ip_allow: Annotated[list[_Table] | None, planned("calls from every address are served")] = None
    ip_deny: Annotated[list[_Table] | None, planned("calls from every address are served")] = None
    keepalive: Annotated[_Table | None, planned("TCP keepalive is not set")] = None
    listener_idle_timeout_ms: Annotated[_Milliseconds | None, planned("idle client connections stay open")] = None
    liveness_probe: Annotated[_Table | None, planned("the admin port answers probes")] = None
    max_request_headers_kb: Annotated[int | None, planned("a flag of `grpcgw run` limits the metadata")] = None
    preserve_external_request_id: Annotated[bool | None, planned("a request id from the client is kept", True)] = None
    prune_unreachable_routes: Annotated[bool | None, planned("there are no unreachable routes", True)] = None
    readiness_probe: Annotated[_Table | None, planned("the admin port answers probes")] = None
    regex_max_size: Annotated[int | None, planned("RE2 patterns of any size are accepted")] = None
    retry_policy: Annotated[_Table | None, planned("only calls that never reached a pod are tried again")] = None
    set_current_client_cert_details: Annotated[_Table | None, planned("client certificates are not asked for")] = None
    statsd: Annotated[_Table | None, planned("metrics are on the admin port")] = None
    strip_matching_host_port: Annotated[bool | None, planned("hosts are not matched")] = None
    use_proxy_proto: Annotated[bool | None, planned("the proxy protocol is not read")] = None
    use_remote_address: Annotated[bool | None, planned("the client's address is always the connection's", True)] = None
    xff_num_trusted_hops: Annotated[int | None, planned("no hop is trusted")] = None

    buffer: Annotated[_Table | None, http_only("messages are passed on one by one")] = None
    cors: Annotated[_Table | None, http_only("only browsers ask for CORS")] = None
    enable_http10: Annotated[bool | None, http_only("gRPC is HTTP/2")] = None
    error_response_overrides: Annotated[list[_Table] | None, http_only("gRPC errors have no body")] = None
    gzip: Annotated[_Table | None, http_only("gRPC compresses message by message")] = None
    header_case_overrides: Annotated[_Anything, http_only("HTTP/2 headers are lower case")] = None
    lua_scripts: Annotated[str | None, http_only("there is no Lua")] = None
    merge_slashes: Annotated[bool | None, http_only("gRPC paths are compared as they are")] = None
    proper_case: Annotated[bool | None, http_only("HTTP/2 headers are lower case")] = None
    server_name: Annotated[str | None, http_only("no server header is sent")] = None
    suppress_envoy_headers: Annotated[bool | None, http_only("no Envoy headers are sent", True)] = None
    x_forwarded_proto_redirect: Annotated[bool | None, http_only("gRPC clients follow no redirect")] = None

    admin_port: Annotated[int | None, no_meaning("it was Envoy's; see `grpcgw run --admin-port`")] = None
    envoy_validation_timeout: Annotated[int | None, no_meaning("there is no Envoy to validate")] = None
    runtime_flags: Annotated[_Table | None, no_meaning("there is no Envoy to configure")] = None
    service_port: Annotated[int | None, no_meaning("ports are flags of `grpcgw run`")] = None


class ModuleSpec(Resource):
    ambassador_id: _AmbassadorId = None
    config: Annotated[ModuleConfig | None, served("see the keys below")] = None


class TLSContextSpec(Resource):
    ambassador_id: _AmbassadorId = None
    hosts: Annotated[
        list[str] | None,
        served("names the certificate is for; without, the certificate serves only Hosts that name the TLSContext"),
    ] = None
    secret: Annotated[str | None, served("`name` or `name.namespace` of the Secret with the certificate")] = None
    secret_namespacing: Annotated[
        bool | None, served("default true; `false`: dots in `secret` belong to the name, the namespace is its own")
    ] = None
    alpn_protocols: Annotated[str | None, served("must contain `h2`, which is always offered, alone")] = None
    cert_chain_file: Annotated[str | None, refused("certificates come from a Secret; set `secret`")] = None
    private_key_file: Annotated[str | None, refused("certificates come from a Secret; set `secret`")] = None
    cert_required: Annotated[
        bool | None, refused("client certificates are not checked; every client would be served; leave it out")
    ] = None
    ca_secret: Annotated[str | None, planned("client certificates are not asked for")] = None
    cacert_chain_file: Annotated[str | None, planned("client certificates are not asked for")] = None
    crl_secret: Annotated[str | None, planned("client certificates are not asked for")] = None
    min_tls_version: Annotated[str | None, planned("TLS 1.2 and 1.3 are spoken", "v1.2")] = None
    max_tls_version: Annotated[str | None, planned("TLS 1.2 and 1.3 are spoken", "v1.3")] = None
    cipher_suites: Annotated[list[str] | None, planned("gRPC's own list applies")] = None
    ecdh_curves: Annotated[list[str] | None, planned("gRPC's own list applies")] = None
    redirect_cleartext_from: Annotated[int | None, http_only("gRPC clients follow no redirect")] = None
    sni: Annotated[str | None, planned("pods are spoken to in clear text")] = None


class SecretReference(Resource):
    name: _Text
    namespace: str | None = None


class NameReference(Resource):
    name: _Text


class HostSpec(Resource):
    ambassador_id: _AmbassadorId = None
    hostname: Annotated[str | None, served("name the certificate is for, `*` by default")] = None
    tlsSecret: Annotated[  # noqa: N815 (the name is Ambassador's, here and below)
        SecretReference | None,
        served("the Secret with the certificate, of the Host's namespace by default"),
    ] = None
    tlsContext: Annotated[  # noqa: N815
        NameReference | None,
        served("a TLSContext, whose Secret serves where `tlsSecret` is absent"),
    ] = None
    tls: Annotated[_Table | None, planned("only `tlsSecret` and `tlsContext` are read")] = None
    acmeProvider: Annotated[  # noqa: N815
        _Table | None, no_meaning("certificates are not requested; put one into `tlsSecret`", {"authority": "none"})
    ] = None
    requestPolicy: Annotated[  # noqa: N815
        _Table | None,
        planned("clear text and TLS are both served; gRPC follows no redirect", {"insecure": {"action": "Route"}}),
    ] = None
    selector: Annotated[_Table | None, planned("every Mapping serves every host")] = None
    mappingSelector: Annotated[_Table | None, planned("every Mapping serves every host")] = None  # noqa: N815
    previewUrl: Annotated[_Table | None, no_meaning("Ambassador ignores it too")] = None  # noqa: N815


MODELS: dict[str, type[Resource]] = {
    "Mapping": MappingSpec,
    "KubernetesEndpointResolver": ResolverSpec,
    "KubernetesServiceResolver": ResolverSpec,
    "Module": ModuleSpec,
    "TLSContext": TLSContextSpec,
    "Host": HostSpec,
}
"""The kinds that are served, by name."""

PLANNED_KINDS = {
    "AuthService": "calls are not authenticated",
    "ConsulResolver": "Mappings that name it are left out",
    "DevPortal": "there is no developer portal",
    "Filter": "calls are not filtered",
    "FilterPolicy": "calls are not filtered",
    "Listener": "ports are flags of `grpcgw run`",
    "LogService": "calls are not logged remotely",
    "RateLimit": "calls are not limited",
    "RateLimitService": "calls are not limited",
    "TCPMapping": "only gRPC is served",
    "TracingService": "calls are not traced",
}
"""Ambassador's kinds that are known and have no effect yet, with what that means."""
