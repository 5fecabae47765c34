"""Rate limits: Envoy counts with the gateway's own service, and both do the same with a service's answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from dataplane.lab import Lab
from dataplane.test_rate_limit_server import LIMITS, Serving
from dataplane.test_rate_limit_service import Counter, begin, limited_by, over
from dataplane.waiting import PATIENCE_S
from google.protobuf.duration_pb2 import Duration

from bench.envoy import EXTENSIONS, describe_address, describe_cluster, describe_manager, find_envoy
from bench.pods import Pod
from bench.proxies import serving
from grpcgw.cli.demo_processes import HOST, free_port
from grpcgw.policy.limits.rate_limit_service_pb2 import (
    OK,
    OVER_LIMIT,
    DescriptorStatus,
    HeaderValue,
    Limit,
    RateLimitRequest,
    RateLimitResponse,
    Unit,
)

Body = dict[str, Any]
ACTIONS = [
    [{"generic_key": {"descriptor_value": "all"}}],
    [{"request_headers": {"header_name": "x-tenant", "descriptor_key": "tenant"}}],
]
"""Of the route, as the labels of CONFIGURATION in tests/dataplane/test_rate_limit_service.py."""
COMPARED = ("x-envoy-ratelimited", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "x-plan")


@pytest.fixture
def lab() -> Iterator[Lab]:
    made = Lab("http2")
    yield made
    made.close()


@contextmanager
def running_envoy(folder: Path, greet: int, limits: int, actions: list[list[Body]], **fields: object) -> Iterator[str]:
    """The address of an Envoy before two ports of this machine."""
    port, config = free_port(0), folder / "envoy.json"
    manager = describe_manager(as_emissary=False, scheme="http")
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    route["match"] = {"prefix": "/"}
    route["route"]["rate_limits"] = [{"actions": one} for one in actions]
    manager["http_filters"].insert(0, {"name": "envoy.filters.http.ratelimit", "typed_config": describe_filter(fields)})
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "front", "address": describe_address(port), "filter_chains": [{"filters": filters}]}
    clusters = [
        describe_cluster("pods", [Pod("greet", greet)]),
        describe_cluster("limits", [Pod("limits", limits)]),
    ]
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    command = [str(find_envoy()), "-c", str(config), "--concurrency", "1", "--log-level", "error"]
    with serving([*command, "--use-dynamic-base-id"], port, "Envoy"):
        yield f"{HOST}:{port}"


def describe_filter(fields: Body) -> Body:
    return {
        "@type": f"{EXTENSIONS}.filters.http.ratelimit.v3.RateLimit",
        "domain": "shop",
        "timeout": "20s",
        "rate_limited_as_resource_exhausted": True,
        "enable_x_ratelimit_headers": "DRAFT_VERSION_03",
        "rate_limit_service": {
            "grpc_service": {"envoy_grpc": {"cluster_name": "limits"}},
            "transport_api_version": "V3",
        },
        **fields,
    }


def call(address: str, *metadata: tuple[str, str]) -> grpc.Future:
    channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)])
    with channel:
        made = channel.unary_unary("/test.Pod/Unary").future(b"hi", metadata=metadata, timeout=PATIENCE_S)
        made.code()
    return made


def test_envoy_counts_with_the_limits_of_the_gateway(lab: Lab, tmp_path: Path) -> None:
    gateway = Serving(lab, LIMITS)
    with running_envoy(tmp_path, gateway.greet.port, gateway.port, ACTIONS[1:]) as address:
        by_envoy = [call(address, ("x-tenant", "ann")) for _ in range(2)]
        assert [one.code() for one in by_envoy] == [grpc.StatusCode.OK] * 2
        remaining = [dict(one.initial_metadata())["x-ratelimit-remaining"] for one in by_envoy]
        assert remaining == ["2", "1"]
        assert gateway.call("ann").result() == b"greet:hi"
        refused = call(address, ("x-tenant", "ann"))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        headers = {**dict(refused.initial_metadata()), **dict(refused.trailing_metadata())}
        assert headers["x-ratelimit-limit"] == '3, 3;w=3600;name="limits.default-0"'
        assert call(address, ("x-tenant", "bob")).code() is grpc.StatusCode.OK
        assert call(address).code() is grpc.StatusCode.OK


def plain(request: RateLimitRequest, context: grpc.ServicerContext) -> RateLimitResponse:
    return RateLimitResponse(overall_code=OK)


def headers(request: RateLimitRequest, context: grpc.ServicerContext) -> RateLimitResponse:
    return RateLimitResponse(
        overall_code=OK,
        request_headers_to_add=[HeaderValue(key="x-for-the-pod", value="1")],
        response_headers_to_add=[HeaderValue(key="x-plan", value="gold")],
    )


def two_limits(request: RateLimitRequest, context: grpc.ServicerContext) -> RateLimitResponse:
    by_minute = DescriptorStatus(
        code=OVER_LIMIT,
        current_limit=Limit(requests_per_unit=10, unit=Unit.MINUTE, name="by-minute"),
        duration_until_reset=Duration(seconds=30),
    )
    by_day = DescriptorStatus(
        code=OK,
        current_limit=Limit(requests_per_unit=1000, unit=Unit.DAY),
        limit_remaining=500,
        duration_until_reset=Duration(seconds=3000),
    )
    return RateLimitResponse(overall_code=OVER_LIMIT, raw_body=b"too many", statuses=[by_day, by_minute])


def unknown(request: RateLimitRequest, context: grpc.ServicerContext) -> RateLimitResponse:
    return RateLimitResponse()


@pytest.mark.parametrize("decide", [plain, headers, over, two_limits, unknown])
def test_both_do_the_same_with_an_answer(lab: Lab, tmp_path: Path, decide: Callable[..., RateLimitResponse]) -> None:
    counter, greet = Counter(lab, decide), lab.pod("greet")
    gateway = limited_by(lab, counter.pod, greet=greet)
    ours = begin(lab, gateway, ("x-tenant", "ann"))
    seen = [(ours.code(), ours.details() if ours.code().value[0] else "")]
    with running_envoy(tmp_path, greet.port, counter.pod.port, ACTIONS) as address:
        theirs = call(address, ("x-tenant", "ann"))
    seen.append((theirs.code(), theirs.details() if theirs.code().value[0] else ""))
    assert seen[0] == seen[1]
    assert counter.asked[0] == counter.asked[1], "both ask the same"
    assert [one.values("x-for-the-pod") for one in greet.calls[1:]] == [
        one.values("x-for-the-pod") for one in greet.calls[:1]
    ]
    assert compared(ours) == compared(theirs)
    assert bool(compared(ours)) is (decide not in (plain, unknown))


def compared(made: grpc.Future) -> dict[str, str]:
    found = {**dict(made.initial_metadata()), **dict(made.trailing_metadata())}
    return {key: found[key] for key in COMPARED if key in found}
