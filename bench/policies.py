"""What policies cost: rows of gateways that differ by their policies alone, and what each is held to.

Before anything is timed, each gateway must refuse an RPC that its policy is there to refuse. A limit that refuses none
of the load is held to its rate by `bench.limit_accuracy`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import grpc
from joserfc import jws
from joserfc.jwk import RSAKey

from bench.backend import CHECK_METHOD, DENY, METHOD, make_request, make_ruling
from bench.envoy import envoy
from bench.h2load import Rpc
from bench.pods import (
    NAMESPACE,
    Body,
    Pod,
    describe_endpoints,
    describe_mapping,
    describe_service,
    open_channel,
    running_pods,
)
from bench.proxies import Proxy, Start, grpcgw
from bench.report import Figure, at_most, for_information
from bench.side_by_side import Effort, Row, cpu_ratio, latency_ratio, measure, running_rows
from grpcgw.errors import UserError
from grpcgw.model.metadata import Metadata
from grpcgw.policy.ext_authz.ext_authz_pb2 import CheckRequest
from grpcgw.settings import EngineName

PLAIN, WITH_TOKEN, AUTH, TOKEN, LIMIT, COUNTED, OWN, RULES, ENVOY, ENVOY_AUTH = (
    "plain Mapping",
    "plain Mapping, RPCs with the token",
    "AuthService, gRPC",
    "JWT, RS256",
    "local rate limit",
    "RateLimitService",
    "three own policies",
    "authorization, five rules",
    "Envoy",
    "Envoy with ext_authz",
)
MOST_CPU = {AUTH: 1.9, TOKEN: 1.15, LIMIT: 1.05, OWN: 1.10}
MOST_LATENCY = 1.2
OWN_POLICIES = {
    "GRPCGW_POLICY": "bench.own_policies:ByMetadata bench.own_policies:ByMethod bench.own_policies:ByPeer",
}
"""Environment of a gateway with three of `bench.own_policies` for all calls."""
MANY = 1_000_000_000
"""A rate that no load reaches."""


@dataclass(frozen=True, slots=True)
class Contender:
    start: Start
    refused: tuple[Metadata, grpc.StatusCode] | None = None
    """Metadata with which an RPC is refused, and the code."""


def measure_policies(engine: EngineName, effort: Effort) -> tuple[Row, dict[str, Row]]:
    """The row without a proxy, straight to the service of authorization, and one for each contender."""
    with ExitStack() as stack:
        pods = stack.enter_context(running_pods(2))
        auth = stack.enter_context(running_pods(1))
        contenders = list_contenders(engine, auth)
        starts = [(one.start, pods) for one in contenders.values()]
        rows = dict(zip(contenders, stack.enter_context(running_rows(starts)), strict=True))
        for name, one in contenders.items():
            if one.refused is not None:
                check_refusal(rows[name].proxy, *one.refused)
        direct = Row(Proxy("no proxy, straight to the service of authorization", auth[0].port, (), rpc=CHECK), auth)
        measure([direct, *rows.values()], effort)
    return direct, rows


def list_contenders(engine: EngineName, auth: Sequence[Pod]) -> dict[str, Contender]:
    limited = describe_mapping("greet", "greet")
    limited["spec"]["rate_limit"] = {"rate": MANY, "unit": "second"}
    keys, rpc = make_token()
    denied = ((DENY, "1"),)
    return {
        PLAIN: Contender(grpcgw(engine, PLAIN)),
        WITH_TOKEN: Contender(grpcgw(engine, WITH_TOKEN, rpc=rpc)),
        AUTH: Contender(grpcgw(engine, AUTH, others=describe_auth(auth)), (denied, grpc.StatusCode.PERMISSION_DENIED)),
        TOKEN: Contender(
            grpcgw(engine, TOKEN, others=describe_filter(keys), rpc=rpc), ((), grpc.StatusCode.UNAUTHENTICATED)
        ),
        LIMIT: Contender(grpcgw(engine, LIMIT, mapping=limited)),
        COUNTED: Contender(
            grpcgw(engine, COUNTED, mapping=describe_counted(), others=describe_counter(auth)),
            (denied, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ),
        OWN: Contender(grpcgw(engine, OWN, OWN_POLICIES), (denied, grpc.StatusCode.PERMISSION_DENIED)),
        RULES: Contender(
            grpcgw(engine, RULES, others=describe_rules()), (((DENY, "1"),), grpc.StatusCode.PERMISSION_DENIED)
        ),
        ENVOY: Contender(envoy(ENVOY)),
        ENVOY_AUTH: Contender(envoy(ENVOY_AUTH, auth=auth), (denied, grpc.StatusCode.PERMISSION_DENIED)),
    }


def list_figures(direct: Row, rows: Mapping[str, Row]) -> tuple[Figure, ...]:
    plain, cpu = rows[PLAIN], "CPU per unary RPC"
    added, envoys = added_latency(rows[AUTH], plain, direct), added_latency(rows[ENVOY_AUTH], rows[ENVOY], direct)
    calls_alone = latency_ratio(rows[AUTH], rows[ENVOY_AUTH])
    return (
        *[at_most(f"{cpu}: {name}, x plain", cpu_ratio(rows[name], plain), most) for name, most in MOST_CPU.items()],
        for_information(f"{cpu}: {RULES}, x plain", f"{cpu_ratio(rows[RULES], plain):.2f}"),
        for_information(f"{cpu}: {TOKEN}, x {WITH_TOKEN}", f"{cpu_ratio(rows[TOKEN], rows[WITH_TOKEN]):.2f}"),
        for_information(f"{cpu}: {COUNTED}, x plain", f"{cpu_ratio(rows[COUNTED], plain):.2f}"),
        for_information(f"{cpu}: {ENVOY_AUTH}, x Envoy", f"{cpu_ratio(rows[ENVOY_AUTH], rows[ENVOY]):.2f}"),
        at_most(f"added latency: {AUTH}, x a call straight to the service", added, MOST_LATENCY),
        for_information(f"added latency: {ENVOY_AUTH}, x the same", f"{envoys:.2f}"),
        for_information(f"mean latency, one call at a time: {AUTH}, x {ENVOY_AUTH}", f"{calls_alone:.2f}"),
    )


def added_latency(row: Row, plain: Row, direct: Row) -> float:
    """Median over the rounds, in calls straight to the service."""
    ratios = [
        (mine - its) / call for mine, its, call in zip(row.latency_us, plain.latency_us, direct.latency_us, strict=True)
    ]
    return sorted(ratios)[len(ratios) // 2]


def check_refusal(proxy: Proxy, metadata: Metadata, code: grpc.StatusCode) -> None:
    """Raises UserError unless an RPC with `metadata` ends with `code`, once the gateway is ready."""
    with open_channel(proxy.port, proxy.authority) as channel:
        try:
            channel.unary_unary(METHOD)(make_request(), timeout=20, wait_for_ready=True, metadata=metadata)
        except grpc.RpcError as error:
            if error.code() is code:
                return
            raise UserError(
                f"{proxy.name}: {error.code().name} where {code.name} was due: {error.details()}"
            ) from error
    raise UserError(f"{proxy.name} let an RPC pass that its policy should have refused")


# ---- configuration


def describe_auth(auth: Sequence[Pod]) -> tuple[Body, ...]:
    spec = {"auth_service": f"auth.{NAMESPACE}:50051", "proto": "grpc", "protocol_version": "v3", "resolver": "pods"}
    return (
        {"apiVersion": "getambassador.io/v3alpha1", "kind": "AuthService", **_named("auth"), "spec": spec},
        describe_service("auth"),
        describe_endpoints("auth", auth),
    )


def describe_counted() -> Body:
    """A Mapping with labels: one of all RPCs, and one that makes the service refuse."""
    mapping = describe_mapping("greet", "greet")
    denied = {"request_headers": {"key": DENY, "header_name": DENY, "omit_if_not_present": True}}
    mapping["spec"]["labels"] = {"ambassador": [{"all": [{"generic_key": {"value": "greet"}}, denied]}]}
    return mapping


def describe_counter(service: Sequence[Pod]) -> tuple[Body, ...]:
    spec = {"service": f"limits.{NAMESPACE}:50051", "protocol_version": "v3", "resolver": "pods", "timeout_ms": 10_000}
    kind = {"apiVersion": "getambassador.io/v3alpha1", "kind": "RateLimitService"}
    return (
        {**kind, **_named("limits"), "spec": {**spec, "failure_mode_deny": True}},
        describe_service("limits"),
        describe_endpoints("limits", service),
    )


def describe_filter(keys: str) -> tuple[Body, ...]:
    rule = {"host": "*", "path": "/greet.GrpcService/*", "filters": [{"name": "token"}]}
    jwt = {"jwksSecret": {"name": "keys"}, "validAlgorithms": ["RS256"], "issuer": "bench", "requireIssuer": True}
    api = "getambassador.io/v3alpha1"
    return (
        {"apiVersion": "v1", "kind": "Secret", **_named("keys"), "type": "Opaque", "stringData": {"jwks": keys}},
        {"apiVersion": api, "kind": "Filter", **_named("token"), "spec": {"JWT": jwt}},
        {"apiVersion": api, "kind": "FilterPolicy", **_named("policy"), "spec": {"rules": [rule]}},
    )


def describe_rules() -> tuple[Body, ...]:
    """Two rules that deny and three that allow; the last one allows the load."""
    denied: list[Body] = [
        {"principals": [{"address": "203.0.113.0/24"}]},
        {"permissions": [{"header": {"name": DENY}}]},
    ]
    allowed: list[Body] = [
        {"permissions": [{"method": "/greet.GrpcService/Delete"}], "principals": [{"address": "10.0.0.0/8"}]},
        {"principals": [{"uri": "spiffe://cluster.local/ns/shop/*"}]},
        {"permissions": [{"method": "/greet.GrpcService/*"}], "principals": [{"address": "127.0.0.0/8"}]},
    ]
    api, kind = "grpcgw.io/v1alpha1", "AuthorizationPolicy"
    return (
        {"apiVersion": api, "kind": kind, **_named("deny"), "spec": {"action": "DENY", "rules": denied}},
        {"apiVersion": api, "kind": kind, **_named("allow"), "spec": {"rules": allowed}},
    )


def make_token() -> tuple[str, Rpc]:
    """A key set, and an RPC with a token that one of its keys verifies, with as many claims as tokens usually have."""
    key = RSAKey.generate_key(2048)
    header = {"alg": "RS256", "typ": "JWT", "kid": "bench"}
    claims = {"iss": "bench", "sub": "ann", "aud": "greet", "exp": int(time.time()) + 86_400, "scope": "greet:read",
              "groups": [f"group-{number}" for number in range(10)]}  # fmt: skip
    token = jws.serialize_compact(header, json.dumps(claims), key, algorithms=["RS256"])
    public = {**key.as_dict(private=False), "kid": "bench", "use": "sig"}
    return json.dumps({"keys": [public]}), Rpc(metadata=(("authorization", f"Bearer {token}"),))


def _named(name: str) -> Body:
    return {"metadata": {"name": name, "namespace": NAMESPACE}}


def make_question() -> bytes:
    """What a gateway asks about the RPCs of the load."""
    asked = CheckRequest()
    http = asked.attributes.request.http
    http.method, http.path, http.host, http.scheme = "POST", METHOD, "127.0.0.1", "http"
    http.headers.update({"te": "trailers", "content-type": "application/grpc", "user-agent": "h2load", ":path": METHOD})
    return asked.SerializeToString()


CHECK = Rpc(CHECK_METHOD, make_question(), make_ruling(False))
